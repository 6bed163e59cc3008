/* Ternary products with smlal: int8 products added in int16.
 *
 * A product of a code and an activation is within [-256, 254] (t5's negated codes: [-254, 256]).
 * int16 sums are emptied into int32 before they can leave [-32768, 32767]:
 *
 *   panels  one product per 4 columns and lane: 128 steps, so panels of 512 columns
 *   t2 dot  per block 2 halves of 4 fields: 16 blocks, 128 * -256 = -32768
 *   t5 dot  per block 2 halves of 5 fields: 12 blocks, 120 *  256 =  30720 */
#include "ternary.h"

#include <arm_neon.h>

/* Twenty-four accumulators, two vectors of codes, one broadcast: 27 of 32 registers. */
#define ES_TILE_TOKENS 6
#define ES_PANEL_MIN_TOKENS 4

/* The lower and the upper eight products of a vector: for quads, rows 0-1 and rows 2-3. */
typedef int16x8x2_t es_quad_acc;

ES_INLINE es_quad_acc es_quad_zero(void) {
    return (es_quad_acc){{vdupq_n_s16(0), vdupq_n_s16(0)}};
}

ES_INLINE es_quad_acc es_quad_dot(es_quad_acc acc, uint8x16_t w, int8x16_t x) {
    const int8x16_t codes = vreinterpretq_s8_u8(w);
    acc.val[0] = vmlal_s8(acc.val[0], vget_low_s8(codes), vget_low_s8(x));
    acc.val[1] = vmlal_high_s8(acc.val[1], codes, x);
    return acc;
}

ES_INLINE int32x4_t es_quad_sums(es_quad_acc acc) {
    return vpaddq_s32(vpaddlq_s16(acc.val[0]), vpaddlq_s16(acc.val[1]));
}

enum { t2_FOLD_BLOCKS = 16, t5_FOLD_BLOCKS = 12 };

typedef struct es_dot_acc {
    es_quad_acc i16;
    int32x4_t i32;
} es_dot_acc;

ES_INLINE es_dot_acc es_dot_zero(void) {
    return (es_dot_acc){es_quad_zero(), vdupq_n_s32(0)};
}

ES_INLINE void es_dot_add(es_dot_acc *acc, int8x16_t codes, int8x16_t x) {
    acc->i16 = es_quad_dot(acc->i16, vreinterpretq_u8_s8(codes), x);
}

ES_INLINE void es_dot_fold(es_dot_acc *acc) {
    acc->i32 = vpadalq_s16(vpadalq_s16(acc->i32, acc->i16.val[0]), acc->i16.val[1]);
    acc->i16 = es_quad_zero();
}

ES_INLINE int32x4_t es_dot_sums(const es_dot_acc *acc) {
    return acc->i32;
}

#include "ternary_128.h"
#include "ternary_panel.h"

#define ES_FORMAT t2
#include "ternary_dot.inc"
#define ES_FORMAT t2
#include "ternary_list.inc"
#define ES_FORMAT t5
#include "ternary_dot.inc"
#define ES_FORMAT t5
#include "ternary_list.inc"
#include "t2n_128.h"

#define ES_VARIANT neon
#define ES_T2_PANEL_BLOCKS 4
#define ES_T5_PANEL_BLOCKS 3
#include "ternary_table.inc"
