/* The rough first pass over a head for NEON: smlal into int16. Two products a lane and field, eight
 * fields' halves a block: 8 * 3 * -128 * 10 blocks = -30720. */
#include "kernels.h"

#include <arm_neon.h>

#define ES_INLINE static inline __attribute__((always_inline))

enum { FOLD_BLOCKS = 10 };

typedef struct es_acc {
    int16x8_t low, high;
    int32x4_t wide;
} es_acc;

ES_INLINE es_acc acc_zero(void) {
    return (es_acc){vdupq_n_s16(0), vdupq_n_s16(0), vdupq_n_s32(0)};
}

ES_INLINE void acc_add(es_acc *acc, uint8x16_t codes, int8x16_t x) {
    const int8x16_t w = vreinterpretq_s8_u8(codes);
    acc->low = vmlal_s8(acc->low, vget_low_s8(w), vget_low_s8(x));
    acc->high = vmlal_high_s8(acc->high, w, x);
}

ES_INLINE void acc_fold(es_acc *acc) {
    acc->wide = vpadalq_s16(vpadalq_s16(acc->wide, acc->low), acc->high);
    acc->low = acc->high = vdupq_n_s16(0);
}

ES_INLINE int32_t acc_sum(const es_acc *acc) {
    return vaddvq_s32(acc->wide);
}

#include "kernels/proposal/proposal_rows.h"

void es_proposal_neon(es_kernels *table) {
    table->proposal_dot = proposal_dot;
}
