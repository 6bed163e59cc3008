/* Look-up with tbl and products, for the NEON variants: all but the multiplication itself. The
 * includer defines mad_acc, mad_zero, mad_step, mad_total and ES_MAD_TOKENS.
 *
 * Tables are single registers: tbl on two or more is several times as slow on a Cortex-A72. */
#ifndef ES_SLICE_LUT128_H
#define ES_SLICE_LUT128_H

#include "kernels/bitslice/slice_columns128.h"

#include "kernels/bitslice/slice_finish.h"

ES_INLINE uint8x16_t add_looked_up(uint8x16_t acc, uint8x16_t table, uint8x16_t index) {
    acc = vaddq_u8(acc, vqtbl1q_u8(table, index));
    ES_KEEP_ORDER("w", acc);
    return acc;
}

/* acc + w * (lower + 32 * upper) for half h of the bytes. */
ES_INLINE uint16x8_t add_weighted(uint16x8_t acc, uint8x16_t lower, uint8x16_t upper, const int h,
                                  const int weight) {
    const uint8x16_t one = vdupq_n_u8((uint8_t)weight);
    const uint8x16_t many = vdupq_n_u8((uint8_t)(32 * weight));
    if (h == 0) {
        acc = vmlal_u8(acc, vget_low_u8(lower), vget_low_u8(one));
        return vmlal_u8(acc, vget_low_u8(upper), vget_low_u8(many));
    }
    return vmlal_high_u8(vmlal_high_u8(acc, lower, one), upper, many);
}

/* n vectors of a tile's bytes: sums[j][h] holds, modulo 2^16, the rows of half h of vector j, which are
 * es_excess(planes) too large. */
ES_INLINE void tile_sums(uint16x8_t sums[][2], const uint8_t *w, const uint8_t *table, const int n,
                         const int planes) {
    uint8x16_t lower[ES_SLICE_VECS][4], upper[ES_SLICE_VECS][4];
    for (int j = 0; j < n; j++) {
        for (int p = 0; p < planes; p++) {
            lower[j][p] = upper[j][p] = vdupq_n_u8(0);
        }
    }
#pragma GCC unroll 4
    for (int pair = 0; pair < ES_SLICE_PAIRS; pair++, table += 64) {
        const uint8x16_t lower0 = vld1q_u8(table), upper0 = vld1q_u8(table + 16);
        const uint8x16_t lower1 = vld1q_u8(table + 32), upper1 = vld1q_u8(table + 48);
#pragma GCC unroll 4
        for (int p = 0; p < planes; p++, w += ES_SLICE_PLANE_BYTES) {
#pragma GCC unroll 4
            for (int j = 0; j < n; j++) {
                const uint8x16_t v = vld1q_u8(w + 16 * j);
                const uint8x16_t i0 = vandq_u8(v, vdupq_n_u8(15)), i1 = vshrq_n_u8(v, 4);
                lower[j][p] = add_looked_up(lower[j][p], lower0, i0);
                upper[j][p] = add_looked_up(upper[j][p], upper0, i0);
                lower[j][p] = add_looked_up(lower[j][p], lower1, i1);
                upper[j][p] = add_looked_up(upper[j][p], upper1, i1);
            }
        }
    }
    for (int j = 0; j < n; j++) {
        for (int h = 0; h < 2; h++) {
            uint16x8_t low = vdupq_n_u16(0), high = low; /* planes 0 and 1, planes 2 and 3 */
            for (int p = 0; p < planes; p++) {
                uint16x8_t *to = p < 2 ? &low : &high;
                const int weight = planes == 1 ? 2 : 1 << p % 2;
                *to = add_weighted(*to, lower[j][p], upper[j][p], h, weight);
            }
            sums[j][h] = planes > 2 ? vaddq_u16(low, vshlq_n_u16(high, 2)) : low;
        }
    }
}

/* All vectors together share the tables' loads, but more than two planes need the registers. */
ES_INLINE int vecs_at_once(const int planes) {
    return planes <= 2 ? ES_SLICE_VECS : ES_SLICE_VECS / 2;
}

ES_INLINE void lut_block(float *f, const uint8_t *w, const uint8_t *table, float d, int32_t qsum,
                         const int is_first, const int planes) {
    const int32_t zero = es_excess(planes) + es_slice_middle(planes) * qsum;
    const uint16x8_t zeros = vdupq_n_u16((uint16_t)zero);
    const es_vf step = vf_set1(d);
    const int n = vecs_at_once(planes);
    for (int first = 0; first < ES_SLICE_VECS; first += n) {
        uint16x8_t sums[ES_SLICE_VECS][2];
        ES_KEEP_ORDER("r", table); /* or GCC loads all tables first and spills them */
        tile_sums(sums, w + 16 * first, table, n, planes);
        for (int j = 0; j < n; j++) {
            for (int h = 0; h < 2; h++) {
                const int16x8_t isum = vreinterpretq_s16_u16(vsubq_u16(sums[j][h], zeros));
                const size_t row = (size_t)(32 * h + 4 * (first + j));
                es_slice_collect(f, row, vcvtq_f32_s32(vmovl_s16(vget_low_s16(isum))), step,
                                 is_first);
                es_slice_collect(f, row + 16, vcvtq_f32_s32(vmovl_high_s16(isum)), step, is_first);
            }
        }
    }
}

ES_INLINE uint8x16_t mean_up(uint8x16_t a, uint8x16_t b) {
    a = vrhaddq_u8(a, b);
    ES_KEEP_ORDER("w", a);
    return a;
}

/* The averaged entries of one vector of a plane's block. */
ES_INLINE uint8x16_t mean_entries(const uint8_t *w, const uint8x16_t table[8], const int planes) {
    uint8x16_t a[ES_SLICE_PAIRS];
#pragma GCC unroll 4
    for (int pair = 0; pair < ES_SLICE_PAIRS; pair++) {
        const uint8x16_t v = vld1q_u8(w + pair * planes * ES_SLICE_PLANE_BYTES);
        a[pair] = mean_up(vqtbl1q_u8(table[2 * pair], vandq_u8(v, vdupq_n_u8(15))),
                          vqtbl1q_u8(table[2 * pair + 1], vshrq_n_u8(v, 4)));
    }
    return mean_up(mean_up(a[0], a[1]), mean_up(a[2], a[3]));
}

ES_INLINE void rounded_block(float *f, const uint8_t *w, const uint8_t *table, float d, float xsum,
                             const int is_first, const int planes) {
    const es_vf step = vf_set1(d * es_rounded_factor(planes));
    const es_vf half_xsum = vf_set1(planes == 1 ? 0.0f : 0.5f * xsum);
    uint8x16_t tables[8];
    for (int quad = 0; quad < 8; quad++) {
        tables[quad] = vld1q_u8(table + 16 * quad);
    }
    for (int j = 0; j < ES_SLICE_VECS; j++) {
        uint16x8_t sum[2] = {vdupq_n_u16(0), vdupq_n_u16(0)};
        for (int p = 0; p < planes; p++) {
            const uint8x16_t weight = vdupq_n_u8((uint8_t)(1 << p));
            const uint8x16_t a =
                mean_entries(w + 16 * j + p * ES_SLICE_PLANE_BYTES, tables, planes);
            sum[0] = vmlal_u8(sum[0], vget_low_u8(a), vget_low_u8(weight));
            sum[1] = vmlal_high_u8(sum[1], a, weight);
        }
        for (int h = 0; h < 2; h++) {
            const size_t row = (size_t)(32 * h + 4 * j);
            es_rounded_collect(f, row, vcvtq_f32_u32(vmovl_u16(vget_low_u16(sum[h]))), step,
                               half_xsum, is_first, planes);
            es_rounded_collect(f, row + 16, vcvtq_f32_u32(vmovl_high_u16(sum[h])), step, half_xsum,
                               is_first, planes);
        }
    }
}

ES_INLINE void add_wide(int32_t *to, int32x4_t v) {
    vst1q_s32(to, vaddq_s32(vld1q_s32(to), v));
}

/* int16 holds four blocks: 4 * 2 * 32 * [-128, 127] = -32768 ... 32512. */
ES_INLINE void lut_sums(int32_t *sums, const uint8_t *w, const uint8_t *table, size_t n_blocks) {
    memset(sums, 0, ES_SLICE_ROWS * sizeof *sums);
    for (size_t b = 0; b < n_blocks;) {
        const size_t n = n_blocks - b < 4 ? n_blocks - b : 4;
        uint16x8_t total[ES_SLICE_VECS][2];
        for (int i = 0; i < 2 * ES_SLICE_VECS; i++) {
            total[i / 2][i % 2] = vdupq_n_u16((uint16_t)((int32_t)n * -es_excess(2)));
        }
        for (const size_t end = b + n; b < end; b++, w += es_slice_block_bytes(2)) {
            uint16x8_t part[ES_SLICE_VECS][2];
            es_prefetch_ahead(w, es_slice_block_bytes(2));
            tile_sums(part, w, table + b * ES_TABLE_BYTES, ES_SLICE_VECS, 2);
            for (int i = 0; i < 2 * ES_SLICE_VECS; i++) {
                total[i / 2][i % 2] = vaddq_u16(total[i / 2][i % 2], part[i / 2][i % 2]);
            }
        }
        for (int i = 0; i < 2 * ES_SLICE_VECS; i++) {
            const int16x8_t sum = vreinterpretq_s16_u16(total[i / 2][i % 2]);
            int32_t *to = sums + 32 * (i % 2) + 4 * (i / 2);
            add_wide(to, vmovl_s16(vget_low_s16(sum)));
            add_wide(to + 16, vmovl_high_s16(sum));
        }
    }
}

ES_INLINE int8x16_t broadcast_quad(const int8_t *q) {
    int32_t quad;
    memcpy(&quad, q, sizeof quad);
    return vreinterpretq_s8_s32(vdupq_n_s32(quad));
}

/* total[t][i]: sums of rows 4i to 4i + 3 of a quarter of a tile for n_tokens tokens. */
ES_INLINE void mad_quarter(int32x4_t total[ES_MAD_TOKENS][4], const uint8_t *panel, const int8_t *q,
                           size_t q_stride, const int n_tokens) {
    mad_acc acc[ES_MAD_TOKENS][4];
    for (int t = 0; t < n_tokens; t++) {
        for (int i = 0; i < 4; i++) {
            acc[t][i] = mad_zero();
        }
    }
#pragma GCC unroll 1 /* or GCC loads the whole panel first and spills the sums */
    for (int quad = 0; quad < 8; quad++, panel += 4 * ES_SLICE_ROWS, q += 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const int8x16_t codes = vreinterpretq_s8_u8(vld1q_u8(panel + 16 * i));
#pragma GCC unroll 4
            for (int t = 0; t < n_tokens; t++) {
                acc[t][i] = mad_step(acc[t][i], codes, broadcast_quad(q + (size_t)t * q_stride));
            }
        }
    }
    for (int t = 0; t < n_tokens; t++) {
        for (int i = 0; i < 4; i++) {
            total[t][i] = mad_total(acc[t][i]);
        }
    }
}

ES_INLINE void mad_tokens(float *f, const uint8_t *panel, const es_q8 *x, size_t token, size_t b,
                          const int is_first, const int planes, const int n_tokens) {
    const int8_t *q = x->q + token * x->q_stride + b * ES_SLICE_BLOCK;
    for (size_t v = 0; v < 4; v++) {
        int32x4_t total[ES_MAD_TOKENS][4];
        mad_quarter(total, panel + 64 * v, q, x->q_stride, n_tokens);
        for (size_t t = 0; t < (size_t)n_tokens; t++) {
            const size_t at = (token + t) * x->stride_blocks + b;
            const int32x4_t zero = vdupq_n_s32(es_slice_middle(planes) * x->sum[at]);
            const es_vf d = vf_set1(x->d[at]);
            for (size_t i = 0; i < 4; i++) {
                const int32x4_t sum = planes == 1 ? vshlq_n_s32(total[t][i], 1) : total[t][i];
                es_slice_collect(f + t * ES_SLICE_ROWS, 16 * v + 4 * i,
                                 vcvtq_f32_s32(vsubq_s32(sum, zero)), d, is_first);
            }
        }
    }
}

ES_INLINE void add_sums(int32_t *sums, size_t sums_stride, const uint8_t *panel, const int8_t *q,
                        size_t q_stride, const int n_tokens) {
    for (size_t v = 0; v < 4; v++) {
        int32x4_t total[ES_MAD_TOKENS][4];
        mad_quarter(total, panel + 64 * v, q, q_stride, n_tokens);
        for (size_t t = 0; t < (size_t)n_tokens; t++) {
            for (size_t i = 0; i < 4; i++) {
                add_wide(sums + t * sums_stride + 16 * v + 4 * i, total[t][i]);
            }
        }
    }
}

#include "kernels/bitslice/slice_mad.h"
#include "kernels/bitslice/slice_driver.h"

#endif
