/* What one block of a line of bit slices by columns is, for list_line of every instruction set. */
#ifndef ES_SLICE_LINE_H
#define ES_SLICE_LINE_H

#include "kernels/bitslice/bitslice.h"
#include "kernels/live_pairs.h"

/* A block's live columns, and what to ask the memory for meanwhile. */
typedef struct es_line_columns {
    const uint8_t *codes;
    const uint8_t *next; /* the same line's codes in the block after it */
    const es_live_pair *pairs, *next_pairs;
    int32_t n, n_next;
    size_t column; /* bytes from a column to the next */
} es_line_columns;

ES_INLINE void es_prefetch_pair(const es_line_columns *l, int32_t p) {
    __builtin_prefetch(l->next + l->next_pairs[p].a * l->column, 0, 3);
    __builtin_prefetch(l->next + l->next_pairs[p].b * l->column, 0, 3);
}

/* Rows that share a byte of a line: their codes follow one another from its lowest bits on. */
ES_INLINE size_t es_line_share(const int planes) {
    return planes == 2 ? 4 : 2;
}

/* Writes the pairs of one block; returns their number. */
ES_INLINE int32_t es_byte_pairs(es_live_pair *pairs, uint32_t live, const int8_t *q) {
    int32_t n = 0;
    while (live != 0) {
        es_live_pair *pair = &pairs[n++];
        const uint32_t second = es_take_pair(pair, &live) ? (uint8_t)q[pair->b] : 0;
        pair->q = ((uint8_t)q[pair->a] | second << 8) * 0x10001u;
    }
    return n;
}

/* Turns a block's pairs into fours of columns, for kernels that take so many: an even number of pairs, and
 * all four inputs in the first of two. Returns their number. */
ES_INLINE int32_t es_pairs_to_fours(es_live_pair *pairs, int32_t n) {
    for (int32_t p = 0; p < n; p += 2) {
        if (p + 1 == n) {
            pairs[n++] = (es_live_pair){pairs[p].a, pairs[p].b, 0};
        }
        pairs[p].q = (pairs[p].q & 0xffff) | pairs[p + 1].q << 16;
    }
    return n;
}

#endif
