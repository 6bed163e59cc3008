/* q6: sums of one block in 256-bit registers; included after es_madd256 is defined.
 *
 * A word holds two whole codes, in bits 0-5 and 6-11. Each is cut out by one mask and no shift: the
 * second comes out 64 times too large, has an accumulator of its own, and is shifted once per block.
 * That is exact: twelve columns * 63 * 32767 * 64 < 2^31. Only the last eight columns are pieced
 * together, from the four bits above. So a column pair costs 1.75 instructions to unpack, as much as
 * q4 does; planes of four and two bits would cost over 4. */
#ifndef ES_Q6_256_H
#define ES_Q6_256_H

#include "kernels/dense/dense.h"

#include <immintrin.h>
#include <string.h>

/* Two neighbouring activations as they lie, for a broadcast. */
ES_INLINE int32_t es_column_pair(const int16_t *q) {
    int32_t pair;
    memcpy(&pair, q, sizeof pair);
    return pair;
}

ES_INLINE __m256i es_q6_words256(const uint8_t *codes, const int i) {
    return _mm256_loadu_si256((const __m256i *)(codes + 32 * i));
}

/* The sum of stored codes (0 to 63) times q is a[t] + b[t]; both start as zero.
 * Token t's block of activations starts at q + t * q_stride. */
ES_INLINE void es_q6_sums256(__m256i *a, __m256i *b, const uint8_t *codes, const int16_t *q,
                             size_t q_stride, const int n_tokens) {
    const __m256i first = _mm256_set1_epi16(63), second = _mm256_set1_epi16(63 << 6);
    const __m256i upper = _mm256_set1_epi16(0x30);
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) {
        const __m256i word = es_q6_words256(codes, i);
        const __m256i w0 = _mm256_and_si256(word, first), w1 = _mm256_and_si256(word, second);
        for (int t = 0; t < n_tokens; t++) {
            const int16_t *x = q + (size_t)t * q_stride + 2 * i;
            a[t] = es_madd256(a[t], w0, _mm256_set1_epi32(es_column_pair(x)));
            b[t] = es_madd256(b[t], w1, _mm256_set1_epi32(es_column_pair(x + 12)));
        }
    }
    for (int t = 0; t < n_tokens; t++) {
        b[t] = _mm256_srai_epi32(b[t], 6);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m256i bits = es_q6_words256(codes, 4 + i / 2);
        const __m256i two = i % 2 ? _mm256_srli_epi16(bits, 10) : _mm256_srli_epi16(bits, 8);
        const __m256i four = _mm256_srli_epi16(es_q6_words256(codes, i), 12);
        const __m256i w = _mm256_or_si256(four, _mm256_and_si256(two, upper));
        for (int t = 0; t < n_tokens; t++) {
            const int16_t *x = q + (size_t)t * q_stride + 24 + 2 * i;
            b[t] = es_madd256(b[t], w, _mm256_set1_epi32(es_column_pair(x)));
        }
    }
}

#endif
