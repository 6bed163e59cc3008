/* Bitmap formats in plain C: the definition for every other instruction set. */
#include "kernels/half.h"

#include <string.h>

#include "kernels/bitmap/bitmap.h"

/* The codes of one chunk, those of value 0 included; returns what follows its stored ones. */
ES_INLINE const uint8_t *expand_chunk(int8_t codes[64], uint64_t word, const uint8_t *v,
                                      int format) {
    size_t n = 0;
    for (int i = 0; i < 64; i++) {
        codes[i] = 0;
        if (word >> i & 1) {
            const int stored = format == ES_FORMAT_BMP8
                                   ? v[n]
                                   : (v[n / 2] >> (4 * (n % 2)) & 15) - ES_BITMAP_NIBBLE_ZERO;
            codes[i] = (int8_t)stored;
            n++;
        }
    }
    return v + es_bitmap_bytes(format, n);
}

ES_INLINE void bitmap_dot(float *y, const uint8_t *w, int32_t n_tiles, const es_q16 *x,
                          const es_split *split, int32_t n_blocks, int format) {
    (void)split;
    for (int32_t tile = 0; tile < n_tiles; tile++, y += ES_BITMAP_ROWS) {
        float acc[ES_BITMAP_ROWS] = {0};
        for (int32_t b = 0; b < n_blocks; b++) {
            int32_t sums[ES_BITMAP_ROWS] = {0};
            const uint8_t *v = w + ES_BITMAP_HEAD;
            for (int c = 0; c < ES_BITMAP_CHUNKS; c++) {
                int8_t codes[64];
                v = expand_chunk(codes, es_bitmap_word(w, c), v, format);
                for (int i = 0; i < 64; i++) {
                    sums[i / 4] += codes[i] * x->q[32 * b + 4 * c + i % 4];
                }
            }
            for (int r = 0; r < ES_BITMAP_ROWS; r++) {
                uint16_t half;
                memcpy(&half, w + 2 * r, sizeof half);
                acc[r] = acc[r] + (float)sums[r] * (es_half_to_float(half) * x->d[b]);
            }
            w = v;
        }
        memcpy(y, acc, sizeof acc);
    }
}

ES_INLINE const uint8_t *expand_block(uint8_t *const tiles[2], const uint8_t *w, int format) {
    const uint8_t *v = w + ES_BITMAP_HEAD;
    int8_t codes[ES_BITMAP_ROWS][ES_BLOCK];
    for (int c = 0; c < ES_BITMAP_CHUNKS; c++) {
        int8_t chunk[64];
        v = expand_chunk(chunk, es_bitmap_word(w, c), v, format);
        for (int i = 0; i < 64; i++) {
            codes[i / 4][4 * c + i % 4] = chunk[i];
        }
    }
    for (int row = 0; row < ES_BITMAP_ROWS; row++) {
        uint8_t *block = tiles[row / ES_TILE];
        uint8_t *at = block + ES_SCALE_BYTES + 2 * (row % ES_TILE);
        memcpy(block + 2 * (row % ES_TILE), w + 2 * row, 2);
        if (format == ES_FORMAT_BMP8) {
            for (int i = 0; i < ES_BLOCK; i++) {
                at[i / 2 * 16 + i % 2] = (uint8_t)codes[row][i];
            }
        } else {
            for (int i = 0; i < ES_BLOCK / 2; i++) {
                const int low = codes[row][i] + ES_BITMAP_NIBBLE_ZERO;
                const int high = codes[row][16 + i] + ES_BITMAP_NIBBLE_ZERO;
                at[i / 2 * 16 + i % 2] = (uint8_t)(low | high << 4);
            }
        }
    }
    return v;
}

ES_SPARSE_DOT(, bmp8_dot, bitmap_dot, ES_FORMAT_BMP8)
ES_SPARSE_DOT(, bmp4_dot, bitmap_dot, ES_FORMAT_BMP4)
ES_SPARSE_EXPAND(, bmp8_expand, expand_block, ES_FORMAT_BMP8)
ES_SPARSE_EXPAND(, bmp4_expand, expand_block, ES_FORMAT_BMP4)

void es_bitmap_scalar(es_kernels *table) {
    table->bmp8_dot = bmp8_dot;
    table->bmp4_dot = bmp4_dot;
    table->bmp8_expand = bmp8_expand;
    table->bmp4_expand = bmp4_expand;
    table->bitmap_variant = "scalar";
}
