/* Dense dot products in plain C: the definition for every other instruction set.
 *
 * Inner loops run over the eight rows of a tile, which is the shape that compilers vectorise. */
#include "kernels/dense/dense.h"
#include "kernels/half.h"

#include <string.h>

/* Tokens that share one unpacked block. */
enum { TOKENS = 4 };

/* Codes of one block as int16 in the order column pair, row, column of the pair, centred. */
ES_INLINE void unpack(int16_t codes[ES_BLOCK * ES_TILE], const uint8_t *stored, int format) {
    if (format == ES_FORMAT_Q6) {
        for (int i = 0; i < ES_BLOCK * ES_TILE; i++) {
            const int column = i / (2 * ES_TILE) * 2 + i % 2;
            codes[i] = (int16_t)(es_q6_stored(stored, i / 2 % ES_TILE, column) - 32);
        }
        return;
    }
    if (!es_is_nibble(format)) {
        for (int i = 0; i < ES_BLOCK * ES_TILE; i++) {
            codes[i] = (int8_t)stored[i];
        }
        return;
    }
    const int half = ES_BLOCK * ES_TILE / 2;
    const int zero = es_code_zero(format);
    for (int i = 0; i < half; i++) {
        codes[i] = (int16_t)((stored[i] & 15) - zero);
        codes[half + i] = (int16_t)((stored[i] >> 4) - zero);
    }
}

ES_INLINE void unpack_halfs(float out[ES_TILE], const uint8_t *stored) {
    uint16_t halfs[ES_TILE];
    memcpy(halfs, stored, sizeof halfs);
    for (int r = 0; r < ES_TILE; r++) {
        out[r] = es_half_to_float(halfs[r]);
    }
}

/* One tile for `n` tokens from `first` on. */
ES_INLINE void block_tile(float *y, size_t y_stride, const uint8_t *w, const es_q16 *x,
                          size_t first, size_t n, int32_t n_blocks, int format) {
    float acc[TOKENS][ES_TILE] = {{0}};
    for (size_t b = 0; b < (size_t)n_blocks; b++, w += es_block_bytes(format)) {
        int16_t codes[ES_BLOCK * ES_TILE];
        float d[ES_TILE], m[ES_TILE];
        unpack(codes, w + es_code_offset(format), format);
        unpack_halfs(d, w);
        if (es_has_minimum(format)) {
            unpack_halfs(m, w + ES_SCALE_BYTES);
        }
        for (size_t t = 0; t < n; t++) {
            const size_t block = (first + t) * x->stride_blocks + b;
            const int16_t *q = x->q + block * ES_BLOCK;
            int32_t sums[ES_TILE] = {0};
            for (int c = 0; c < ES_BLOCK / 2; c++) {
                for (int r = 0; r < ES_TILE; r++) {
                    const int16_t *pair = codes + 2 * (c * ES_TILE + r);
                    sums[r] += pair[0] * q[2 * c] + pair[1] * q[2 * c + 1];
                }
            }
            for (int r = 0; r < ES_TILE; r++) {
                acc[t][r] = acc[t][r] + (float)sums[r] * (d[r] * x->d[block]);
                if (es_has_minimum(format)) {
                    acc[t][r] = acc[t][r] + m[r] * x->xsum[block];
                }
            }
        }
    }
    for (size_t t = 0; t < n; t++) {
        memcpy(y + (first + t) * y_stride, acc[t], sizeof acc[t]);
    }
}

ES_INLINE void block_dot(float *y, size_t y_stride, const uint8_t *w, int32_t n_tiles,
                         const es_q16 *x, int32_t n_tokens, int32_t n_blocks, int format) {
    for (int32_t tile = 0; tile < n_tiles; tile++) {
        for (int32_t t = 0; t < n_tokens; t += TOKENS) {
            const int32_t left = n_tokens - t;
            block_tile(y, y_stride, w, x, (size_t)t, (size_t)(left < TOKENS ? left : TOKENS),
                       n_blocks, format);
        }
        y += ES_TILE;
        w += (size_t)n_blocks * es_block_bytes(format);
    }
}

ES_INLINE float element(const uint8_t *w, size_t i, int format) {
    uint16_t narrow;
    float wide;
    if (format == ES_FORMAT_F32) {
        memcpy(&wide, w + 4 * i, sizeof wide);
        return wide;
    }
    memcpy(&narrow, w + 2 * i, sizeof narrow);
    return format == ES_FORMAT_F16 ? es_half_to_float(narrow) : es_bfloat_to_float(narrow);
}

ES_INLINE void float_dot(float *y, size_t y_stride, const uint8_t *w, int32_t n_tiles,
                         const float *x, size_t x_stride, int32_t n_tokens, int32_t k, int format) {
    for (int32_t tile = 0; tile < n_tiles; tile++) {
        for (size_t t = 0; t < (size_t)n_tokens; t++) {
            const float *row = x + t * x_stride;
            float chain[4][ES_TILE] = {{0}};
            for (size_t i = 0; i < (size_t)k; i++) {
                for (size_t r = 0; r < ES_TILE; r++) {
                    chain[i % 4][r] += element(w, i * ES_TILE + r, format) * row[i];
                }
            }
            for (int r = 0; r < ES_TILE; r++) {
                y[t * y_stride + (size_t)r] =
                    (chain[0][r] + chain[1][r]) + (chain[2][r] + chain[3][r]);
            }
        }
        y += ES_TILE;
        w += (size_t)k * ES_TILE * es_element_bytes(format);
    }
}

#include "kernels/dense/dense_table.h"

ES_DENSE_BLOCK_KERNELS
ES_DENSE_FLOAT_KERNELS

void es_dense_scalar(es_kernels *table) {
    ES_DENSE_SET_BLOCKS(table, "scalar");
    ES_DENSE_SET_FLOATS(table, "scalar");
}
