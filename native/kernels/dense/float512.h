/* Float-weight dot products of two tiles at once in 512-bit registers: the low half of a register
 * is one tile, the high half its neighbour. */
#ifndef ES_FLOAT512_H
#define ES_FLOAT512_H

#include "kernels/dense/block512.h"
#include "kernels/dense/float256.h"

/* The sixteen rows of one column. */
ES_INLINE __m512 es_load_column512(const uint8_t *low, const uint8_t *high, const int format) {
    if (format == ES_FORMAT_F32) {
        return _mm512_insertf32x8(_mm512_castps256_ps512(es_load_column256(low, format)),
                                  es_load_column256(high, format), 1);
    }
    const __m256i narrow = es_load_two128(low, high);
    if (format == ES_FORMAT_F16) {
        return _mm512_cvtph_ps(narrow);
    }
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

/* chain[t] += column i of the two tiles * x, for one of the four chains. */
ES_INLINE void es_float_step512(__m512 chain[][4], const int c, __m512 weights, const float *x,
                                size_t x_stride, const int n_tokens) {
    for (int t = 0; t < n_tokens; t++) {
        const __m512 xs = _mm512_set1_ps(x[(size_t)t * x_stride]);
        chain[t][c] = _mm512_add_ps(chain[t][c], _mm512_mul_ps(weights, xs));
    }
}

/* Two tiles for n_tokens (a compile-time 1 to 4) tokens; y and x start at the first. */
ES_INLINE void es_float_tiles512(float *y, size_t y_stride, const uint8_t *low, const uint8_t *high,
                                 const float *x, size_t x_stride, size_t k, const int format,
                                 const int n_tokens) {
    const size_t column = ES_TILE * es_element_bytes(format);
    __m512 chain[4][4];
    for (int t = 0; t < n_tokens; t++) {
        chain[t][0] = chain[t][1] = chain[t][2] = chain[t][3] = _mm512_setzero_ps();
    }
    size_t i = 0;
    for (; i + 4 <= k; i += 4) {
        es_prefetch_ahead(low, 4 * column);
        es_prefetch_ahead(high, 4 * column);
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) {
            const __m512 weights = es_load_column512(low, high, format);
            es_float_step512(chain, c, weights, x + i + c, x_stride, n_tokens);
            low += column;
            high += column;
        }
    }
#pragma GCC unroll 3
    for (int c = 0; c < 3; c++) {
        if (i + (size_t)c < k) {
            const size_t at = (size_t)c * column;
            const __m512 weights = es_load_column512(low + at, high + at, format);
            es_float_step512(chain, c, weights, x + i + c, x_stride, n_tokens);
        }
    }
    for (int t = 0; t < n_tokens; t++) {
        _mm512_storeu_ps(y + (size_t)t * y_stride,
                         _mm512_add_ps(_mm512_add_ps(chain[t][0], chain[t][1]),
                                       _mm512_add_ps(chain[t][2], chain[t][3])));
    }
}

/* All tokens of two neighbouring tiles. */
ES_INLINE void es_float_pair512(float *y, size_t y_stride, const uint8_t *low, const uint8_t *high,
                                const float *x, size_t x_stride, size_t n_tokens, size_t k,
                                const int format) {
    size_t t = 0;
    for (; t + 4 <= n_tokens; t += 4) {
        es_float_tiles512(y + t * y_stride, y_stride, low, high, x + t * x_stride, x_stride, k,
                          format, 4);
    }
    if (n_tokens - t >= 2) {
        es_float_tiles512(y + t * y_stride, y_stride, low, high, x + t * x_stride, x_stride, k,
                          format, 2);
        t += 2;
    }
    if (t < n_tokens) {
        es_float_tiles512(y + t * y_stride, y_stride, low, high, x + t * x_stride, x_stride, k,
                          format, 1);
    }
}

#endif
