/* Ternary products with sdot: four int8 products added to an int32 lane at once, exactly, so no sum
 * needs emptying. */
#include "ternary.h"

#include <arm_neon.h>

/* Sixteen accumulators: enough for two sdot per cycle, with one broadcast load for every two. */
#define ES_TILE_TOKENS 8
#define ES_PANEL_MIN_TOKENS 4

typedef int32x4_t es_quad_acc;

ES_INLINE es_quad_acc es_quad_zero(void) {
    return vdupq_n_s32(0);
}

ES_INLINE es_quad_acc es_quad_dot(es_quad_acc acc, uint8x16_t w, int8x16_t x) {
    return vdotq_s32(acc, vreinterpretq_s8_u8(w), x);
}

ES_INLINE int32x4_t es_quad_sums(es_quad_acc acc) {
    return acc;
}

enum { t2_FOLD_BLOCKS = 1 << 20, t5_FOLD_BLOCKS = 1 << 20 };

typedef int32x4_t es_dot_acc;

ES_INLINE es_dot_acc es_dot_zero(void) {
    return vdupq_n_s32(0);
}

ES_INLINE void es_dot_add(es_dot_acc *acc, int8x16_t codes, int8x16_t x) {
    *acc = vdotq_s32(*acc, codes, x);
}

ES_INLINE void es_dot_fold(es_dot_acc *acc) {
    (void)acc;
}

ES_INLINE int32x4_t es_dot_sums(const es_dot_acc *acc) {
    return *acc;
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

#define ES_VARIANT neondot
#define ES_T2_PANEL_BLOCKS 8
#define ES_T5_PANEL_BLOCKS 6
#include "ternary_table.inc"
