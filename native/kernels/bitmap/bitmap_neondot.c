/* Bitmap formats with sdot and udot: a lane of an expanded register is four columns of a row.
 *
 * The int16 inputs are taken apart into upper bytes h, signed, and lower bytes l, unsigned: q = 256 h + l.
 * Signed codes meet l as unsigned ones, code + 128, whose surplus `centre` takes away. Largest sums of a
 * block: 32 * 128 * 128 * 256 < 2^28, 32 * 255 * 255. */
#include "kernels/bitmap/bitmap_128.h"

/* Four bytes in every lane. */
ES_INLINE uint8x16_t four(const uint8_t *bytes) {
    uint32_t all;
    memcpy(&all, bytes, sizeof all);
    return vreinterpretq_u8_u32(vdupq_n_u32(all));
}

ES_INLINE void bitmap_dot(float *y, const uint8_t *w, int32_t n_tiles, const es_q16 *x,
                          const es_split *split, int32_t n_blocks, const int format) {
    es_bitmap_block block;
    const float32x4_t none = vdupq_n_f32(0.0f);
    const uint8x16_t sign = vdupq_n_u8(128);
    for (int32_t tile = 0; tile < n_tiles; tile++, y += ES_BITMAP_ROWS) {
        float32x4_t acc[4] = {none, none, none, none};
        for (size_t b = 0; b < (size_t)n_blocks; b++) {
            const uint8_t *low = split->bytes + 64 * b, *high = low + 32;
            const int32x4_t centre = vdupq_n_s32(split->centre[b]);
            int32x4_t by256[4], sums[4];
            uint32x4_t by1[4];
            for (int g = 0; g < 4; g++) {
                by256[g] = vdupq_n_s32(0);
                by1[g] = vdupq_n_u32(0);
            }
            es_block_open(&block, w, format);
            for (int c = 0; c < ES_BITMAP_CHUNKS; c++) {
                const uint8_t *v;
                const es_bitmap_places p = es_block_chunk(&block, c, &v, format);
                const int8x16_t h = vreinterpretq_s8_u8(four(high + 4 * c));
                const uint8x16_t l = four(low + 4 * c);
#pragma GCC unroll 4
                for (int g = 0; g < 4; g++) {
                    const int8x16_t codes = es_expand_sixteen(v, &p, g);
                    const uint8x16_t stored = veorq_u8(vreinterpretq_u8_s8(codes), sign);
                    by256[g] = vdotq_s32(by256[g], codes, h);
                    by1[g] = vdotq_u32(by1[g], stored, l);
                }
            }
            for (int g = 0; g < 4; g++) {
                const int32x4_t lower = vaddq_s32(vreinterpretq_s32_u32(by1[g]), centre);
                sums[g] = vaddq_s32(lower, vshlq_n_s32(by256[g], 8));
            }
            es_bitmap_finish(acc, sums, w, x->d[b]);
            w = es_block_end(&block, format);
        }
        for (int g = 0; g < 4; g++) {
            vst1q_f32(y + 4 * g, acc[g]);
        }
    }
}

ES_SPARSE_DOT(, bmp8_dot, bitmap_dot, ES_FORMAT_BMP8)
ES_SPARSE_DOT(, bmp4_dot, bitmap_dot, ES_FORMAT_BMP4)

/* Per block 32 lower bytes, then 32 upper ones; centre: -128 times the sum of the lower ones. */
static void split_q16(uint8_t *bytes, int32_t *centre, const int16_t *q, int32_t n_blocks) {
    const uint8x16_t by128 = vdupq_n_u8(128);
    for (size_t b = 0; b < (size_t)n_blocks; b++, bytes += 64) {
        uint32x4_t sums = vdupq_n_u32(0);
        for (size_t i = 0; i < 2; i++) {
            const uint8x16x2_t parts = vld2q_u8((const uint8_t *)(q + 32 * b + 16 * i));
            vst1q_u8(bytes + 16 * i, parts.val[0]);
            vst1q_u8(bytes + 32 + 16 * i, parts.val[1]);
            sums = vdotq_u32(sums, parts.val[0], by128);
        }
        centre[b] = -(int32_t)vaddvq_u32(sums);
    }
}

void es_bitmap_neondot(es_kernels *table) {
    table->bmp8_dot = bmp8_dot;
    table->bmp4_dot = bmp4_dot;
    table->split_q16 = split_q16;
    table->bitmap_variant = "neondot";
}
