/* 2:4 for NEON (ARMv8.0): smlal, int16 times int16 into int32. */
#include "kernels/nm/nm_128.h"

/* Adds the products of four rows: sum[r] has a lane for each of a row's four codes; four chunks make
 * 4 * 128 * 32767 at most. */
ES_INLINE void add_products(int32x4_t sum[4], int8x16_t codes, uint8x16_t low, uint8x16_t high) {
    const int16x8_t x[2] = {vreinterpretq_s16_u8(vzip1q_u8(low, high)),
                            vreinterpretq_s16_u8(vzip2q_u8(low, high))};
    const int16x8_t w[2] = {vmovl_s8(vget_low_s8(codes)), vmovl_high_s8(codes)};
    for (int i = 0; i < 2; i++) {
        sum[2 * i] = vmlal_s16(sum[2 * i], vget_low_s16(w[i]), vget_low_s16(x[i]));
        sum[2 * i + 1] = vmlal_high_s16(sum[2 * i + 1], w[i], x[i]);
    }
}

ES_INLINE void block_sums(int32x4_t sums[4], const uint8_t *block, const int16_t *q,
                          const int format) {
    const es_nm_inputs inputs = es_nm_split(q);
    int32x4_t sum[16];
    for (int r = 0; r < 16; r++) {
        sum[r] = vdupq_n_s32(0);
    }
#pragma GCC unroll 4
    for (int s = 0; s < ES_NM_CHUNKS; s++) {
#pragma GCC unroll 2
        for (int u = 0; u < 2; u++) {
            int8x16_t codes[2];
            es_nm_codes(codes, block, s, u, format);
#pragma GCC unroll 2
            for (int i = 0; i < 2; i++) {
                const uint8x16_t at = es_nm_indices(block, s, 2 * u + i);
                add_products(sum + 4 * (2 * u + i), codes[i], vqtbl1q_u8(inputs.low[s / 2], at),
                             vqtbl1q_u8(inputs.high[s / 2], at));
            }
        }
    }
    for (int g = 0; g < 4; g++) {
        sums[g] = vpaddq_s32(vpaddq_s32(sum[4 * g], sum[4 * g + 1]),
                             vpaddq_s32(sum[4 * g + 2], sum[4 * g + 3]));
    }
}

#include "kernels/nm/nm_dot_128.h"

/* Codes of chunk s of four rows from 4t on, byte 4r + 2j + h: as int8, or four bits of it. */
ES_INLINE uint32x4_t stored_codes(const uint8_t *block, int s, int t, const int format) {
    if (format == ES_FORMAT_NM8) {
        return vreinterpretq_u32_u8(vld1q_u8(block + ES_NM_CODES + 64 * s + 16 * t));
    }
    const uint8x8_t both =
        veor_u8(vld1_u8(block + ES_NM_CODES + 32 * s + 8 * t), vdup_n_u8(17 * ES_NM_NIBBLE_ZERO));
    const uint8x16_t low = vcombine_u8(vand_u8(both, vdup_n_u8(15)), vdup_n_u8(0));
    const uint8x16_t high = vcombine_u8(vshr_n_u8(both, 4), vdup_n_u8(0));
    return vreinterpretq_u32_u8(vzip1q_u8(low, high));
}

/* Four columns of four rows: groups s and s + 4 of rows from 4t on. A lane's lowest byte says by how many
 * bits vshl moves it. */
ES_INLINE void place_codes(uint32x4_t dense[2], const uint8_t *block, int s, int t,
                           const int format) {
    const uint16x8_t places = vreinterpretq_u16_u8(vld1q_u8(block + ES_NM_PLACES + 16 * t));
    const uint16x8_t moved = vshlq_u16(places, vdupq_n_s16((int16_t)(3 - 2 * s)));
    const int32x4_t by = vreinterpretq_s32_u16(vandq_u16(moved, vdupq_n_u16(0x1818)));
    const uint32x4_t codes = stored_codes(block, s, t, format), byte = vdupq_n_u32(255);
    dense[0] = vorrq_u32(vshlq_u32(vandq_u32(codes, byte), by),
                         vshlq_u32(vandq_u32(vshrq_n_u32(codes, 16), byte), vshrq_n_s32(by, 16)));
    dense[1] = vorrq_u32(vshlq_u32(vandq_u32(vshrq_n_u32(codes, 8), byte), vshrq_n_s32(by, 8)),
                         vshlq_u32(vshrq_n_u32(codes, 24), vshrq_n_s32(by, 24)));
}

/* Two registers of four rows and four columns as two pairs of columns of eight rows. */
ES_INLINE uint8x16x2_t by_pairs(uint32x4_t first, uint32x4_t second) {
    const uint16x8_t a = vreinterpretq_u16_u32(first), b = vreinterpretq_u16_u32(second);
    return (uint8x16x2_t){
        {vreinterpretq_u8_u16(vuzp1q_u16(a, b)), vreinterpretq_u8_u16(vuzp2q_u16(a, b))}};
}

/* One block into the eight rows of two dense blocks. */
ES_INLINE const uint8_t *expand_block(uint8_t *const tiles[2], const uint8_t *block,
                                      const int format) {
    for (int t = 0; t < 2; t++) {
        uint8_t *out = tiles[t] + ES_SCALE_BYTES;
        memcpy(tiles[t], block + ES_SCALE_BYTES * t, ES_SCALE_BYTES);
#pragma GCC unroll 4
        for (int s = 0; s < ES_NM_CHUNKS; s++, out += 32) {
            uint32x4_t first[2], second[2];
            place_codes(first, block, s, 2 * t, format);
            place_codes(second, block, s, 2 * t + 1, format);
            const uint8x16x2_t low = by_pairs(first[0], second[0]);
            const uint8x16x2_t high = by_pairs(first[1], second[1]);
            for (int i = 0; i < 2; i++) {
                if (format == ES_FORMAT_NM8) {
                    vst1q_u8(out + 16 * i, low.val[i]);
                    vst1q_u8(out + 128 + 16 * i, high.val[i]);
                } else { /* columns from 16 on lie above those before */
                    vst1q_u8(out + 16 * i, veorq_u8(vsliq_n_u8(low.val[i], high.val[i], 4),
                                                    vdupq_n_u8(17 * ES_NM_NIBBLE_ZERO)));
                }
            }
        }
    }
    return block + es_nm_block_bytes(format);
}

ES_SPARSE_DOT(, nm8_dot, nm_dot, ES_FORMAT_NM8)
ES_SPARSE_DOT(, nm4_dot, nm_dot, ES_FORMAT_NM4)
ES_SPARSE_EXPAND(, nm8_expand, expand_block, ES_FORMAT_NM8)
ES_SPARSE_EXPAND(, nm4_expand, expand_block, ES_FORMAT_NM4)

void es_nm_neon(es_kernels *table) {
    table->nm8_dot = nm8_dot;
    table->nm4_dot = nm4_dot;
    table->nm8_expand = nm8_expand;
    table->nm4_expand = nm4_expand;
    table->nm_variant = "neon";
}
