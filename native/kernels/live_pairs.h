/* From a block's mask of live columns to the pairs that kernels walk; shared by formats by columns. */
#ifndef ES_LIVE_PAIRS_H
#define ES_LIVE_PAIRS_H

#include "kernels.h"

/* Takes the first two columns from a mask that is not 0. Returns whether there were two: an odd column
 * pairs with itself, and its second input has to be zero. */
static inline __attribute__((always_inline)) int es_take_pair(es_live_pair *pair, uint32_t *live) {
    const int a = __builtin_ctz(*live);
    *live &= *live - 1;
    const int two = *live != 0;
    pair->a = (uint16_t)a;
    pair->b = (uint16_t)(two ? __builtin_ctz(*live) : a);
    *live &= *live - 1; /* 0 stays 0 */
    return two;
}

#endif
