/* The building blocks of edgesparse/ops/README.md for NEON.
 *
 * Sixteen lanes are four registers. Where values run out, zeros are put: a lane that starts at +0 and
 * is only added to is never -0, so adding +0 leaves its bits alone. Largest and smallest are those
 * that prefer a number to a NaN, as the comparisons of the scalar kernels do. */
#ifndef ES_VECTOR_NEON_H
#define ES_VECTOR_NEON_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define ES_INLINE_NEON static inline __attribute__((always_inline))

/* The first n of four floats, then zeros; touches no byte beyond them. */
ES_INLINE_NEON float32x4_t es_load_first(const float *p, int32_t n) {
    float part[4] = {0};
    if (n >= 4) {
        return vld1q_f32(p);
    }
    for (int32_t i = 0; i < n; i++) {
        part[i] = p[i];
    }
    return vld1q_f32(part);
}

ES_INLINE_NEON void es_store_first(float *p, float32x4_t v, int32_t n) {
    float part[4];
    if (n >= 4) {
        vst1q_f32(p, v);
        return;
    }
    vst1q_f32(part, v);
    for (int32_t i = 0; i < n; i++) {
        p[i] = part[i];
    }
}

/* Folds four lanes: l[i] += l[i + 2], then l[0] + l[1]. */
ES_INLINE_NEON float es_fold4_neon(float32x4_t l) {
    return vpadds_f32(vadd_f32(vget_low_f32(l), vget_high_f32(l)));
}

/* Sixteen lanes to four: l[i] += l[i + 8], then l[i] += l[i + 4]. */
ES_INLINE_NEON float32x4_t es_fold_to_four(const float32x4_t lane[4]) {
    return vaddq_f32(vaddq_f32(lane[0], lane[2]), vaddq_f32(lane[1], lane[3]));
}

ES_INLINE_NEON float es_fold16_neon(const float32x4_t lane[4]) {
    return es_fold4_neon(es_fold_to_four(lane));
}

/* See es_exp in vector.h. */
ES_INLINE_NEON float32x4_t es_exp_neon(float32x4_t x) {
    x = vmaxnmq_f32(vminnmq_f32(x, vdupq_n_f32(88.0f)), vdupq_n_f32(-87.0f));
    const int32x4_t n = vcvtnq_s32_f32(vmulq_f32(x, vdupq_n_f32(1.44269504f)));
    const float32x4_t nf = vcvtq_f32_s32(n);
    const float32x4_t r = vsubq_f32(vsubq_f32(x, vmulq_f32(nf, vdupq_n_f32(0.693359375f))),
                                    vmulq_f32(nf, vdupq_n_f32(-2.12194440e-4f)));
    float32x4_t p = vdupq_n_f32(1.9875691500e-4f);
    p = vaddq_f32(vmulq_f32(p, r), vdupq_n_f32(1.3981999507e-3f));
    p = vaddq_f32(vmulq_f32(p, r), vdupq_n_f32(8.3334519073e-3f));
    p = vaddq_f32(vmulq_f32(p, r), vdupq_n_f32(4.1665795894e-2f));
    p = vaddq_f32(vmulq_f32(p, r), vdupq_n_f32(1.6666665459e-1f));
    p = vaddq_f32(vmulq_f32(p, r), vdupq_n_f32(5.0000001201e-1f));
    const float32x4_t e = vaddq_f32(vaddq_f32(vmulq_f32(p, vmulq_f32(r, r)), r), vdupq_n_f32(1.0f));
    const int32x4_t power = vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23);
    return vmulq_f32(e, vreinterpretq_f32_s32(power));
}

/* Eight halfs as floats. */
ES_INLINE_NEON float32x4x2_t es_widen_halfs(const void *p) {
    const float16x8_t h = vreinterpretq_f16_u8(vld1q_u8(p));
    return (float32x4x2_t){{vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h)}};
}

/* Bit i is set where lane i of eight is all ones. */
ES_INLINE_NEON uint8_t es_gather_bits(uint16x8_t lanes) {
    static const uint16_t bits[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    return (uint8_t)vaddvq_u16(vandq_u16(lanes, vld1q_u16(bits)));
}

#endif
