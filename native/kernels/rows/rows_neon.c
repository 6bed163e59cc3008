/* Products with single rows for NEON (ARMv8.0), eight rows at a time: their sums are turned into the
 * lanes of two registers, where the steps meet them. Integer sums are exact in any order; the float
 * line per block is that of every other kernel. */
#include "kernels/prefetch.h"
#include "kernels/rows/rows.h"
#include "kernels/vector/vector_neon.h"

/* Adds sixteen codes times the activations at q. */
ES_INLINE int32x4_t add_codes(int32x4_t sum, uint8x16_t bytes, const int16_t *q) {
    const int8x16_t codes = vreinterpretq_s8_u8(bytes);
    const int16x8_t low = vmovl_s8(vget_low_s8(codes)), high = vmovl_high_s8(codes);
    const int16x8_t x0 = vld1q_s16(q), x1 = vld1q_s16(q + 8);
    sum = vmlal_high_s16(vmlal_s16(sum, vget_low_s16(low), vget_low_s16(x0)), low, x0);
    return vmlal_high_s16(vmlal_s16(sum, vget_low_s16(high), vget_low_s16(x1)), high, x1);
}

/* Four partial sums of a block. */
ES_INLINE int32x4_t block_sum(const uint8_t *codes, const int16_t *q, int format) {
    const int32x4_t zero = vdupq_n_s32(0);
    const uint8x16_t bytes = vld1q_u8(codes);
    if (es_row_is_nibble(format)) {
        const int32x4_t first = add_codes(zero, vandq_u8(bytes, vdupq_n_u8(15)), q);
        return add_codes(first, vshrq_n_u8(bytes, 4), q + 16);
    }
    return add_codes(add_codes(zero, bytes, q), vld1q_u8(codes + 16), q + 16);
}

/* Lane r: the sum of the lanes of s[r]. */
ES_INLINE int32x4_t lane_sums(const int32x4_t s[4]) {
    return vpaddq_s32(vpaddq_s32(s[0], s[1]), vpaddq_s32(s[2], s[3]));
}

/* Halfs of eight rows at the same place. */
ES_INLINE float32x4x2_t halfs_at(const uint8_t *const rows[ES_GROUP], size_t offset) {
    uint16_t bits[ES_GROUP];
    for (int r = 0; r < ES_GROUP; r++) {
        memcpy(&bits[r], rows[r] + offset, sizeof bits[r]);
    }
    return es_widen_halfs(bits);
}

/* Eight rows; meanwhile others are asked for. */
ES_INLINE void row_group(float *y, const uint8_t *const rows[ES_GROUP], const es_asked_rows *asked,
                         const es_q16 *x, size_t n_blocks, int format) {
    const size_t code_bytes = es_row_code_bytes(format);
    float32x4_t total[2] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    for (size_t b = 0; b < n_blocks; b++) {
        int32x4_t sums[ES_GROUP];
        if (b * code_bytes % ES_CACHE_LINE == 0) {
            es_ask_rows(asked, b * code_bytes);
        }
        for (int r = 0; r < ES_GROUP; r++) {
            sums[r] = block_sum(rows[r] + b * code_bytes, x->q + 32 * b, format);
        }
        const size_t at = es_row_step(n_blocks, b, format);
        const float32x4x2_t d = halfs_at(rows, at);
        for (int h = 0; h < 2; h++) {
            int32x4_t sum = lane_sums(sums + 4 * h);
            if (format == ES_FORMAT_Q4R) {
                sum = vsubq_s32(sum, vdupq_n_s32(8 * x->sum[b]));
            }
            const float32x4_t step = vmulq_n_f32(d.val[h], x->d[b]);
            total[h] = vaddq_f32(total[h], vmulq_f32(vcvtq_f32_s32(sum), step));
        }
        if (es_row_has_minimum(format)) {
            const float32x4x2_t m = halfs_at(rows, at + 2 * n_blocks);
            total[0] = vaddq_f32(total[0], vmulq_n_f32(m.val[0], x->xsum[b]));
            total[1] = vaddq_f32(total[1], vmulq_n_f32(m.val[1], x->xsum[b]));
        }
    }
    vst1q_f32(y, total[0]);
    vst1q_f32(y + 4, total[1]);
}

/* Eight rows of eight words become eight columns of them. */
ES_INLINE void turn_words(uint8_t *to, size_t stride, uint16x8_t v[8]) {
    uint16x8_t t[8];
    for (int pass = 0; pass < 3; pass++) {
        for (int i = 0; i < 4; i++) {
            t[2 * i] = vzip1q_u16(v[i], v[i + 4]);
            t[2 * i + 1] = vzip2q_u16(v[i], v[i + 4]);
        }
        memcpy(v, t, sizeof t);
    }
    for (size_t i = 0; i < 8; i++) {
        vst1q_u8(to + i * stride, vreinterpretq_u8_u16(v[i]));
    }
}

/* Eight words of each row, from `offset` on; rows that are not there are zeros. */
ES_INLINE void turn_at(uint8_t *to, size_t stride, const uint8_t *w, size_t row_bytes,
                       int32_t n_rows, size_t offset) {
    uint16x8_t v[8];
    for (int r = 0; r < ES_GROUP; r++) {
        const uint8_t *from = w + (size_t)r * row_bytes + offset;
        v[r] = r < n_rows ? vreinterpretq_u16_u8(vld1q_u8(from)) : vdupq_n_u16(0);
    }
    turn_words(to, stride, v);
}

#include "kernels/rows/rows_driver.h"

ES_ROW_FORMATS

void es_rows_neon(es_kernels *table) {
    ES_ROWS_SET(table, "neon");
}
