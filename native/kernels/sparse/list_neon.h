/* Lists of live neurons in 128-bit registers: comparisons leave a nibble for every neuron. */
#ifndef ES_LIST_NEON_H
#define ES_LIST_NEON_H

#include "chunk.h"

#include <arm_neon.h>

/* The comparisons of 16 neurons, a byte each, as four bits each. */
ES_INLINE uint64_t es_nibbles(uint8x16_t live) {
    return vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(live), 4)), 0);
}

/* Appends i + n for every nibble n that is set. */
ES_INLINE int32_t es_append(int32_t *list, int32_t n_listed, int32_t i, uint64_t nibbles) {
    for (nibbles &= 0x1111111111111111u; nibbles != 0; nibbles &= nibbles - 1) {
        list[n_listed++] = i + __builtin_ctzll(nibbles) / 4;
    }
    return n_listed;
}

static int32_t list_positive(int32_t *list, const float *x, int32_t n) {
    int32_t n_listed = 0, i = 0;
    for (; i + 16 <= n; i += 16) {
        uint16x8_t half[2];
        for (int h = 0; h < 2; h++) {
            const uint32x4_t low = vcgtzq_f32(vld1q_f32(x + i + 8 * h));
            const uint32x4_t high = vcgtzq_f32(vld1q_f32(x + i + 8 * h + 4));
            half[h] = vuzp1q_u16(vreinterpretq_u16_u32(low), vreinterpretq_u16_u32(high));
        }
        const uint8x16_t live =
            vuzp1q_u8(vreinterpretq_u8_u16(half[0]), vreinterpretq_u8_u16(half[1]));
        n_listed = es_append(list, n_listed, i, es_nibbles(live));
    }
    for (; i < n; i++) {
        list[n_listed] = i;
        n_listed += x[i] > 0.0f;
    }
    return n_listed;
}

static int32_t list_nonzero(int32_t *list, const int8_t *q, int32_t n) {
    int32_t n_listed = 0, i = 0;
    for (; i + 16 <= n; i += 16) {
        const int8x16_t v = vld1q_s8(q + i);
        n_listed = es_append(list, n_listed, i, es_nibbles(vtstq_s8(v, v)));
    }
    for (; i < n; i++) {
        list[n_listed] = i;
        n_listed += q[i] != 0;
    }
    return n_listed;
}

#endif
