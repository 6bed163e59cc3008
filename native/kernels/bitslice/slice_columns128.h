/* Bit slices by columns with NEON's vectors of 16 bytes: smlal takes one column at a time.
 *
 * Sums in int16 wrap around, until what the middle of the codes makes too much is taken off:
 * abs(isum) <= 8 * 127 * 32 = 32512. */
#ifndef ES_SLICE_COLUMNS128_H
#define ES_SLICE_COLUMNS128_H

#include "kernels/bitslice/slice_128.h"
#include "kernels/bitslice/slice_finish.h"
#include "kernels/bitslice/slice_line.h"

/* The codes at place `part` of the bytes. */
ES_INLINE int8x16_t codes_at128(uint8x16_t bytes, const int part, const int planes) {
    const int bits = planes == 2 ? 2 : 4;
    const uint8x16_t moved = vshlq_u8(bytes, vdupq_n_s8((int8_t)(-bits * part)));
    return vreinterpretq_s8_u8(vandq_u8(moved, vdupq_n_u8((uint8_t)((1 << bits) - 1))));
}

/* Sums of 8 rows join the floats of 4 from f on and of 4 from f + apart on. */
ES_INLINE void collect128(float *f, size_t apart, int16x8_t sums, int16_t zero, float32x4_t d,
                          const int is_first) {
    sums = vsubq_s16(sums, vdupq_n_s16(zero));
    es_slice_collect(f, 0, vcvtq_f32_s32(vmovl_s16(vget_low_s16(sums))), d, is_first);
    es_slice_collect(f, apart, vcvtq_f32_s32(vmovl_high_s16(sums)), d, is_first);
}

enum { ES_COLUMNS_AT_ONCE = 2 };

ES_INLINE size_t list_line(float *f, const es_line_columns *l, size_t n_lines, float step,
                           int32_t zero, const int is_first, const int planes) {
    const int share = (int)es_line_share(planes), runs = 8 / share;
    (void)n_lines;
    const float32x4_t d = vdupq_n_f32(step);
    int16x8_t sums[16]; /* [run of the line][place in a byte][half] */
    for (int i = 0; i < 16; i++) {
        sums[i] = vdupq_n_s16(0);
    }
    for (int32_t p = 0; p < l->n; p++) {
        if (p < l->n_next) {
            es_prefetch_pair(l, p);
        }
#pragma GCC unroll 2
        for (int second = 0; second < 2; second++) {
            const es_live_pair *pair = &l->pairs[p];
            const uint8_t *codes = l->codes + (second ? pair->b : pair->a) * l->column;
            const int8x16_t q = vdupq_n_s8((int8_t)(pair->q >> (second ? 8 : 0) & 0xff));
#pragma GCC unroll 4
            for (int run = 0; run < runs; run++) {
                const uint8x16_t bytes = vld1q_u8(codes + 16 * run);
#pragma GCC unroll 4
                for (int part = 0; part < share; part++) {
                    const int8x16_t c = codes_at128(bytes, part, planes);
                    int16x8_t *to = &sums[(run * share + part) * 2];
                    to[0] = vmlal_s8(to[0], vget_low_s8(c), vget_low_s8(q));
                    to[1] = vmlal_high_s8(to[1], c, q);
                }
            }
        }
    }
    const size_t apart = 4 * (size_t)runs;
#pragma GCC unroll 4
    for (size_t run = 0; run < (size_t)runs; run++) {
#pragma GCC unroll 4
        for (size_t part = 0; part < (size_t)share; part++) {
            const size_t i = (run * (size_t)share + part) * 2;
            float *to = f + 128 / (size_t)share * part + 4 * run;
            collect128(to, apart, sums[i], (int16_t)zero, d, is_first);
            collect128(to + 2 * apart, apart, sums[i + 1], (int16_t)zero, d, is_first);
        }
    }
    return 1;
}

/* panel[quad][row][column in the quad] */
ES_INLINE void unpack_columns(uint8_t *panel, const uint8_t *codes, size_t column, size_t half,
                              const int planes) {
    const int share = (int)es_line_share(planes), runs = 8 / share;
    const size_t apart = 4 * (size_t)runs;
    for (int quad = 0; quad < 8; quad++, codes += 4 * column, panel += 4 * ES_SLICE_ROWS) {
        for (int i = 0; i < 4; i++) {
            const int run = i % runs, part = (int)half * share / 2 + i / runs;
            int8x16_t c[4];
            for (size_t n = 0; n < 4; n++) {
                c[n] = codes_at128(vld1q_u8(codes + n * column + 16 * run), part, planes);
            }
            const int16x8_t a = vreinterpretq_s16_s8(vzip1q_s8(c[0], c[1]));
            const int16x8_t b = vreinterpretq_s16_s8(vzip1q_s8(c[2], c[3]));
            const int16x8_t d = vreinterpretq_s16_s8(vzip2q_s8(c[0], c[1]));
            const int16x8_t e = vreinterpretq_s16_s8(vzip2q_s8(c[2], c[3]));
            uint8_t *to = panel + 4 * (32 * (size_t)(i / runs) + 4 * (size_t)run);
            vst1q_u8(to, vreinterpretq_u8_s16(vzip1q_s16(a, b)));
            vst1q_u8(to + 4 * apart, vreinterpretq_u8_s16(vzip2q_s16(a, b)));
            vst1q_u8(to + 8 * apart, vreinterpretq_u8_s16(vzip1q_s16(d, e)));
            vst1q_u8(to + 12 * apart, vreinterpretq_u8_s16(vzip2q_s16(d, e)));
        }
    }
}

/* Bit i of the result: q[i] != 0, for 32 inputs. */
ES_INLINE uint32_t live_bytes(const int8_t *q) {
    static const uint8_t places[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t place = vld1q_u8(places);
    const int8x16_t low = vld1q_s8(q), high = vld1q_s8(q + 16);
    /* Each addition of neighbours halves the bytes: at last one for eight inputs. */
    uint8x16_t sums =
        vpaddq_u8(vandq_u8(vtstq_s8(low, low), place), vandq_u8(vtstq_s8(high, high), place));
    sums = vpaddq_u8(sums, sums);
    sums = vpaddq_u8(sums, sums);
    return vgetq_lane_u32(vreinterpretq_u32_u8(sums), 0);
}

#endif
