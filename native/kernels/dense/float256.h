/* Float-weight dot products in 256-bit registers: a lane is a row, a register a chain. */
#ifndef ES_FLOAT256_H
#define ES_FLOAT256_H

#include "kernels/dense/dense.h"
#include "kernels/prefetch.h"

#include <immintrin.h>

/* Tokens that share one widened column: the 4 chains of each have to stay in 16 registers. */
enum { ES_FLOAT_TOKENS = 2 };

/* The eight rows of one column. */
ES_INLINE __m256 es_load_column256(const uint8_t *p, const int format) {
    if (format == ES_FORMAT_F32) {
        return _mm256_loadu_ps((const float *)(const void *)p);
    }
    const __m128i narrow = _mm_loadu_si128((const __m128i *)p);
    if (format == ES_FORMAT_F16) {
        return _mm256_cvtph_ps(narrow);
    }
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16));
}

/* One tile for n_tokens (a compile-time 1 to ES_FLOAT_TOKENS) tokens; y and x start at the first.
 */
ES_INLINE void es_float_tile256(float *y, size_t y_stride, const uint8_t *w, const float *x,
                                size_t x_stride, size_t k, const int format, const int n_tokens) {
    const size_t column = ES_TILE * es_element_bytes(format);
    __m256 chain[ES_FLOAT_TOKENS][4];
    for (int t = 0; t < n_tokens; t++) {
        chain[t][0] = chain[t][1] = chain[t][2] = chain[t][3] = _mm256_setzero_ps();
    }
    size_t i = 0;
    for (; i + 4 <= k; i += 4, w += 4 * column) {
        es_prefetch_ahead(w, 4 * column);
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) {
            const __m256 weights = es_load_column256(w + (size_t)c * column, format);
            for (int t = 0; t < n_tokens; t++) {
                const __m256 xs = _mm256_set1_ps(x[(size_t)t * x_stride + i + (size_t)c]);
                chain[t][c] = _mm256_add_ps(chain[t][c], _mm256_mul_ps(weights, xs));
            }
        }
    }
#pragma GCC unroll 3
    for (int c = 0; c < 3; c++) {
        if (i + (size_t)c < k) {
            const __m256 weights = es_load_column256(w + (size_t)c * column, format);
            for (int t = 0; t < n_tokens; t++) {
                const __m256 xs = _mm256_set1_ps(x[(size_t)t * x_stride + i + (size_t)c]);
                chain[t][c] = _mm256_add_ps(chain[t][c], _mm256_mul_ps(weights, xs));
            }
        }
    }
    for (int t = 0; t < n_tokens; t++) {
        _mm256_storeu_ps(y + (size_t)t * y_stride,
                         _mm256_add_ps(_mm256_add_ps(chain[t][0], chain[t][1]),
                                       _mm256_add_ps(chain[t][2], chain[t][3])));
    }
}

ES_INLINE void es_float_dot256(float *y, size_t y_stride, const uint8_t *w, int32_t n_tiles,
                               const float *x, size_t x_stride, int32_t n_tokens, int32_t k,
                               const int format) {
    const size_t n = (size_t)n_tokens;
    for (int32_t tile = 0; tile < n_tiles; tile++) {
        size_t t = 0;
        for (; t + ES_FLOAT_TOKENS <= n; t += ES_FLOAT_TOKENS) {
            es_float_tile256(y + t * y_stride, y_stride, w, x + t * x_stride, x_stride, (size_t)k,
                             format, ES_FLOAT_TOKENS);
        }
        for (; t < n; t++) {
            es_float_tile256(y + t * y_stride, y_stride, w, x + t * x_stride, x_stride, (size_t)k,
                             format, 1);
        }
        y += ES_TILE;
        w += (size_t)k * ES_TILE * es_element_bytes(format);
    }
}

#endif
