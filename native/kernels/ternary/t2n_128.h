/* Neuron-major panels in 128-bit registers, for the NEON variants. */
#ifndef ES_T2N_128_H
#define ES_T2N_128_H

#include "ternary_panel.h"

#include <arm_neon.h>

typedef uint8x16_t t2n_vec;
enum { T2N_LANES = 4 };

ES_INLINE uint16x8_t es_pairs(uint8x16_t v) {
    return vreinterpretq_u16_u8(v);
}

ES_INLINE void t2n_interleave(uint8x16_t out[8], const uint8_t *const w[4]) {
    ES_UNROLL
    for (int half = 0; half < 2; half++) {
        uint8x16_t row[4];
        ES_UNROLL
        for (int r = 0; r < 4; r++) {
            row[r] = vld1q_u8(w[r] + 16 * half);
        }
        const uint16x8_t lo01 = es_pairs(vzip1q_u8(row[0], row[1]));
        const uint16x8_t hi01 = es_pairs(vzip2q_u8(row[0], row[1]));
        const uint16x8_t lo23 = es_pairs(vzip1q_u8(row[2], row[3]));
        const uint16x8_t hi23 = es_pairs(vzip2q_u8(row[2], row[3]));
        out[4 * half] = vreinterpretq_u8_u16(vzip1q_u16(lo01, lo23));
        out[4 * half + 1] = vreinterpretq_u8_u16(vzip2q_u16(lo01, lo23));
        out[4 * half + 2] = vreinterpretq_u8_u16(vzip1q_u16(hi01, hi23));
        out[4 * half + 3] = vreinterpretq_u8_u16(vzip2q_u16(hi01, hi23));
    }
}

ES_INLINE uint8x16_t t2n_codes(uint8x16_t packed, const int shift) {
    return vandq_u8(vshlq_u8(packed, vdupq_n_s8((int8_t)-shift)), vdupq_n_u8(3));
}

ES_INLINE void t2n_store(uint8_t *p, uint8x16_t v) {
    vst1q_u8(p, v);
}

#include "t2n_panel.h"

#endif
