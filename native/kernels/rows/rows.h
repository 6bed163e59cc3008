/* What the kernels of the row formats share: where things lie in a row (edgesparse/formats/README.md),
 * and one function per format. */
#ifndef ES_ROWS_H
#define ES_ROWS_H

#include "edgesparse.h"
#include "kernels.h"
#include "kernels/half.h"
#include "kernels/prefetch.h"

#define ES_INLINE static inline __attribute__((always_inline))

enum { ES_GROUP = 8 /* rows that go together */ };

/* From a row's first byte to the step of a block; its minimum lies 2 * n_blocks further on. */
ES_INLINE size_t es_row_step(size_t n_blocks, size_t block, int format) {
    return n_blocks * es_row_code_bytes(format) + 2 * block;
}

/* The rows asked for while a group is multiplied: the next group, into the first-level cache, and on x86 one
 * further on before, into the second level. With 22 and 70 % of 1536 rows of 640 bytes q8r then reads 10.6
 * and 13.5 GB/s instead of 7.6 and 8.1, q4r 7.6 and 8.7 instead of 6.0 and 6.8 (Zen 4, one thread); on an
 * Emerald Rapids server q8r gains 2 to 5 % and q4r loses 1 to 2. */
typedef struct es_asked_rows {
    const uint8_t *near[ES_GROUP], *far[ES_GROUP];
} es_asked_rows;

enum { ES_FAR_GROUPS = 3 };

ES_INLINE void es_ask_rows(const es_asked_rows *asked, size_t offset) {
    for (int r = 0; r < ES_GROUP; r++) {
        __builtin_prefetch(asked->near[r] + offset, 0, 3);
    }
    for (int r = 0; ES_PREFETCH_FAR > 0 && r < ES_GROUP; r++) {
        __builtin_prefetch(asked->far[r] + offset, 0, 2);
    }
}

/* One function of each kind per format from row_list() and row_tile(), which the including file defines
 * with the format as their last argument. */
#define ES_ROW_KERNELS(name, format)                                                           \
    static void name##_list(float *y, const uint8_t *w, size_t row_bytes, const int32_t *rows, \
                            int32_t n_rows, const es_q16 *x, int32_t n_blocks) {               \
        row_list(y, w, row_bytes, rows, n_rows, x, (size_t)n_blocks, format);                  \
    }                                                                                          \
    static void name##_tile(uint8_t *tile, const uint8_t *w, size_t row_bytes, int32_t n_rows, \
                            int32_t n_blocks) {                                                \
        row_tile(tile, w, row_bytes, n_rows, (size_t)n_blocks, format);                        \
    }

#define ES_ROW_FORMATS                   \
    ES_ROW_KERNELS(q8r, ES_FORMAT_Q8R)   \
    ES_ROW_KERNELS(q4r, ES_FORMAT_Q4R)   \
    ES_ROW_KERNELS(q4mr, ES_FORMAT_Q4MR) \
    ES_ROW_KERNELS(q8mr, ES_FORMAT_Q8MR)

#define ES_ROWS_SET(table, variant)                                    \
    do {                                                               \
        (table)->row_list[ES_FORMAT_Q8R - ES_FORMAT_Q8R] = q8r_list;   \
        (table)->row_list[ES_FORMAT_Q4R - ES_FORMAT_Q8R] = q4r_list;   \
        (table)->row_list[ES_FORMAT_Q4MR - ES_FORMAT_Q8R] = q4mr_list; \
        (table)->row_list[ES_FORMAT_Q8MR - ES_FORMAT_Q8R] = q8mr_list; \
        (table)->row_tile[ES_FORMAT_Q8R - ES_FORMAT_Q8R] = q8r_tile;   \
        (table)->row_tile[ES_FORMAT_Q4R - ES_FORMAT_Q8R] = q4r_tile;   \
        (table)->row_tile[ES_FORMAT_Q4MR - ES_FORMAT_Q8R] = q4mr_tile; \
        (table)->row_tile[ES_FORMAT_Q8MR - ES_FORMAT_Q8R] = q8mr_tile; \
        (table)->rows_variant = variant;                               \
    } while (0)

#endif
