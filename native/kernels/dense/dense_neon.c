/* Dense dot products for NEON (ARMv8.0): smlal, int16 times int16 into int32.
 *
 * Every other lane of a register of codes is the other column of a pair, so that a sum of a row lies
 * in two neighbouring lanes until the end of the block. */
#include "kernels/dense/dense.h"
#include "kernels/vector/vector_neon.h"

/* Thirty-two lanes of sums, or for q6 sixty-four, of two tokens; four tokens would spill. */
enum { ES_BLOCK_TOKENS = 2 };

/* Sums of rows 2i and 2i + 1, both columns of a pair apart, in sum[i]. */
typedef struct es_pair_sums {
    int32x4_t sum[4];
} es_pair_sums;

ES_INLINE es_pair_sums es_pair_zero(void) {
    const int32x4_t zero = vdupq_n_s32(0);
    return (es_pair_sums){{zero, zero, zero, zero}};
}

/* Adds the codes of four rows times a pair of columns, to sum[half] and sum[half + 1]. */
ES_INLINE void es_pair_add(es_pair_sums *s, const int half, int16x8_t codes, int16x8_t q) {
    s->sum[half] = vmlal_s16(s->sum[half], vget_low_s16(codes), vget_low_s16(q));
    s->sum[half + 1] = vmlal_high_s16(s->sum[half + 1], codes, q);
}

/* Two neighbouring activations, repeated. */
ES_INLINE int16x8_t es_column_pair128(const int16_t *q) {
    int32_t pair;
    memcpy(&pair, q, sizeof pair);
    return vreinterpretq_s16_s32(vdupq_n_s32(pair));
}

ES_INLINE int32x4x2_t es_pair_join(const es_pair_sums *s) {
    return (int32x4x2_t){{vpaddq_s32(s->sum[0], s->sum[1]), vpaddq_s32(s->sum[2], s->sum[3])}};
}

/* Codes of both halves of a tile for one column pair, to every token's sums. */
ES_INLINE void es_add_columns(es_pair_sums *sums, int16x8_t low, int16x8_t high, const int16_t *q,
                              size_t q_stride, const int n_tokens) {
    for (int t = 0; t < n_tokens; t++) {
        const int16x8_t pair = es_column_pair128(q + (size_t)t * q_stride);
        es_pair_add(&sums[t], 0, low, pair);
        es_pair_add(&sums[t], 2, high, pair);
    }
}

/* The same for eight rows of bytes. */
ES_INLINE void es_add_bytes(es_pair_sums *sums, uint8x16_t bytes, const int16_t *q, size_t q_stride,
                            const int n_tokens) {
    const int8x16_t codes = vreinterpretq_s8_u8(bytes);
    es_add_columns(sums, vmovl_s8(vget_low_s8(codes)), vmovl_high_s8(codes), q, q_stride, n_tokens);
}

ES_INLINE void es_byte_sums128(es_pair_sums *sums, const uint8_t *codes, const int16_t *q,
                               size_t q_stride, const int format, const int n_tokens) {
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++) {
        if (es_is_nibble(format)) {
            const uint8x16_t both = vld1q_u8(codes + 16 * g);
            es_add_bytes(sums, vandq_u8(both, vdupq_n_u8(15)), q + 2 * g, q_stride, n_tokens);
            es_add_bytes(sums, vshrq_n_u8(both, 4), q + 16 + 2 * g, q_stride, n_tokens);
        } else {
            const uint8_t *p = codes + 32 * g;
            es_add_bytes(sums, vld1q_u8(p), q + 4 * g, q_stride, n_tokens);
            es_add_bytes(sums, vld1q_u8(p + 16), q + 4 * g + 2, q_stride, n_tokens);
        }
    }
}

ES_INLINE int16x8_t es_q6_words128(const uint8_t *codes, const int i) {
    return vreinterpretq_s16_u8(vld1q_u8(codes + 16 * i));
}

/* The last columns' pair i (0 to 3) of four rows; half is 0 or 1. */
ES_INLINE int16x8_t es_q6_last128(const uint8_t *codes, const int i, const int half) {
    const uint16x8_t bits = vreinterpretq_u16_s16(es_q6_words128(codes, 8 + i / 2 * 2 + half));
    const uint16x8_t four =
        vshrq_n_u16(vreinterpretq_u16_s16(es_q6_words128(codes, 2 * i + half)), 12);
    const uint16x8_t two = i % 2 ? vshrq_n_u16(bits, 10) : vshrq_n_u16(bits, 8);
    return vreinterpretq_s16_u16(vbslq_u16(vdupq_n_u16(0x30), two, four));
}

/* A word's second code comes out 64 times too large, has sums of its own, and is shifted once per
 * block: twelve columns * 63 * 32767 * 64 < 2^31. */
ES_INLINE void es_q6_sums128(es_pair_sums *sums, const uint8_t *codes, const int16_t *q,
                             size_t q_stride, const int n_tokens) {
    const int16x8_t first = vdupq_n_s16(63), second = vdupq_n_s16(63 << 6);
    es_pair_sums by64[ES_BLOCK_TOKENS];
    for (int t = 0; t < n_tokens; t++) {
        by64[t] = es_pair_zero();
    }
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) {
        const int16x8_t low = es_q6_words128(codes, 2 * i);
        const int16x8_t high = es_q6_words128(codes, 2 * i + 1);
        es_add_columns(sums, vandq_s16(low, first), vandq_s16(high, first), q + 2 * i, q_stride,
                       n_tokens);
        es_add_columns(by64, vandq_s16(low, second), vandq_s16(high, second), q + 12 + 2 * i,
                       q_stride, n_tokens);
    }
    for (int t = 0; t < n_tokens; t++) {
        for (int i = 0; i < 4; i++) {
            sums[t].sum[i] = vsraq_n_s32(sums[t].sum[i], by64[t].sum[i], 6);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        es_add_columns(sums, es_q6_last128(codes, i, 0), es_q6_last128(codes, i, 1), q + 24 + 2 * i,
                       q_stride, n_tokens);
    }
}

ES_INLINE void es_block_sums(int32x4x2_t *joined, const uint8_t *codes, const int16_t *q,
                             size_t q_stride, const int format, const int n_tokens) {
    es_pair_sums sums[ES_BLOCK_TOKENS];
    for (int t = 0; t < n_tokens; t++) {
        sums[t] = es_pair_zero();
    }
    if (format == ES_FORMAT_Q6) {
        es_q6_sums128(sums, codes, q, q_stride, n_tokens);
    } else {
        es_byte_sums128(sums, codes, q, q_stride, format, n_tokens);
    }
    for (int t = 0; t < n_tokens; t++) {
        joined[t] = es_pair_join(&sums[t]);
    }
}

#include "kernels/dense/block128.h"
#include "kernels/dense/float128.h"

#define block_dot es_block_dot128
#define float_dot es_float_dot128
#include "kernels/dense/dense_table.h"

ES_DENSE_BLOCK_KERNELS
ES_DENSE_FLOAT_KERNELS

void es_dense_neon(es_kernels *table) {
    ES_DENSE_SET_BLOCKS(table, "neon");
    ES_DENSE_SET_FLOATS(table, "neon");
}
