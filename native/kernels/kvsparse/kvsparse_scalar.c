/* Rows of a pruned cache in plain C: the definition for every other instruction set.
 *
 * A row is a bitmap in whole words of 64 bits and the halfs that its set bits stand for, see
 * edgesparse/plan/sparse_rows.py. The bits of a half without its sign order halfs by magnitude, so that
 * everything here is integer arithmetic. */
#include "kernels.h"

#include <string.h>

static uint16_t half_at(const uint16_t *halfs, int32_t i) {
    return halfs[i] & 0x7fff;
}

/* The smallest magnitude that more than n_dropped of n halfs do not exceed, bit by bit from above. */
static uint16_t threshold(const uint16_t *halfs, int32_t n, int32_t n_dropped) {
    uint16_t low = 0;
    for (uint16_t bit = 0x4000; bit != 0; bit >>= 1) {
        /* As long as at most n_dropped lie below low + bit, the threshold is not below that either. */
        const uint16_t middle = (uint16_t)(low + bit);
        int32_t below = 0;
        for (int32_t i = 0; i < n; i++) {
            below += half_at(halfs, i) < middle;
        }
        low = below <= n_dropped ? middle : low;
    }
    return low;
}

static void prune_row(uint8_t *row, const uint16_t *halfs, int32_t n, int32_t n_kept) {
    const int32_t n_dropped = n - n_kept;
    const uint16_t bound = threshold(halfs, n, n_dropped);
    int32_t n_equal = n_dropped; /* to be dropped of those at the bound */
    for (int32_t i = 0; i < n; i++) {
        n_equal -= half_at(halfs, i) < bound;
    }
    const size_t bitmap = es_sparse_bitmap_bytes(n);
    memset(row, 0, bitmap);
    uint8_t *kept = row + bitmap;
    for (int32_t i = 0; i < n; i++) {
        const uint16_t magnitude = half_at(halfs, i);
        if (magnitude == bound && n_equal > 0) {
            n_equal--;
        } else if (magnitude >= bound) {
            row[i / 8] = (uint8_t)(row[i / 8] | 1u << i % 8);
            memcpy(kept, &halfs[i], sizeof halfs[i]);
            kept += sizeof halfs[i];
        }
    }
}

static void expand_rows(uint16_t *to, const uint8_t *rows, size_t row_bytes, int32_t n_rows,
                        int32_t n) {
    const size_t bitmap = es_sparse_bitmap_bytes(n);
    for (int32_t r = 0; r < n_rows; r++, rows += row_bytes, to += n) {
        const uint8_t *kept = rows + bitmap;
        for (int32_t i = 0; i < n; i++) {
            to[i] = 0;
            if (rows[i / 8] >> i % 8 & 1) {
                memcpy(&to[i], kept, sizeof to[i]);
                kept += sizeof to[i];
            }
        }
    }
}

void es_kvsparse_scalar(es_kernels *table) {
    table->prune_row = prune_row;
    table->expand_rows = expand_rows;
    table->kvsparse_variant = "scalar";
}
