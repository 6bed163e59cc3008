/* Block-quantised dot products in 256-bit registers, shared by AVX2, AVX-VNNI and AVX-512 VNNI.
 *
 * The including file defines es_madd256(acc, a, b): acc plus, in each 32-bit lane, the sum of the
 * two products of int16. A lane is a row of the tile, so a block needs no horizontal sum: one pair
 * of columns is broadcast to all rows. Integer sums are exact in any order; only the float line per
 * block has an order, and it is the same everywhere. */
#ifndef ES_BLOCK256_H
#define ES_BLOCK256_H

#include "kernels/dense/q6_256.h"
#include "kernels/prefetch.h"

/* Most tokens that share one unpacked block. */
enum { ES_TOKENS256 = 4 };

ES_INLINE __m256 es_load_halfs256(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

/* q8 and q4: the sum of stored codes times q is even[t] + odd[t]; both start as zero.
 * Token t's block of activations starts at q + t * q_stride. */
ES_INLINE void es_byte_sums256(__m256i *even, __m256i *odd, const uint8_t *codes, const int16_t *q,
                               size_t q_stride, const int format, const int n_tokens) {
    const __m256i nibble = _mm256_set1_epi16(15);
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++) {
        __m256i w0, w1;
        int column0, column1;
        if (es_is_nibble(format)) {
            const __m128i bytes = _mm_loadu_si128((const __m128i *)(codes + 16 * g));
            const __m256i both = _mm256_cvtepu8_epi16(bytes);
            w0 = _mm256_and_si256(both, nibble);
            w1 = _mm256_srli_epi16(both, 4);
            column0 = 2 * g;
            column1 = 16 + 2 * g;
        } else {
            const __m128i *bytes = (const __m128i *)(codes + 32 * g);
            w0 = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes));
            w1 = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes + 1));
            column0 = 4 * g;
            column1 = 4 * g + 2;
        }
        for (int t = 0; t < n_tokens; t++) {
            const int16_t *x = q + (size_t)t * q_stride;
            even[t] = es_madd256(even[t], w0, _mm256_set1_epi32(es_column_pair(x + column0)));
            odd[t] = es_madd256(odd[t], w1, _mm256_set1_epi32(es_column_pair(x + column1)));
        }
    }
}

/* One tile for n_tokens (a compile-time 1 to ES_TOKENS256) tokens from `first` on. */
ES_INLINE void es_block_tile256(float *y, size_t y_stride, const uint8_t *w, const es_q16 *x,
                                size_t first, int32_t n_blocks, const int format,
                                const int n_tokens) {
    const size_t row = x->stride_blocks;
    __m256 acc[ES_TOKENS256];
    for (int t = 0; t < n_tokens; t++) {
        acc[t] = _mm256_setzero_ps();
    }
    for (size_t b = 0; b < (size_t)n_blocks; b++, w += es_block_bytes(format)) {
        const uint8_t *codes = w + es_code_offset(format);
        const size_t block = first * row + b;
        __m256i even[ES_TOKENS256], odd[ES_TOKENS256]; /* independent chains hide the latency */
        es_prefetch_ahead(w, es_block_bytes(format));
        for (int t = 0; t < n_tokens; t++) {
            even[t] = odd[t] = _mm256_setzero_si256();
        }
        const int16_t *x0 = x->q + block * ES_BLOCK;
        if (format == ES_FORMAT_Q6) {
            es_q6_sums256(even, odd, codes, x0, row * ES_BLOCK, n_tokens);
        } else {
            es_byte_sums256(even, odd, codes, x0, row * ES_BLOCK, format, n_tokens);
        }
        const __m256 d = es_load_halfs256(w);
        for (int t = 0; t < n_tokens; t++) {
            const size_t i = block + (size_t)t * row;
            __m256i sum = _mm256_add_epi32(even[t], odd[t]);
            if (es_code_zero(format)) { /* sum of (stored code - zero) * q */
                const int32_t zeros = es_code_zero(format) * x->sum[i];
                sum = _mm256_sub_epi32(sum, _mm256_set1_epi32(zeros));
            }
            const __m256 step = _mm256_mul_ps(d, _mm256_set1_ps(x->d[i]));
            acc[t] = _mm256_add_ps(acc[t], _mm256_mul_ps(_mm256_cvtepi32_ps(sum), step));
            if (es_has_minimum(format)) {
                const __m256 m = es_load_halfs256(w + ES_SCALE_BYTES);
                acc[t] = _mm256_add_ps(acc[t], _mm256_mul_ps(m, _mm256_set1_ps(x->xsum[i])));
            }
        }
    }
    for (int t = 0; t < n_tokens; t++) {
        _mm256_storeu_ps(y + (first + (size_t)t) * y_stride, acc[t]);
    }
}

/* All tokens of one tile. */
ES_INLINE void es_block_row256(float *y, size_t y_stride, const uint8_t *w, const es_q16 *x,
                               size_t n_tokens, int32_t n_blocks, const int format) {
    size_t t = 0;
    for (; t + 4 <= n_tokens; t += 4) {
        es_block_tile256(y, y_stride, w, x, t, n_blocks, format, 4);
    }
    if (n_tokens - t >= 2) {
        es_block_tile256(y, y_stride, w, x, t, n_blocks, format, 2);
        t += 2;
    }
    if (t < n_tokens) {
        es_block_tile256(y, y_stride, w, x, t, n_blocks, format, 1);
    }
}

/* Tiles [0, n_tiles), in the order in which they lie in memory. */
ES_INLINE void es_block_dot256(float *y, size_t y_stride, const uint8_t *w, int32_t n_tiles,
                               const es_q16 *x, int32_t n_tokens, int32_t n_blocks,
                               const int format) {
    for (int32_t tile = 0; tile < n_tiles; tile++) {
        es_block_row256(y, y_stride, w, x, (size_t)n_tokens, n_blocks, format);
        y += ES_TILE;
        w += (size_t)n_blocks * es_block_bytes(format);
    }
}

#endif
