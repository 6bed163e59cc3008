/* What lists and tiles of rows have in common, whatever the registers. The including file defines
 *   row_group(y, rows, asked, x, n_blocks, format)              y of eight rows, asking for others
 *   turn_at(to, stride, w, row_bytes, n_rows, offset)           eight words of eight rows as columns
 * and gets row_list() and row_tile(). */
#ifndef ES_ROWS_DRIVER_H
#define ES_ROWS_DRIVER_H

#include "kernels/rows/rows.h"

#include <string.h>

/* Where eight rows of the list begin, from entry i on; the last row stands in for those beyond. */
ES_INLINE void find_rows(const uint8_t *found[ES_GROUP], const uint8_t *w, size_t row_bytes,
                         const int32_t *rows, int32_t n_rows, int32_t i) {
    for (int32_t r = 0; r < ES_GROUP; r++) {
        const int32_t entry = i + r < n_rows ? i + r : n_rows - 1;
        found[r] = w + (size_t)rows[entry] * row_bytes;
    }
}

ES_INLINE void row_list(float *y, const uint8_t *w, size_t row_bytes, const int32_t *rows,
                        int32_t n_rows, const es_q16 *x, size_t n_blocks, int format) {
    es_asked_rows asked;
    for (int32_t i = 0; i < n_rows; i += ES_GROUP) {
        const uint8_t *found[ES_GROUP];
        float totals[ES_GROUP];
        find_rows(found, w, row_bytes, rows, n_rows, i);
        find_rows(asked.near, w, row_bytes, rows, n_rows, i + ES_GROUP);
        find_rows(asked.far, w, row_bytes, rows, n_rows, i + ES_FAR_GROUPS * ES_GROUP);
        row_group(totals, found, &asked, x, n_blocks, format);
        const int32_t n = n_rows - i < ES_GROUP ? n_rows - i : ES_GROUP;
        memcpy(y + i, totals, (size_t)n * sizeof *y);
    }
}

/* Steps, or minima, of all blocks. */
ES_INLINE void turn_halfs(uint8_t *to, size_t block_bytes, const uint8_t *w, size_t row_bytes,
                          int32_t n_rows, size_t offset, size_t n_blocks) {
    size_t b = 0;
    for (; b + 8 <= n_blocks; b += 8) {
        turn_at(to + b * block_bytes, block_bytes, w, row_bytes, n_rows, offset + 2 * b);
    }
    for (; b < n_blocks; b++) {
        memset(to + b * block_bytes, 0, 2 * ES_GROUP);
        for (int32_t r = 0; r < n_rows; r++) {
            memcpy(to + b * block_bytes + 2 * r, w + (size_t)r * row_bytes + offset + 2 * b, 2);
        }
    }
}

ES_INLINE void row_tile(uint8_t *tile, const uint8_t *w, size_t row_bytes, int32_t n_rows,
                        size_t n_blocks, int format) {
    const size_t code_bytes = es_row_code_bytes(format), halfs = es_row_has_minimum(format) ? 2 : 1;
    const size_t first = 2 * ES_GROUP * halfs, block_bytes = first + ES_GROUP * code_bytes;
    const size_t steps = es_row_step(n_blocks, 0, format);
    turn_halfs(tile, block_bytes, w, row_bytes, n_rows, steps, n_blocks);
    if (es_row_has_minimum(format)) {
        turn_halfs(tile + 2 * ES_GROUP, block_bytes, w, row_bytes, n_rows, steps + 2 * n_blocks,
                   n_blocks);
    }
    for (size_t b = 0; b < n_blocks; b++) {
        for (size_t half = 0; half < code_bytes / 16; half++) {
            turn_at(tile + b * block_bytes + first + 128 * half, 2 * ES_GROUP, w, row_bytes, n_rows,
                    b * code_bytes + 16 * half);
        }
    }
}

#endif
