/* 2:4 in 128-bit registers, shared by NEON and its dot product: the places of two groups are the indices
 * with which tbl takes the lower and the upper bytes of their inputs. */
#ifndef ES_NM_128_H
#define ES_NM_128_H

#include "kernels/nm/nm.h"
#include "kernels/prefetch.h"
#include "kernels/vector/vector_neon.h"

/* Bytes of a block's inputs: groups 0, 4, 1, 5, then 2, 6, 3, 7. */
typedef struct es_nm_inputs {
    uint8x16_t low[2], high[2];
} es_nm_inputs;

ES_INLINE uint8x16_t es_nm_weave(uint8x16_t first, uint8x16_t second, const int upper) {
    const uint32x4_t a = vreinterpretq_u32_u8(first), b = vreinterpretq_u32_u8(second);
    return vreinterpretq_u8_u32(upper ? vzip2q_u32(a, b) : vzip1q_u32(a, b));
}

ES_INLINE es_nm_inputs es_nm_split(const int16_t *q) {
    const uint8x16x2_t a = vld2q_u8((const uint8_t *)q), b = vld2q_u8((const uint8_t *)(q + 16));
    return (es_nm_inputs){{es_nm_weave(a.val[0], b.val[0], 0), es_nm_weave(a.val[0], b.val[0], 1)},
                          {es_nm_weave(a.val[1], b.val[1], 0), es_nm_weave(a.val[1], b.val[1], 1)}};
}

/* Where the inputs of rows 4t to 4t + 3 in groups s and s + 4 lie in low[s / 2] and high[s / 2]. */
ES_INLINE uint8x16_t es_nm_indices(const uint8_t *block, const int s, const int t) {
    const uint16x8_t places = vreinterpretq_u16_u8(vld1q_u8(block + ES_NM_PLACES + 16 * t));
    const uint8x16_t first = vdupq_n_u8((uint8_t)(8 * (s % 2)));
    const uint8x16_t groups =
        vorrq_u8(first, vreinterpretq_u8_u16(vdupq_n_u16(0x0400))); /* upper bytes: s + 4 */
    const uint16x8_t shifted = vshlq_u16(places, vdupq_n_s16((int16_t)(-2 * s)));
    return vbslq_u8(vdupq_n_u8(3), vreinterpretq_u8_u16(shifted), groups);
}

/* The same bits of 16 bytes, byte by byte: lower nibbles, upper nibbles. */
ES_INLINE uint8x16x2_t es_nm_in_turn(uint8x16_t low, uint8x16_t high) {
    return (uint8x16x2_t){{vzip1q_u8(low, high), vzip2q_u8(low, high)}};
}

/* Codes of chunk s of eight rows from 8u on, byte 4r + 2j + h; of nm4 16 times those. */
ES_INLINE void es_nm_codes(int8x16_t codes[2], const uint8_t *block, int s, int u,
                           const int format) {
    if (format == ES_FORMAT_NM8) {
        codes[0] = vreinterpretq_s8_u8(vld1q_u8(block + ES_NM_CODES + 64 * s + 32 * u));
        codes[1] = vreinterpretq_s8_u8(vld1q_u8(block + ES_NM_CODES + 64 * s + 32 * u + 16));
        return;
    }
    const uint8x16_t both = veorq_u8(vld1q_u8(block + ES_NM_CODES + 32 * s + 16 * u),
                                     vdupq_n_u8(17 * ES_NM_NIBBLE_ZERO));
    const uint8x16x2_t turn = es_nm_in_turn(vshlq_n_u8(both, 4), vandq_u8(both, vdupq_n_u8(0xf0)));
    codes[0] = vreinterpretq_s8_u8(turn.val[0]);
    codes[1] = vreinterpretq_s8_u8(turn.val[1]);
}

/* Adds a block's products to the sixteen outputs: sums[g] is of rows 4g to 4g + 3. */
ES_INLINE void es_nm_finish(float32x4_t acc[4], const int32x4_t sums[4], const uint8_t *block,
                            float d, const int format) {
    for (int half = 0; half < 2; half++) {
        const float32x4x2_t steps = es_widen_halfs(block + 16 * half);
        for (int h = 0; h < 2; h++) {
            const int g = 2 * half + h;
            const int32x4_t sum = format == ES_FORMAT_NM8 ? sums[g] : vshrq_n_s32(sums[g], 4);
            const float32x4_t step = vmulq_n_f32(steps.val[h], d);
            acc[g] = vaddq_f32(acc[g], vmulq_f32(vcvtq_f32_s32(sum), step));
        }
    }
}

#endif
