/* Bit slices by columns: products that read live columns only, of codes and steps as bs2 to bs4 have. */
#ifndef ES_FAMILIES_SLICE_COLUMNS_H
#define ES_FAMILIES_SLICE_COLUMNS_H

#include "families/columns.h"
#include "families/slices.h"

/* Lines have 128 rows, whose codes take 2 bits each, or 4. A tile is groups, one after the other: the
 * steps of its rows, what stands beside these, and the columns. */
enum { ES_SLICE_LINE_ROWS = 128 };

static inline size_t es_slice_line_bytes(int32_t planes) {
    return planes == 2 ? 32 : 64;
}

/* Bytes that one line takes of a group's head. */
static inline size_t es_slice_line_head(const es_slices *s) {
    return ES_SLICE_LINE_ROWS * (es_slice_step_bytes(s) + es_slice_beside_bytes(s));
}

/* The rows of some lines for one token, reading live columns only: y[128 * line + row]. */
typedef void es_slice_list(float *y, const es_column_lines *lines, const es_slices *s,
                           const es_columns *live, const es_q8 *x);

/* The same for n_tokens tokens, at most 64, and all columns: y[t * y_stride + 128 * line + row]. */
typedef void es_slice_column_dot(float *y, size_t y_stride, const es_column_lines *lines,
                                 const es_slices *s, const es_q8 *x, int32_t n_tokens);

#endif
