/* What instruction sets share of pruned rows of the cache. The including file defines
 *   count_below(halfs, n, bound): how many of n halfs have a magnitude, by their bits, below bound. */
#ifndef ES_PRUNE_ROW_H
#define ES_PRUNE_ROW_H

#include "kernels.h"

#include <string.h>

static int32_t count_below(const uint16_t *halfs, int32_t n, uint16_t bound);

/* What decides on a half: magnitudes below `bound` are dropped, and the first n_equal at it. */
typedef struct es_prune {
    uint16_t bound;
    int32_t n_equal;
} es_prune;

static es_prune find_bound(const uint16_t *halfs, int32_t n, int32_t n_dropped) {
    uint16_t bound = 0;
    for (uint16_t bit = 0x4000; bit != 0; bit >>= 1) {
        const uint16_t middle = (uint16_t)(bound + bit);
        bound = count_below(halfs, n, middle) <= n_dropped ? middle : bound;
    }
    return (es_prune){bound, n_dropped - count_below(halfs, n, bound)};
}

/* Keeps what is to be kept of elements i to n, up to `last`; the row's bits are still 0. */
static void keep_end(uint8_t *row, uint8_t *kept, const uint8_t *last, const uint16_t *halfs,
                     int32_t i, int32_t n, es_prune by) {
    for (; i < n && kept < last; i++) {
        const int32_t magnitude = halfs[i] & 0x7fff;
        const int32_t equal = magnitude == by.bound && by.n_equal > 0;
        const int32_t keeps = magnitude >= by.bound && !equal;
        by.n_equal -= equal;
        row[i / 8] = (uint8_t)(row[i / 8] | (unsigned)keeps << i % 8);
        memcpy(kept, &halfs[i], sizeof halfs[i]);
        kept += 2 * keeps;
    }
}

#endif
