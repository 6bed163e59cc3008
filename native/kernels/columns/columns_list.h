/* From a block's mask of live columns to the pairs that kernels walk; shared by the instruction sets. */
#ifndef ES_COLUMNS_LIST_H
#define ES_COLUMNS_LIST_H

#include "kernels/columns/columns.h"

/* Writes the pairs of one block; returns their number. An odd column pairs with itself, the second time
 * with an input of zero. */
ES_INLINE int32_t es_live_pairs(es_live_pair *pairs, uint32_t live, const int16_t *q) {
    int32_t n = 0;
    while (live != 0) {
        const int a = __builtin_ctz(live);
        live &= live - 1;
        const int b = live != 0 ? __builtin_ctz(live) : a;
        const uint16_t second = live != 0 ? (uint16_t)q[b] : 0;
        live &= live - 1; /* 0 stays 0 */
        pairs[n].a = (uint16_t)a;
        pairs[n].b = (uint16_t)b;
        pairs[n].q = (uint32_t)(uint16_t)q[a] | (uint32_t)second << 16;
        n++;
    }
    return n;
}

#endif
