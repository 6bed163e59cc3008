/* Products with column formats for NEON: smlal multiplies int16 into two registers of int32, the pairs
 * of inputs of two rows in each, which are added at the end. */
#include "kernels/columns/columns.h"

#include <arm_neon.h>

typedef uint8x16_t vec;
typedef float32x4_t vecf;
typedef int32x4x2_t vacc;

#define VEC_BYTES 16
#define LIST_PARTS 2
#define v_zero() vdupq_n_u8(0)
#define v_load(p) vld1q_u8(p)
#define v_unpacklo8(a, b) vzip1q_u8(a, b)
#define v_unpackhi8(a, b) vzip2q_u8(a, b)
#define v_set32(i) vreinterpretq_u8_s32(vdupq_n_s32(i))
#define v_set16(i) vreinterpretq_u8_s16(vdupq_n_s16(i))
#define v_and(a, b) vandq_u8(a, b)
#define v_sub32(a, b) \
    vreinterpretq_u8_s32(vsubq_s32(vreinterpretq_s32_u8(a), vreinterpretq_s32_u8(b)))
#define v_shiftright32(a, n) vreinterpretq_u8_s32(vshrq_n_s32(vreinterpretq_s32_u8(a), n))
#define v_shiftright16(a, n) vreinterpretq_u8_u16(vshrq_n_u16(vreinterpretq_u16_u8(a), n))
#define v_tofloat(a) vcvtq_f32_s32(vreinterpretq_s32_u8(a))
#define v_halfs(p) vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)))
#define v_setf(f) vdupq_n_f32(f)
#define v_mulf(a, b) vmulq_f32(a, b)
#define v_addf(a, b) vaddq_f32(a, b)
#define v_loadf(p) vld1q_f32(p)
#define v_storef(p, a) vst1q_f32(p, a)

ES_INLINE vacc v_none(void) {
    return (vacc){{vdupq_n_s32(0), vdupq_n_s32(0)}};
}

ES_INLINE vacc v_madd(vacc acc, vec a, vec b) {
    const int16x8_t w = vreinterpretq_s16_u8(a), q = vreinterpretq_s16_u8(b);
    acc.val[0] = vmlal_s16(acc.val[0], vget_low_s16(w), vget_low_s16(q));
    acc.val[1] = vmlal_high_s16(acc.val[1], w, q);
    return acc;
}

ES_INLINE vec v_total(vacc acc) {
    return vreinterpretq_u8_s32(vpaddq_s32(acc.val[0], acc.val[1]));
}

#include "kernels/columns/columns_simd.h"

/* Bit i of the result: q[i] != 0, for 32 inputs. */
ES_INLINE uint32_t live_mask(const int16_t *q) {
    static const uint8_t places[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t place = vld1q_u8(places);
    uint8x16_t bits[2];
    for (int h = 0; h < 2; h++) {
        const int16x8_t low = vld1q_s16(q + 16 * h), high = vld1q_s16(q + 16 * h + 8);
        const uint8x16_t live = vuzp1q_u8(vreinterpretq_u8_u16(vtstq_s16(low, low)),
                                          vreinterpretq_u8_u16(vtstq_s16(high, high)));
        bits[h] = vandq_u8(live, place);
    }
    /* Each addition of neighbours halves the bytes: at last one for eight inputs. */
    uint8x16_t sums = vpaddq_u8(bits[0], bits[1]);
    sums = vpaddq_u8(sums, sums);
    sums = vpaddq_u8(sums, sums);
    return vgetq_lane_u32(vreinterpretq_u32_u8(sums), 0);
}

static int32_t list_columns(es_live_pair *pairs, int32_t *begin, const int16_t *q,
                            int32_t n_blocks) {
    int32_t n = 0, n_live = 0;
    for (int32_t b = 0; b < n_blocks; b++, q += 32) {
        const uint32_t live = live_mask(q);
        begin[b] = n;
        n += es_live_pairs(pairs + n, live, q);
        n_live += __builtin_popcount(live);
    }
    begin[n_blocks] = n;
    return n_live;
}

void es_columns_neon(es_kernels *table) {
    table->list_columns = list_columns;
    ES_COLUMNS_SET(table, "neon");
}
