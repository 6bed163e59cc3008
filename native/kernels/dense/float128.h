/* Float-weight dot products in 128-bit registers: two registers are the eight rows of a chain. */
#ifndef ES_FLOAT128_H
#define ES_FLOAT128_H

#include "kernels/dense/dense.h"
#include "kernels/prefetch.h"
#include "kernels/vector/vector_neon.h"

/* Tokens that share one widened column: the 4 chains of each are 16 of 32 registers. */
enum { ES_FLOAT_TOKENS = 2 };

/* The eight rows of one column. */
ES_INLINE float32x4x2_t es_load_column128(const uint8_t *p, const int format) {
    if (format == ES_FORMAT_F32) {
        return vld1q_f32_x2((const float *)(const void *)p);
    }
    if (format == ES_FORMAT_F16) {
        return es_widen_halfs(p);
    }
    const uint16x8_t narrow = vreinterpretq_u16_u8(vld1q_u8(p));
    return (float32x4x2_t){{vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(narrow), 16)),
                            vreinterpretq_f32_u32(vshll_high_n_u16(narrow, 16))}};
}

/* chain[t][c] += column * x, for tokens x_stride apart. */
ES_INLINE void es_float_step128(float32x4_t chain[][4][2], const int c, float32x4x2_t weights,
                                const float *x, size_t x_stride, const int n_tokens) {
    for (int t = 0; t < n_tokens; t++) {
        const float factor = x[(size_t)t * x_stride];
        for (int h = 0; h < 2; h++) {
            chain[t][c][h] = vaddq_f32(chain[t][c][h], vmulq_n_f32(weights.val[h], factor));
        }
    }
}

/* One tile for n_tokens (a compile-time 1 to ES_FLOAT_TOKENS) tokens; y and x start at the first. */
ES_INLINE void es_float_tile128(float *y, size_t y_stride, const uint8_t *w, const float *x,
                                size_t x_stride, size_t k, const int format, const int n_tokens) {
    const size_t column = ES_TILE * es_element_bytes(format);
    float32x4_t chain[ES_FLOAT_TOKENS][4][2];
    for (int t = 0; t < n_tokens; t++) {
        for (int c = 0; c < 4; c++) {
            chain[t][c][0] = chain[t][c][1] = vdupq_n_f32(0.0f);
        }
    }
    size_t i = 0;
    for (; i + 4 <= k; i += 4, w += 4 * column) {
        es_prefetch_ahead(w, 4 * column);
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) {
            es_float_step128(chain, c, es_load_column128(w + (size_t)c * column, format), x + i + c,
                             x_stride, n_tokens);
        }
    }
#pragma GCC unroll 3
    for (int c = 0; c < 3; c++) {
        if (i + (size_t)c < k) {
            es_float_step128(chain, c, es_load_column128(w + (size_t)c * column, format), x + i + c,
                             x_stride, n_tokens);
        }
    }
    for (int t = 0; t < n_tokens; t++) {
        for (int h = 0; h < 2; h++) {
            vst1q_f32(y + (size_t)t * y_stride + 4 * h,
                      vaddq_f32(vaddq_f32(chain[t][0][h], chain[t][1][h]),
                                vaddq_f32(chain[t][2][h], chain[t][3][h])));
        }
    }
}

ES_INLINE void es_float_dot128(float *y, size_t y_stride, const uint8_t *w, int32_t n_tiles,
                               const float *x, size_t x_stride, int32_t n_tokens, int32_t k,
                               const int format) {
    const size_t n = (size_t)n_tokens;
    for (int32_t tile = 0; tile < n_tiles; tile++) {
        size_t t = 0;
        for (; t + ES_FLOAT_TOKENS <= n; t += ES_FLOAT_TOKENS) {
            es_float_tile128(y + t * y_stride, y_stride, w, x + t * x_stride, x_stride, (size_t)k,
                             format, ES_FLOAT_TOKENS);
        }
        for (; t < n; t++) {
            es_float_tile128(y + t * y_stride, y_stride, w, x + t * x_stride, x_stride, (size_t)k,
                             format, 1);
        }
        y += ES_TILE;
        w += (size_t)k * ES_TILE * es_element_bytes(format);
    }
}

#endif
