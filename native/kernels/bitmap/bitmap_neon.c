/* Bitmap formats for NEON (ARMv8.0): smlal, int16 times int16 into int32. */
#include "kernels/bitmap/bitmap_128.h"

#include <string.h>

/* Adds a chunk's products: sum[r] has a lane for each column of row r, 8 * 128 * 32767 at most. */
ES_INLINE void chunk_sums(int32x4_t sum[16], const uint8_t *v, const es_bitmap_places *p,
                          const int16_t *q) {
    const int16x4_t q4 = vld1_s16(q);
    const int16x8_t twice = vcombine_s16(q4, q4);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        const int16x8_t codes = vmovl_s8(es_expand_byte(v, p, i));
        sum[2 * i] = vmlal_s16(sum[2 * i], vget_low_s16(codes), q4);
        sum[2 * i + 1] = vmlal_high_s16(sum[2 * i + 1], codes, twice);
    }
}

ES_INLINE void bitmap_dot(float *y, const uint8_t *w, int32_t n_tiles, const es_q16 *x,
                          const es_split *split, int32_t n_blocks, const int format) {
    (void)split;
    es_bitmap_block block;
    const float32x4_t none = vdupq_n_f32(0.0f);
    for (int32_t tile = 0; tile < n_tiles; tile++, y += ES_BITMAP_ROWS) {
        float32x4_t acc[4] = {none, none, none, none};
        for (size_t b = 0; b < (size_t)n_blocks; b++) {
            int32x4_t sum[16], sums[4];
            for (int r = 0; r < 16; r++) {
                sum[r] = vdupq_n_s32(0);
            }
            es_block_open(&block, w, format);
            for (int c = 0; c < ES_BITMAP_CHUNKS; c++) {
                const uint8_t *v;
                const es_bitmap_places p = es_block_chunk(&block, c, &v, format);
                chunk_sums(sum, v, &p, x->q + 32 * b + 4 * c);
            }
            for (int g = 0; g < 4; g++) {
                sums[g] = vpaddq_s32(vpaddq_s32(sum[4 * g], sum[4 * g + 1]),
                                     vpaddq_s32(sum[4 * g + 2], sum[4 * g + 3]));
            }
            es_bitmap_finish(acc, sums, w, x->d[b]);
            w = es_block_end(&block, format);
        }
        for (int g = 0; g < 4; g++) {
            vst1q_f32(y + 4 * g, acc[g]);
        }
    }
}

/* Two registers of four rows and four columns as two pairs of columns of eight rows. */
ES_INLINE uint8x16x2_t by_pairs(int8x16_t first, int8x16_t second) {
    const uint16x8_t a = vreinterpretq_u16_s8(first), b = vreinterpretq_u16_s8(second);
    return (uint8x16x2_t){
        {vreinterpretq_u8_u16(vuzp1q_u16(a, b)), vreinterpretq_u8_u16(vuzp2q_u16(a, b))}};
}

/* One block into the eight rows of two dense blocks; returns what follows it. */
ES_INLINE const uint8_t *expand_block(uint8_t *const tiles[2], const uint8_t *w, const int format) {
    es_bitmap_block block;
    const uint8x16_t zero = vdupq_n_u8(ES_BITMAP_NIBBLE_ZERO);
    uint8_t *out[2];
    for (int t = 0; t < 2; t++) {
        memcpy(tiles[t], w + ES_SCALE_BYTES * t, ES_SCALE_BYTES);
        out[t] = tiles[t] + ES_SCALE_BYTES;
    }
    es_block_open(&block, w, format);
    for (int c = 0; c < ES_BITMAP_CHUNKS; c++) {
        const uint8_t *v;
        const es_bitmap_places p = es_block_chunk(&block, c, &v, format);
        for (int t = 0; t < 2; t++) {
            const uint8x16x2_t pairs =
                by_pairs(es_expand_sixteen(v, &p, 2 * t), es_expand_sixteen(v, &p, 2 * t + 1));
            for (int i = 0; i < 2; i++) {
                /* Nibbles: columns from 16 on lie above those before. */
                uint8_t *at = out[t] + 16 * (2 * c + i);
                uint8x16_t codes = pairs.val[i];
                if (format == ES_FORMAT_BMP4) {
                    codes = vaddq_u8(codes, zero);
                    if (c >= ES_BITMAP_CHUNKS / 2) {
                        at -= 16 * ES_BITMAP_CHUNKS;
                        codes = vsliq_n_u8(vld1q_u8(at), codes, 4);
                    }
                }
                vst1q_u8(at, codes);
            }
        }
    }
    return es_block_end(&block, format);
}

ES_SPARSE_DOT(, bmp8_dot, bitmap_dot, ES_FORMAT_BMP8)
ES_SPARSE_DOT(, bmp4_dot, bitmap_dot, ES_FORMAT_BMP4)
ES_SPARSE_EXPAND(, bmp8_expand, expand_block, ES_FORMAT_BMP8)
ES_SPARSE_EXPAND(, bmp4_expand, expand_block, ES_FORMAT_BMP4)

void es_bitmap_neon(es_kernels *table) {
    table->bmp8_dot = bmp8_dot;
    table->bmp4_dot = bmp4_dot;
    table->bmp8_expand = bmp8_expand;
    table->bmp4_expand = bmp4_expand;
    table->bitmap_variant = "neon";
}
