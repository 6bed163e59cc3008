/* Block-quantised dot products of two tiles at once in 512-bit registers (AVX-512 VNNI).
 *
 * The low half of a register is one tile, the high half its neighbour. */
#ifndef ES_BLOCK512_H
#define ES_BLOCK512_H

#include "kernels/dense/block256.h"

/* Most tokens that share one unpacked block. */
enum { ES_TOKENS512 = 8 };

ES_INLINE __m256i es_load_two128(const uint8_t *low, const uint8_t *high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                                   _mm_loadu_si128((const __m128i *)high), 1);
}

ES_INLINE __m512i es_load_two256(const uint8_t *low, const uint8_t *high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)low)),
                              _mm256_loadu_si256((const __m256i *)high), 1);
}

/* q6, as es_q6_sums256: adds the sum of stored codes times q to sums[t]. */
ES_INLINE void es_q6_sums512(__m512i *sums, const uint8_t *low, const uint8_t *high,
                             const int16_t *q, size_t q_stride, const int n_tokens) {
    const __m512i first = _mm512_set1_epi16(63), second = _mm512_set1_epi16(63 << 6);
    const __m512i upper = _mm512_set1_epi16(0x30);
    __m512i by64[ES_TOKENS512];
    for (int t = 0; t < n_tokens; t++) {
        by64[t] = _mm512_setzero_si512();
    }
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) {
        const __m512i word = es_load_two256(low + 32 * i, high + 32 * i);
        const __m512i w0 = _mm512_and_si512(word, first), w1 = _mm512_and_si512(word, second);
        for (int t = 0; t < n_tokens; t++) {
            const int16_t *x = q + (size_t)t * q_stride + 2 * i;
            sums[t] = _mm512_dpwssd_epi32(sums[t], w0, _mm512_set1_epi32(es_column_pair(x)));
            by64[t] = _mm512_dpwssd_epi32(by64[t], w1, _mm512_set1_epi32(es_column_pair(x + 12)));
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const int other = 32 * (4 + i / 2);
        const __m512i bits = es_load_two256(low + other, high + other);
        const __m512i two = i % 2 ? _mm512_srli_epi16(bits, 10) : _mm512_srli_epi16(bits, 8);
        const __m512i four = _mm512_srli_epi16(es_load_two256(low + 32 * i, high + 32 * i), 12);
        const __m512i w = _mm512_or_si512(four, _mm512_and_si512(two, upper));
        for (int t = 0; t < n_tokens; t++) {
            const int16_t *x = q + (size_t)t * q_stride + 24 + 2 * i;
            sums[t] = _mm512_dpwssd_epi32(sums[t], w, _mm512_set1_epi32(es_column_pair(x)));
        }
    }
    for (int t = 0; t < n_tokens; t++) {
        sums[t] = _mm512_add_epi32(sums[t], _mm512_srai_epi32(by64[t], 6));
    }
}

/* q8 and q4, as es_byte_sums256: adds the sum of stored codes times q to sums[t]. */
ES_INLINE void es_byte_sums512(__m512i *sums, const uint8_t *low, const uint8_t *high,
                               const int16_t *q, size_t q_stride, const int format,
                               const int n_tokens) {
    const __m512i nibble = _mm512_set1_epi16(15);
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++) {
        __m512i w0, w1;
        int column0, column1;
        if (es_is_nibble(format)) {
            const int at = 16 * g;
            const __m512i both = _mm512_cvtepu8_epi16(es_load_two128(low + at, high + at));
            w0 = _mm512_and_si512(both, nibble);
            w1 = _mm512_srli_epi16(both, 4);
            column0 = 2 * g;
            column1 = 16 + 2 * g;
        } else {
            const int at = 32 * g;
            w0 = _mm512_cvtepi8_epi16(es_load_two128(low + at, high + at));
            w1 = _mm512_cvtepi8_epi16(es_load_two128(low + at + 16, high + at + 16));
            column0 = 4 * g;
            column1 = 4 * g + 2;
        }
        for (int t = 0; t < n_tokens; t++) {
            const int16_t *x = q + (size_t)t * q_stride + column0;
            sums[t] = _mm512_dpwssd_epi32(sums[t], w0, _mm512_set1_epi32(es_column_pair(x)));
        }
        for (int t = 0; t < n_tokens; t++) {
            const int16_t *x = q + (size_t)t * q_stride + column1;
            sums[t] = _mm512_dpwssd_epi32(sums[t], w1, _mm512_set1_epi32(es_column_pair(x)));
        }
    }
}

/* Two tiles for n_tokens (a compile-time 1 to ES_TOKENS512) tokens from `first` on. */
ES_INLINE void es_block_tiles512(float *y, size_t y_stride, const uint8_t *low, const uint8_t *high,
                                 const es_q16 *x, size_t first, int32_t n_blocks, const int format,
                                 const int n_tokens) {
    const size_t row = x->stride_blocks;
    __m512 acc[ES_TOKENS512];
    for (int t = 0; t < n_tokens; t++) {
        acc[t] = _mm512_setzero_ps();
    }
    for (size_t b = 0; b < (size_t)n_blocks; b++) {
        const size_t codes = es_code_offset(format);
        const size_t block = first * row + b;
        __m512i sums[ES_TOKENS512];
        es_prefetch_ahead(low, es_block_bytes(format));
        es_prefetch_ahead(high, es_block_bytes(format));
        for (int t = 0; t < n_tokens; t++) {
            sums[t] = _mm512_setzero_si512();
        }
        const int16_t *x0 = x->q + block * ES_BLOCK;
        if (format == ES_FORMAT_Q6) {
            es_q6_sums512(sums, low + codes, high + codes, x0, row * ES_BLOCK, n_tokens);
        } else {
            es_byte_sums512(sums, low + codes, high + codes, x0, row * ES_BLOCK, format, n_tokens);
        }
        const __m512 d = _mm512_cvtph_ps(es_load_two128(low, high));
        for (int t = 0; t < n_tokens; t++) {
            const size_t i = block + (size_t)t * row;
            __m512i sum = sums[t];
            if (es_code_zero(format)) { /* sum of (stored code - zero) * q */
                const int32_t zeros = es_code_zero(format) * x->sum[i];
                sum = _mm512_sub_epi32(sum, _mm512_set1_epi32(zeros));
            }
            const __m512 step = _mm512_mul_ps(d, _mm512_set1_ps(x->d[i]));
            acc[t] = _mm512_add_ps(acc[t], _mm512_mul_ps(_mm512_cvtepi32_ps(sum), step));
            if (es_has_minimum(format)) {
                const __m512 m =
                    _mm512_cvtph_ps(es_load_two128(low + ES_SCALE_BYTES, high + ES_SCALE_BYTES));
                acc[t] = _mm512_add_ps(acc[t], _mm512_mul_ps(m, _mm512_set1_ps(x->xsum[i])));
            }
        }
        low += es_block_bytes(format);
        high += es_block_bytes(format);
    }
    for (int t = 0; t < n_tokens; t++) {
        _mm512_storeu_ps(y + (first + (size_t)t) * y_stride, acc[t]);
    }
}

/* All tokens of two neighbouring tiles. */
ES_INLINE void es_block_pair512(float *y, size_t y_stride, const uint8_t *low, const uint8_t *high,
                                const es_q16 *x, size_t n_tokens, int32_t n_blocks,
                                const int format) {
    size_t t = 0;
    for (; t + 8 <= n_tokens; t += 8) {
        es_block_tiles512(y, y_stride, low, high, x, t, n_blocks, format, 8);
    }
    if (n_tokens - t >= 4) {
        es_block_tiles512(y, y_stride, low, high, x, t, n_blocks, format, 4);
        t += 4;
    }
    if (n_tokens - t >= 2) {
        es_block_tiles512(y, y_stride, low, high, x, t, n_blocks, format, 2);
        t += 2;
    }
    if (t < n_tokens) {
        es_block_tiles512(y, y_stride, low, high, x, t, n_blocks, format, 1);
    }
}

#endif
