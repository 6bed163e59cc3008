/* The frame of block-quantised dot products in 128-bit registers; NEON and its dot product share it.
 *
 * The including file defines
 *   es_block_sums(sums, codes, q, q_stride, format, n_tokens)
 *       sums[t] = for each row of the tile, the sum of stored codes times q over one block; token t's
 *       32 activations start at q + t * q_stride
 * and ES_BLOCK_TOKENS, the most tokens (2 or 4) that share one unpacked block.
 * Integer sums are exact in any order; only the float line per block has an order, and it is the same
 * everywhere. */
#ifndef ES_BLOCK128_H
#define ES_BLOCK128_H

#include "kernels/dense/dense.h"
#include "kernels/prefetch.h"
#include "kernels/vector/vector_neon.h"

/* Adds one block's products to the eight outputs of one token; block is its place in x. */
ES_INLINE void es_block_finish(float32x4_t acc[2], int32x4x2_t sums, float32x4x2_t d,
                               float32x4x2_t m, const es_q16 *x, size_t block, const int format) {
    for (int h = 0; h < 2; h++) {
        int32x4_t sum = sums.val[h];
        if (es_code_zero(format)) { /* sum of (stored code - zero) * q */
            sum = vsubq_s32(sum, vdupq_n_s32(es_code_zero(format) * x->sum[block]));
        }
        const float32x4_t step = vmulq_n_f32(d.val[h], x->d[block]);
        acc[h] = vaddq_f32(acc[h], vmulq_f32(vcvtq_f32_s32(sum), step));
        if (es_has_minimum(format)) {
            acc[h] = vaddq_f32(acc[h], vmulq_n_f32(m.val[h], x->xsum[block]));
        }
    }
}

/* One tile for n_tokens (a compile-time 1 to ES_BLOCK_TOKENS) tokens from `first` on. */
ES_INLINE void es_block_tile128(float *y, size_t y_stride, const uint8_t *w, const es_q16 *x,
                                size_t first, int32_t n_blocks, const int format,
                                const int n_tokens) {
    const size_t row = x->stride_blocks;
    float32x4_t acc[ES_BLOCK_TOKENS][2];
    for (int t = 0; t < n_tokens; t++) {
        acc[t][0] = acc[t][1] = vdupq_n_f32(0.0f);
    }
    for (size_t b = 0; b < (size_t)n_blocks; b++, w += es_block_bytes(format)) {
        const size_t block = first * row + b;
        int32x4x2_t sums[ES_BLOCK_TOKENS];
        es_prefetch_ahead(w, es_block_bytes(format));
        es_block_sums(sums, w + es_code_offset(format), x->q + block * ES_BLOCK, row * ES_BLOCK,
                      format, n_tokens);
        const float32x4x2_t d = es_widen_halfs(w);
        const float32x4x2_t m = es_widen_halfs(w + (es_has_minimum(format) ? ES_SCALE_BYTES : 0));
        for (int t = 0; t < n_tokens; t++) {
            es_block_finish(acc[t], sums[t], d, m, x, block + (size_t)t * row, format);
        }
    }
    for (int t = 0; t < n_tokens; t++) {
        vst1q_f32(y + (first + (size_t)t) * y_stride, acc[t][0]);
        vst1q_f32(y + (first + (size_t)t) * y_stride + 4, acc[t][1]);
    }
}

/* Tiles [0, n_tiles), in the order in which they lie in memory. */
ES_INLINE void es_block_dot128(float *y, size_t y_stride, const uint8_t *w, int32_t n_tiles,
                               const es_q16 *x, int32_t n_tokens, int32_t n_blocks,
                               const int format) {
    const size_t n = (size_t)n_tokens;
    for (int32_t tile = 0; tile < n_tiles; tile++) {
        size_t t = 0;
        for (; t + ES_BLOCK_TOKENS <= n; t += ES_BLOCK_TOKENS) {
            es_block_tile128(y, y_stride, w, x, t, n_blocks, format, ES_BLOCK_TOKENS);
        }
        if (ES_BLOCK_TOKENS == 4 && n - t >= 2) {
            es_block_tile128(y, y_stride, w, x, t, n_blocks, format, 2);
            t += 2;
        }
        if (t < n) {
            es_block_tile128(y, y_stride, w, x, t, n_blocks, format, 1);
        }
        y += ES_TILE;
        w += (size_t)n_blocks * es_block_bytes(format);
    }
}

#endif
