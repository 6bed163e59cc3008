/* Attention for NEON (ARMv8.0): the sixteen lanes of dot16 are four registers. */
#include "kernels.h"
#include "kernels/attention/cache_rows.h"
#include "kernels/vector/vector_neon.h"

#include <math.h>
#include <stddef.h>

ES_INLINE_NEON void widen_row(float *to, const uint16_t *from, int32_t n) {
    int32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        vst1q_f32_x2(to + i, es_widen_halfs(from + i));
    }
    if (i < n) {
        uint16_t part[8] = {0};
        memcpy(part, from + i, (size_t)(n - i) * sizeof *part);
        vst1q_f32_x2(to + i, es_widen_halfs(part));
        i += 8;
    }
    if (i % 16 != 0) {
        memset(to + i, 0, 8 * sizeof *to);
    }
}

/* Sixteen codes times their step. */
ES_INLINE_NEON float32x4x4_t scale_codes(const uint8_t *p, float step) {
    const int8x16_t codes = vreinterpretq_s8_u8(vld1q_u8(p));
    const int16x8_t low = vmovl_s8(vget_low_s8(codes)), high = vmovl_high_s8(codes);
    return (float32x4x4_t){{vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), step),
                            vmulq_n_f32(vcvtq_f32_s32(vmovl_high_s16(low)), step),
                            vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), step),
                            vmulq_n_f32(vcvtq_f32_s32(vmovl_high_s16(high)), step)}};
}

ES_INLINE_NEON float load_step(const uint8_t *block) {
    float16_t half;
    memcpy(&half, block, sizeof half);
    return (float)half;
}

/* Blocks of 32 codes behind their half step; a ragged last block takes the plain way. */
ES_INLINE_NEON void widen_q8_row(float *to, const uint8_t *row, int32_t n) {
    for (; n >= ES_CACHE_BLOCK; n -= ES_CACHE_BLOCK, to += ES_CACHE_BLOCK) {
        const float step = load_step(row);
        vst1q_f32_x4(to, scale_codes(row + 2, step));
        vst1q_f32_x4(to + 16, scale_codes(row + 18, step));
        row += ES_CACHE_BLOCK_BYTES;
    }
    es_widen_q8_0(to, row, n);
}

/* Elements [i, i + 16) of a row. */
ES_INLINE_NEON float32x4x4_t load_sixteen(const uint8_t *row, size_t i, const es_source_kind kind) {
    const uint8_t *at = row + es_source_offset(kind, i);
    if (kind == ES_SOURCE_F32) {
        return vld1q_f32_x4((const float *)(const void *)at);
    }
    if (kind == ES_SOURCE_F16) {
        const float32x4x2_t low = es_widen_halfs(at), high = es_widen_halfs(at + 16);
        return (float32x4x4_t){{low.val[0], low.val[1], high.val[0], high.val[1]}};
    }
    return scale_codes(at + 2 + i % ES_CACHE_BLOCK, load_step(at));
}

/* The sixteen lanes of the products of a row with n_queries queries, folded to four. */
ES_INLINE_NEON void multiply_row(float32x4_t *four, const float *q, const size_t n_queries,
                                 const size_t width, const uint8_t *row,
                                 const es_source_kind kind) {
    float32x4_t lane[4][4];
    const float32x4x4_t first = load_sixteen(row, 0, kind);
    for (size_t h = 0; h < n_queries; h++) {
        for (size_t l = 0; l < 4; l++) {
            lane[h][l] = vmulq_f32(vld1q_f32(q + h * width + 4 * l), first.val[l]);
        }
    }
    for (size_t i = 16; i < width; i += 16) {
        const float32x4x4_t element = load_sixteen(row, i, kind);
        for (size_t h = 0; h < n_queries; h++) {
            for (size_t l = 0; l < 4; l++) {
                const float32x4_t factor = vld1q_f32(q + h * width + i + 4 * l);
                lane[h][l] = vaddq_f32(lane[h][l], vmulq_f32(factor, element.val[l]));
            }
        }
    }
    for (size_t h = 0; h < n_queries; h++) {
        four[h] = es_fold_to_four(lane[h]);
    }
}

/* l[i] += l[i + 2] of two sums. */
ES_INLINE_NEON float32x4_t fold_pair(float32x4_t a, float32x4_t b) {
    const float64x2_t x = vreinterpretq_f64_f32(a), y = vreinterpretq_f64_f32(b);
    return vaddq_f32(vreinterpretq_f32_f64(vzip1q_f64(x, y)),
                     vreinterpretq_f32_f64(vzip2q_f64(x, y)));
}

/* Four rows at a time; the four lanes of each of four sums fold side by side. */
ES_INLINE_NEON void score_rows(float *s, size_t stride, const float *q, const size_t n_queries,
                               const es_source_rows *rows, int32_t n, const size_t width,
                               float scale) {
    for (int32_t r = 0; r < n; r += 4) {
        float32x4_t four[4][4];
        for (int k = 0; k < 4; k++) {
            const uint8_t *row = es_source_row(rows, r + k, n);
            es_prefetch_row(row, rows);
            multiply_row(four[k], q, n_queries, width, row, rows->kind);
        }
        for (size_t h = 0; h < n_queries; h++) {
            const float32x4_t sums =
                vpaddq_f32(fold_pair(four[0][h], four[1][h]), fold_pair(four[2][h], four[3][h]));
            vst1q_f32(s + h * stride + r, vmulq_n_f32(sums, scale));
        }
    }
}

ES_INLINE_NEON void weigh(float *s, int32_t low, int32_t high, float *part) {
    const float32x4_t nothing = vdupq_n_f32(-INFINITY), zero = vdupq_n_f32(0.0f);
    float32x4_t m0 = nothing, m1 = nothing;
    for (int32_t j = low; j < high; j += 8) {
        m0 = vmaxnmq_f32(m0, vld1q_f32(s + j));
        m1 = vmaxnmq_f32(m1, vld1q_f32(s + j + 4));
    }
    part[ES_PART_TOP] = vmaxnmvq_f32(vmaxnmq_f32(m0, m1));
    const float32x4_t top = vdupq_n_f32(part[ES_PART_TOP]);
    float32x4_t lane[4] = {zero, zero, zero, zero};
    for (int32_t j = low; j < high; j += 16) {
        for (int l = 0; l < 4; l++) {
            const float32x4_t score = vld1q_f32(s + j + 4 * l);
            const uint32x4_t gone = vceqq_f32(score, nothing);
            const float32x4_t e = vreinterpretq_f32_u32(
                vbicq_u32(vreinterpretq_u32_f32(es_exp_neon(vsubq_f32(score, top))), gone));
            lane[l] = vaddq_f32(lane[l], e);
            vst1q_f32(s + j + 4 * l, e);
        }
    }
    part[ES_PART_SUM] = es_fold16_neon(lane);
}

/* Columns [column, column + 16 * n_strips) of n_queries results. */
ES_INLINE_NEON void add_columns(float *const *acc, const size_t width, size_t column,
                                const float *e, size_t stride, const size_t n_queries,
                                const es_source_rows *rows, int32_t n, const size_t n_strips) {
    float32x4_t sum[4][16];
    for (size_t h = 0; h < n_queries; h++) {
        for (size_t r = 0; r < 4 * n_strips; r++) {
            sum[h][r] = vld1q_f32(acc[h] + column + 4 * r);
        }
    }
    const uint8_t *row = rows->data;
    /* Every strip asks for its share of the rows behind these. */
    const size_t n_ahead = rows->row_bytes * 16 * n_strips / width;
    const uint8_t *ahead = row + (size_t)n * (rows->row_bytes + n_ahead * (column / 16 / n_strips));
    for (int32_t j = 0; j < n; j++, row += rows->row_bytes) {
        if (rows->kind != ES_SOURCE_F32) {
            es_prefetch_lines(ahead + (size_t)j * n_ahead, n_ahead);
        }
        for (size_t strip = 0; strip < n_strips; strip++) {
            const float32x4x4_t value = load_sixteen(row, column + 16 * strip, rows->kind);
            for (size_t h = 0; h < n_queries; h++) {
                const float weight = e[h * stride + (size_t)j];
                for (size_t l = 0; l < 4; l++) {
                    const size_t r = 4 * strip + l;
                    sum[h][r] = vaddq_f32(sum[h][r], vmulq_n_f32(value.val[l], weight));
                }
            }
        }
    }
    for (size_t h = 0; h < n_queries; h++) {
        for (size_t r = 0; r < 4 * n_strips; r++) {
            vst1q_f32(acc[h] + column + 4 * r, sum[h][r]);
        }
    }
}

/* Sixteen of the thirty-two registers hold sums. */
ES_INLINE_NEON void add_rows(float *const *acc, const float *e, size_t stride,
                             const size_t n_queries, const es_source_rows *rows, int32_t n,
                             const size_t width) {
    const size_t n_strips = n_queries >= 3 ? 1 : n_queries == 2 ? 2 : 4;
    size_t i = 0;
    for (; i + 16 * n_strips <= width; i += 16 * n_strips) {
        add_columns(acc, width, i, e, stride, n_queries, rows, n, n_strips);
    }
    for (; i < width; i += 16) {
        add_columns(acc, width, i, e, stride, n_queries, rows, n, 1);
    }
}

enum { ES_VALUE_ROWS = 32 };

#define ES_READS_PRUNED 0
#include "kernels/attention/attention_driver.h"

void es_attention_neon(es_kernels *table) {
    table->attention = es_attention;
    table->attention_reads_pruned = ES_READS_PRUNED;
    table->attention_variant = "neon";
}
