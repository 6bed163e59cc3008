/* The rough first pass over a head with sdot, straight into int32. */
#include "kernels.h"

#include <arm_neon.h>

#define ES_INLINE static inline __attribute__((always_inline))

enum { FOLD_BLOCKS = ES_COARSE_MAX_K };

/* Two chains hide the latency. */
typedef struct es_acc {
    int32x4_t a, b;
} es_acc;

ES_INLINE es_acc acc_zero(void) {
    return (es_acc){vdupq_n_s32(0), vdupq_n_s32(0)};
}

ES_INLINE void acc_add(es_acc *acc, uint8x16_t codes, int8x16_t x) {
    const int32x4_t sum = vdotq_s32(acc->a, vreinterpretq_s8_u8(codes), x);
    acc->a = acc->b;
    acc->b = sum;
}

ES_INLINE void acc_fold(es_acc *acc) {
    (void)acc;
}

ES_INLINE int32_t acc_sum(const es_acc *acc) {
    return vaddvq_s32(vaddq_s32(acc->a, acc->b));
}

#include "kernels/proposal/proposal_rows.h"

void es_proposal_neondot(es_kernels *table) {
    table->proposal_dot = proposal_dot;
}
