/* 2:4 in plain C: the definition for every other instruction set. */
#include "kernels/half.h"

#include "kernels/nm/nm.h"

ES_INLINE void nm_dot(float *y, const uint8_t *w, int32_t n_tiles, const es_q16 *x,
                      const es_split *split, int32_t n_blocks, const int format) {
    (void)split;
    for (int32_t tile = 0; tile < n_tiles; tile++, y += ES_BITMAP_ROWS) {
        float acc[ES_BITMAP_ROWS] = {0};
        for (int32_t b = 0; b < n_blocks; b++, w += es_nm_block_bytes(format)) {
            int32_t sums[ES_BITMAP_ROWS] = {0};
            uint16_t places[2 * ES_BITMAP_ROWS];
            memcpy(places, w + ES_NM_PLACES, sizeof places);
            for (int s = 0; s < ES_NM_CHUNKS; s++) {
                int8_t codes[64];
                es_nm_chunk(codes, w, s, format);
                for (int i = 0; i < 64; i++) { /* byte 4r + 2j + h */
                    const int group = s + 4 * (i % 2);
                    const int column = 4 * group + (places[i / 2] >> (2 * group) & 3);
                    sums[i / 4] += codes[i] * x->q[32 * b + column];
                }
            }
            for (int r = 0; r < ES_BITMAP_ROWS; r++) {
                uint16_t half;
                memcpy(&half, w + 2 * r, sizeof half);
                acc[r] = acc[r] + (float)sums[r] * (es_half_to_float(half) * x->d[b]);
            }
        }
        memcpy(y, acc, sizeof acc);
    }
}

ES_SPARSE_DOT(, nm8_dot, nm_dot, ES_FORMAT_NM8)
ES_SPARSE_DOT(, nm4_dot, nm_dot, ES_FORMAT_NM4)
ES_SPARSE_EXPAND(, nm8_expand, es_nm_expand_block, ES_FORMAT_NM8)
ES_SPARSE_EXPAND(, nm4_expand, es_nm_expand_block, ES_FORMAT_NM4)

void es_nm_scalar(es_kernels *table) {
    table->nm8_dot = nm8_dot;
    table->nm4_dot = nm4_dot;
    table->nm8_expand = nm8_expand;
    table->nm4_expand = nm4_expand;
    table->nm_variant = "scalar";
}
