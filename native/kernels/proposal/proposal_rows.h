/* The rough first pass over a head in 128-bit registers; NEON and its dot product share it.
 *
 * The including file defines how codes and activations, 16 of each, add up:
 *   es_acc, acc_zero(), acc_add(&acc, codes, x), acc_fold(&acc), acc_sum(&acc)
 * and FOLD_BLOCKS, the blocks of 128 columns after which narrow sums are emptied. */
#ifndef ES_PROPOSAL_ROWS_H
#define ES_PROPOSAL_ROWS_H

#include "kernels/prefetch.h"

enum { ROWS = 4, BLOCK_BYTES = 32 };

ES_INLINE void add_block(es_acc *acc, const uint8_t *w, const int8_t *q) {
    const uint8x16_t three = vdupq_n_u8(3);
    for (int half = 0; half < 2; half++) {
        const uint8x16_t v = vld1q_u8(w + 16 * half);
        const int8_t *x = q + 16 * half;
        acc_add(acc, vshrq_n_u8(v, 6), vld1q_s8(x));
        acc_add(acc, vandq_u8(vshrq_n_u8(v, 4), three), vld1q_s8(x + 32));
        acc_add(acc, vandq_u8(vshrq_n_u8(v, 2), three), vld1q_s8(x + 64));
        acc_add(acc, vandq_u8(v, three), vld1q_s8(x + 96));
    }
}

ES_INLINE void rows(int32_t *sums, const uint8_t *w, size_t row_bytes, const int8_t *q,
                    const int n) {
    const size_t n_blocks = row_bytes / BLOCK_BYTES;
    const es_ahead ahead = es_groups_ahead((size_t)n * row_bytes);
    es_acc acc[ROWS];
    for (int r = 0; r < n; r++) {
        acc[r] = acc_zero();
    }
    for (size_t b = 0; b < n_blocks;) {
        const size_t end = n_blocks - b < FOLD_BLOCKS ? n_blocks : b + FOLD_BLOCKS;
        for (; b < end; b++) {
            for (int r = 0; r < n; r++) {
                const uint8_t *at = w + (size_t)r * row_bytes + b * BLOCK_BYTES;
                if (b % (ES_CACHE_LINE / BLOCK_BYTES) == 0) {
                    es_prefetch_stages(at, ahead);
                }
                add_block(&acc[r], at, q + b * 4 * BLOCK_BYTES);
            }
        }
        for (int r = 0; r < n; r++) {
            acc_fold(&acc[r]);
        }
    }
    for (int r = 0; r < n; r++) {
        sums[r] = acc_sum(&acc[r]);
    }
}

static void proposal_dot(int32_t *sums, const uint8_t *w, size_t row_bytes, int32_t n_rows,
                         const int8_t *q) {
    int32_t r = 0;
    for (; r + ROWS <= n_rows; r += ROWS) {
        rows(sums + r, w + (size_t)r * row_bytes, row_bytes, q, ROWS);
    }
    for (; r < n_rows; r++) {
        rows(sums + r, w + (size_t)r * row_bytes, row_bytes, q, 1);
    }
}

#endif
