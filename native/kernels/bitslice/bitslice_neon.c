/* Bit slices for NEON: tbl tables, smlal products.
 *
 * A product is at most 15 * 127 = 1905 (bst: 2 * -128), so that int16 lanes hold the 8 quads of a
 * block: 15240. */
#include "kernels/bitslice/slice_128.h"

enum { ES_MAD_TOKENS = 2 };

typedef int16x8x2_t mad_acc;

ES_INLINE mad_acc mad_zero(void) {
    return (mad_acc){{vdupq_n_s16(0), vdupq_n_s16(0)}};
}

ES_INLINE mad_acc mad_step(mad_acc acc, int8x16_t codes, int8x16_t q) {
    acc.val[0] = vmlal_s8(acc.val[0], vget_low_s8(codes), vget_low_s8(q));
    acc.val[1] = vmlal_high_s8(acc.val[1], codes, q);
    return acc;
}

ES_INLINE int32x4_t mad_total(mad_acc acc) {
    return vpaddq_s32(vpaddlq_s16(acc.val[0]), vpaddlq_s16(acc.val[1]));
}

#include "kernels/bitslice/slice_lut128.h"

void es_bitslice_neon(es_kernels *table) {
    ES_SLICE_SET(table, "neon");
}
