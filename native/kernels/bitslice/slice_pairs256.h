/* Bit slices by columns for AVX2: pairs of columns and vpmaddubsw.
 *
 * Two columns' bytes are interleaved; a pair of products is at most 15 * 127 * 2 = 3810. Sums in int16 wrap
 * around, until what the middle of the codes makes too much is taken off: abs(isum) <= 8 * 127 * 32 = 32512.
 * Codes of two bits at bits 2 and 3 are multiplied where they are, as four times their value:
 * 4 * abs(isum) <= 4 * 2 * 127 * 32, the same. */
#ifndef ES_SLICE_PAIRS256_H
#define ES_SLICE_PAIRS256_H

#include "kernels/bitslice/slice_256.h"
#include "kernels/bitslice/slice_line.h"

enum { ES_COLUMNS_AT_ONCE = 2 };

ES_INLINE __m256i add_pairs256(__m256i acc, __m256i codes, __m256i q) {
    acc = _mm256_add_epi16(acc, _mm256_maddubs_epi16(codes, q));
    ES_KEEP_ORDER("x", acc);
    return acc;
}

/* 16 rows' sums, `times` (1 or 4) what they should be, join the floats of 8 rows from f on and of 8 from
 * f + 4 * runs on; zero = middle * sum of q. */
ES_INLINE void collect256(float *f, size_t runs, __m256i sums, int32_t zero, __m256 d,
                          const int is_first, const int times) {
    enum { BASE = 1 << 15 }; /* isum + 2^15 is between 0 and 2^16 */
    const __m256i top = _mm256_set1_epi16(ES_FLOAT_TOP);
    sums = _mm256_add_epi16(sums, _mm256_set1_epi16((short)(BASE - times * zero)));
    sums = times == 4 ? _mm256_srli_epi16(sums, 2) : sums;
    const __m256 base = _mm256_set1_ps((float)(ES_FLOAT_BASE + BASE / times));
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const __m256i wide =
            i ? _mm256_unpackhi_epi16(sums, top) : _mm256_unpacklo_epi16(sums, top);
        const __m256 part = _mm256_mul_ps(_mm256_sub_ps(_mm256_castsi256_ps(wide), base), d);
        float *to = f + (i ? 4 * runs : 0);
        _mm256_storeu_ps(to, is_first ? part : _mm256_add_ps(_mm256_loadu_ps(to), part));
    }
}

ES_INLINE size_t list_line(float *f, const es_line_columns *l, size_t n_lines, float step,
                           int32_t zero, const int is_first, const int planes) {
    (void)n_lines;
    const __m256i three = _mm256_set1_epi8(3), twelve = _mm256_set1_epi8(12);
    const __m256i nibble = _mm256_set1_epi8(15);
    /* Of two bits: [half of the interleaved bytes][bits]. Else: [part of the line][the same half][bits]. */
    __m256i sums[8];
    const int n_vectors = planes == 2 ? 2 : 4;
    for (int i = 0; i < 8; i++) {
        sums[i] = _mm256_setzero_si256();
    }
    for (int32_t p = 0; p < l->n; p++) {
        const uint8_t *a = l->codes + l->pairs[p].a * l->column;
        const uint8_t *b = l->codes + l->pairs[p].b * l->column;
        const __m256i q = _mm256_set1_epi32((int32_t)l->pairs[p].q);
        if (p < l->n_next) {
            es_prefetch_pair(l, p);
        }
#pragma GCC unroll 4
        for (int i = 0; i < n_vectors; i++) {
            const __m256i x = _mm256_loadu_si256((const __m256i *)(a + i / 2 * 32));
            const __m256i y = _mm256_loadu_si256((const __m256i *)(b + i / 2 * 32));
            const __m256i low = i % 2 ? _mm256_unpackhi_epi8(x, y) : _mm256_unpacklo_epi8(x, y);
            const __m256i high = _mm256_srli_epi16(low, 4);
            if (planes == 2) {
                __m256i *to = sums + 4 * i;
                to[0] = add_pairs256(to[0], _mm256_and_si256(low, three), q);
                to[1] = add_pairs256(to[1], _mm256_and_si256(low, twelve), q);
                to[2] = add_pairs256(to[2], _mm256_and_si256(high, three), q);
                to[3] = add_pairs256(to[3], _mm256_and_si256(high, twelve), q);
            } else {
                __m256i *to = sums + 2 * i;
                to[0] = add_pairs256(to[0], _mm256_and_si256(low, nibble), q);
                to[1] = add_pairs256(to[1], _mm256_and_si256(high, nibble), q);
            }
        }
    }
    const __m256 d = _mm256_set1_ps(step);
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++) {
        if (planes == 2) {
            collect256(f + 32 * (i % 4) + 16 * (i / 4), 2, sums[i], zero, d, is_first,
                       i % 2 ? 4 : 1);
        } else {
            collect256(f + 64 * (i % 2) + 32 * (i / 2 % 2) + 8 * (i / 4), 4, sums[i], zero, d,
                       is_first, 1);
        }
    }
    return 1;
}

#endif
