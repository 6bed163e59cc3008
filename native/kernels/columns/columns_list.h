/* Pairs of columns with inputs of 16 bits; shared by the instruction sets. */
#ifndef ES_COLUMNS_LIST_H
#define ES_COLUMNS_LIST_H

#include "kernels/columns/columns.h"
#include "kernels/live_pairs.h"

/* Writes the pairs of one block; returns their number. */
ES_INLINE int32_t es_live_pairs(es_live_pair *pairs, uint32_t live, const int16_t *q) {
    int32_t n = 0;
    while (live != 0) {
        es_live_pair *pair = &pairs[n++];
        const uint16_t second = es_take_pair(pair, &live) ? (uint16_t)q[pair->b] : 0;
        pair->q = (uint32_t)(uint16_t)q[pair->a] | (uint32_t)second << 16;
    }
    return n;
}

#endif
