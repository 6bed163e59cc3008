/* Bit slices for NEON's dot product: looking up is the same, products are sdot. */
#include "kernels/bitslice/slice_128.h"

enum { ES_MAD_TOKENS = 4 };

typedef int32x4_t mad_acc;

ES_INLINE mad_acc mad_zero(void) {
    return vdupq_n_s32(0);
}

ES_INLINE mad_acc mad_step(mad_acc acc, int8x16_t codes, int8x16_t q) {
    return vdotq_s32(acc, codes, q);
}

ES_INLINE int32x4_t mad_total(mad_acc acc) {
    return acc;
}

#include "kernels/bitslice/slice_lut128.h"

void es_bitslice_neondot(es_kernels *table) {
    ES_SLICE_SET(table, "neondot");
}
