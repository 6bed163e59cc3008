/* Vectors of 16 bytes, for the NEON variants. The includer defines before this what ternary_panel.h
 * wants of quads, and the partial sums of one row of `dot`:
 *
 *   es_dot_acc, es_dot_zero()
 *   es_dot_add(acc, codes, x)   adds the 16 products of two int8 vectors
 *   es_dot_fold(acc)            empties narrow sums into wide ones
 *   es_dot_sums(acc)            as a vector of int32 */
#ifndef ES_TERNARY_128_H
#define ES_TERNARY_128_H

#include "ternary.h"

#include <arm_neon.h>
#include <string.h>

typedef uint8x16_t es_vec;
typedef int8x16_t es_vec_i8;
typedef int32x4_t es_vec_i32;
enum {
    ES_LANES = 4,
    ES_VEC_BYTES = 16,
    t2_BLOCK = ES_T2_BLOCK,
    t5_BLOCK = ES_T5_BLOCK,
    t2_DOT_ROWS = 4,
    t5_DOT_ROWS = 4
};

ES_INLINE es_vec es_load(const uint8_t *p) {
    return vld1q_u8(p);
}

ES_INLINE es_vec es_load_block(const uint8_t *p) {
    return vld1q_u8(p);
}

ES_INLINE void es_store(uint8_t *p, es_vec v) {
    vst1q_u8(p, v);
}

ES_INLINE es_vec_i8 es_broadcast4(const int8_t *p) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    return vreinterpretq_s8_s32(vdupq_n_s32(word));
}

ES_INLINE es_vec es_load_quarters(const uint8_t *const *rows, size_t offset) {
    return vld1q_u8(rows[0] + offset);
}

ES_INLINE es_vec es_unpacklo32(es_vec a, es_vec b) {
    return vreinterpretq_u8_u32(vzip1q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}

ES_INLINE es_vec es_unpackhi32(es_vec a, es_vec b) {
    return vreinterpretq_u8_u32(vzip2q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}

ES_INLINE es_vec es_unpacklo64(es_vec a, es_vec b) {
    return vreinterpretq_u8_u64(vzip1q_u64(vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b)));
}

ES_INLINE es_vec es_unpackhi64(es_vec a, es_vec b) {
    return vreinterpretq_u8_u64(vzip2q_u64(vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b)));
}

ES_INLINE void es_store_lanes(int32_t *p, es_vec_i32 v, size_t n, int accumulate) {
    int32_t lanes[ES_LANES];
    if (n == ES_LANES) {
        vst1q_s32(p, accumulate ? vaddq_s32(v, vld1q_s32(p)) : v);
        return;
    }
    vst1q_s32(lanes, v);
    for (size_t i = 0; i < n; i++) {
        p[i] = accumulate ? p[i] + lanes[i] : lanes[i];
    }
}

ES_INLINE void es_store_sums(int32_t *sums, const es_vec_i32 *v, const int rows) {
    ES_UNROLL
    for (int r = 0; r < rows; r++) {
        sums[r] = vaddvq_s32(v[r]);
    }
}

ES_INLINE void t2_decode(es_vec *codes, es_vec packed) {
    const uint8x16_t three = vdupq_n_u8(3);
    codes[0] = vshrq_n_u8(packed, 6);
    codes[1] = vandq_u8(vshrq_n_u8(packed, 4), three);
    codes[2] = vandq_u8(vshrq_n_u8(packed, 2), three);
    codes[3] = vandq_u8(packed, three);
}

/* Minus the leading digit of fractions y: all ones from 86 on, and again from 171 on. */
ES_INLINE int8x16_t t5_minus_digit(uint8x16_t y) {
    return vreinterpretq_s8_u8(vaddq_u8(vcgtq_u8(y, vdupq_n_u8(85)), vcgtq_u8(y, vdupq_n_u8(170))));
}

/* 3 y mod 256: the fraction behind the leading digit. */
ES_INLINE uint8x16_t t5_triple(uint8x16_t y) {
    return vaddq_u8(vaddq_u8(y, y), y);
}

ES_INLINE void t5_decode(es_vec *codes, es_vec packed) {
    uint8x16_t y = packed;
    ES_UNROLL
    for (int f = 0; f < ES_T5_FIELDS; f++) {
        codes[f] = vreinterpretq_u8_s8(vnegq_s8(t5_minus_digit(y)));
        y = t5_triple(y);
    }
}

/* The steps of `dot`. t5's codes are left negative, and its sums turned round once per row. */
typedef es_dot_acc t2_acc;
typedef es_dot_acc t5_acc;

ES_INLINE t2_acc t2_zero(void) {
    return es_dot_zero();
}

ES_INLINE t5_acc t5_zero(void) {
    return es_dot_zero();
}

ES_INLINE void t2_step(t2_acc *acc, es_vec w, const int8_t *a) {
    es_vec codes[ES_T2_FIELDS];
    t2_decode(codes, w);
    ES_UNROLL
    for (int f = 0; f < ES_T2_FIELDS; f++) {
        es_dot_add(acc, vreinterpretq_s8_u8(codes[f]), vld1q_s8(a + 32 * f));
    }
}

ES_INLINE void t5_step(t5_acc *acc, es_vec w, const int8_t *a) {
    ES_UNROLL
    for (int f = 0; f < ES_T5_FIELDS; f++) {
        es_dot_add(acc, t5_minus_digit(w), vld1q_s8(a + 32 * f));
        w = t5_triple(w);
    }
}

ES_INLINE void t2_fold(t2_acc *acc) {
    es_dot_fold(acc);
}

ES_INLINE void t5_fold(t5_acc *acc) {
    es_dot_fold(acc);
}

ES_INLINE es_vec_i32 t2_finish(const t2_acc *acc) {
    return es_dot_sums(acc);
}

ES_INLINE es_vec_i32 t5_finish(const t5_acc *acc) {
    return vnegq_s32(es_dot_sums(acc));
}

#endif
