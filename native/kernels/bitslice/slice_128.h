/* Tables and unpacking with NEON's vectors of 16 bytes.
 *
 * Vector j of a plane's 64 bytes holds, in its byte 4 v + m, row 16 v + 4 j + m. */
#ifndef ES_SLICE_128_H
#define ES_SLICE_128_H

#include "kernels/bitslice/bitslice.h"

#include <arm_neon.h>

typedef float32x4_t es_vf;
enum { ES_VF = 4, ES_SLICE_VECS = ES_SLICE_ROWS / 16 };

ES_INLINE es_vf vf_load(const float *p) {
    return vld1q_f32(p);
}
ES_INLINE void vf_store(float *p, es_vf v) {
    vst1q_f32(p, v);
}
ES_INLINE es_vf vf_set1(float v) {
    return vdupq_n_f32(v);
}
ES_INLINE es_vf vf_add(es_vf a, es_vf b) {
    return vaddq_f32(a, b);
}
ES_INLINE es_vf vf_sub(es_vf a, es_vf b) {
    return vsubq_f32(a, b);
}
ES_INLINE es_vf vf_mul(es_vf a, es_vf b) {
    return vmulq_f32(a, b);
}
ES_INLINE es_vf vf_halfs(const uint8_t *p) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
ES_INLINE es_vf vf_bytes(const uint8_t *p) {
    uint32_t four;
    memcpy(&four, p, sizeof four);
    const int16x8_t words = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)));
}

/* The 16 sums of four activations, as int16: entry i adds those whose bit is set in i. */
ES_INLINE int16x8x2_t es_quad_sums128(const int8_t *q) {
    static const int16_t bits[3][8] = {
        {0, 1, 0, 1, 0, 1, 0, 1}, {0, 0, 1, 1, 0, 0, 1, 1}, {0, 0, 0, 0, 1, 1, 1, 1}};
    int16x8_t sums = vmulq_n_s16(vld1q_s16(bits[0]), q[0]);
    sums = vmlaq_n_s16(sums, vld1q_s16(bits[1]), q[1]);
    sums = vmlaq_n_s16(sums, vld1q_s16(bits[2]), q[2]);
    return (int16x8x2_t){{sums, vaddq_s16(sums, vdupq_n_s16(q[3]))}};
}

static void slice_tables(uint8_t *table, const int8_t *q, int32_t n_blocks) {
    for (int32_t quad = 0; quad < 8 * n_blocks; quad++, q += 4, table += 32) {
        const int16x8x2_t sums = es_quad_sums128(q);
        const int8x16_t low = vcombine_s8(vmovn_s16(sums.val[0]), vmovn_s16(sums.val[1]));
        const int8x16_t high =
            vcombine_s8(vshrn_n_s16(sums.val[0], 5), vshrn_n_s16(sums.val[1], 5));
        vst1q_u8(table, vandq_u8(vreinterpretq_u8_s8(low), vdupq_n_u8(31)));
        vst1q_u8(table + 16, vreinterpretq_u8_s8(vaddq_s8(high, vdupq_n_s8(16))));
    }
}

/* Largest sum of four magnitudes among the quads of a block. */
ES_INLINE uint32_t es_largest_quad128(const int8_t *q) {
    const uint8x16_t low = vreinterpretq_u8_s8(vabsq_s8(vld1q_s8(q)));
    const uint8x16_t high = vreinterpretq_u8_s8(vabsq_s8(vld1q_s8(q + 16)));
    return vmaxvq_u32(vmaxq_u32(vpaddlq_u16(vpaddlq_u8(low)), vpaddlq_u16(vpaddlq_u8(high))));
}

ES_INLINE int16x4_t es_scaled128(int16x4_t sums, float factor) {
    return vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(sums)), factor)));
}

static void rounded_tables(uint8_t *table, float *d, const int8_t *q, const float *d_q,
                           int32_t n_blocks) {
    for (int32_t b = 0; b < n_blocks; b++) {
        const uint32_t largest = es_largest_quad128(q);
        const float factor = largest > 0 ? 127.0f / (float)largest : 0.0f;
        d[b] = d_q[b] * ((float)largest / 127.0f);
        for (int quad = 0; quad < 8; quad++, q += 4, table += 16) {
            /* Twice the sum of those with a set bit, minus the sum of all. */
            const int16x8x2_t chosen = es_quad_sums128(q);
            const int16x8_t all = vdupq_n_s16((int16_t)(q[0] + q[1] + q[2] + q[3]));
            int8x8_t bytes[2];
            for (int i = 0; i < 2; i++) {
                const int16x8_t sums = vsubq_s16(vshlq_n_s16(chosen.val[i], 1), all);
                bytes[i] = vmovn_s16(vcombine_s16(es_scaled128(vget_low_s16(sums), factor),
                                                  es_scaled128(vget_high_s16(sums), factor)));
            }
            const uint8x16_t entries = vreinterpretq_u8_s8(vcombine_s8(bytes[0], bytes[1]));
            vst1q_u8(table, veorq_u8(entries, vdupq_n_u8(128)));
        }
    }
}

/* Two-bit codes of four columns in each byte, for planes `plane` and plane + 1. */
ES_INLINE uint8x16_t es_two_planes128(const uint8_t *w, int high_quad, int plane,
                                      const int planes) {
    /* Bits n of a nibble at bits 2n. */
    static const uint8_t spread[16] = {0, 1, 4, 5, 16, 17, 20, 21, 64, 65, 68, 69, 80, 81, 84, 85};
    const uint8x16_t at = vld1q_u8(spread);
    uint8x16_t codes = vdupq_n_u8(0);
    for (int p = plane; p < plane + 2 && p < planes; p++) {
        const uint8x16_t v = vld1q_u8(w + p * ES_SLICE_PLANE_BYTES);
        const uint8x16_t index = high_quad ? vshrq_n_u8(v, 4) : vandq_u8(v, vdupq_n_u8(15));
        const uint8x16_t bits = vqtbl1q_u8(at, index);
        codes = p > plane ? vorrq_u8(codes, vshlq_n_u8(bits, 1)) : bits;
    }
    return codes;
}

/* panel[quad][row][column in the quad] */
ES_INLINE void unpack_block(uint8_t *panel, const uint8_t *w, const int planes) {
    const uint8x16_t three = vdupq_n_u8(3), twelve = vdupq_n_u8(12);
    for (int quad = 0; quad < 8; quad++) {
        const uint8_t *pair = w + quad / 2 * planes * ES_SLICE_PLANE_BYTES;
        for (int j = 0; j < ES_SLICE_VECS; j++, pair += 16) {
            const uint8x16_t low = es_two_planes128(pair, quad & 1, 0, planes);
            uint8x16_t c[4] = {vandq_u8(low, three), vandq_u8(vshrq_n_u8(low, 2), three),
                               vandq_u8(vshrq_n_u8(low, 4), three), vshrq_n_u8(low, 6)};
            if (planes > 2) {
                const uint8x16_t high = es_two_planes128(pair, quad & 1, 2, planes);
                c[0] = vorrq_u8(c[0], vandq_u8(vshlq_n_u8(high, 2), twelve));
                c[1] = vorrq_u8(c[1], vandq_u8(high, twelve));
                c[2] = vorrq_u8(c[2], vandq_u8(vshrq_n_u8(high, 2), twelve));
                c[3] = vorrq_u8(c[3], vandq_u8(vshrq_n_u8(high, 4), twelve));
            }
            const uint16x8_t a = vreinterpretq_u16_u8(vzip1q_u8(c[0], c[1]));
            const uint16x8_t b = vreinterpretq_u16_u8(vzip1q_u8(c[2], c[3]));
            const uint16x8_t d = vreinterpretq_u16_u8(vzip2q_u8(c[0], c[1]));
            const uint16x8_t e = vreinterpretq_u16_u8(vzip2q_u8(c[2], c[3]));
            uint8_t *to = panel + (quad * ES_SLICE_ROWS + 4 * j) * 4;
            vst1q_u8(to, vreinterpretq_u8_u16(vzip1q_u16(a, b)));
            vst1q_u8(to + 64, vreinterpretq_u8_u16(vzip2q_u16(a, b)));
            vst1q_u8(to + 128, vreinterpretq_u8_u16(vzip1q_u16(d, e)));
            vst1q_u8(to + 192, vreinterpretq_u8_u16(vzip2q_u16(d, e)));
        }
    }
}

#endif
