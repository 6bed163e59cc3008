/* Column formats: products that read live columns only. */
#ifndef ES_FAMILIES_COLUMNS_H
#define ES_FAMILIES_COLUMNS_H

#include "edgesparse.h"
#include "families/blocks.h"

/* Column formats (edgesparse/formats/README.md): a line is 64 bytes of a column, which hold 64 rows or,
 * of nibbles, 128. A tile is ES_COLUMN_WIDTH lines wide, the last one of a matrix what is left. One
 * block of it has 32 columns, one after the other, then the steps of its rows and, for some formats,
 * their minima, as halfs. */
enum { ES_LINE_BYTES = 64, ES_COLUMN_WIDTH = 8 };

static inline int es_is_slice_column(int32_t format) {
    return format >= ES_FORMAT_BS2N && format <= ES_FORMAT_BS4N;
}

static inline int es_is_block_column(int32_t format) {
    return format >= ES_FORMAT_Q8N && format <= ES_FORMAT_Q8MN;
}

static inline int es_is_column(int32_t format) {
    return es_is_block_column(format) || es_is_slice_column(format);
}

static inline int es_column_is_nibble(int32_t format) {
    return format == ES_FORMAT_Q4N || format == ES_FORMAT_Q4MN;
}

static inline int es_column_has_minimum(int32_t format) {
    return format == ES_FORMAT_Q8MN || format == ES_FORMAT_Q4MN;
}

static inline size_t es_line_rows(int32_t format) {
    return es_column_is_nibble(format) || es_is_slice_column(format) ? 128 : 64;
}

/* Bytes that one line takes in a block: 32 columns, and the steps and minima of its rows. */
static inline size_t es_line_block_bytes(int32_t format) {
    const size_t halfs = es_column_has_minimum(format) ? 2 : 1;
    return 32 * ES_LINE_BYTES + halfs * 2 * es_line_rows(format);
}

/* Some lines of one tile. */
typedef struct es_column_lines {
    const uint8_t *tile; /* its first byte */
    size_t width;        /* lines of the tile */
    size_t first, n;     /* the lines that are meant */
} es_column_lines;

/* Two columns whose inputs are not 0, and their inputs side by side. */
typedef struct es_live_pair {
    uint16_t a, b; /* columns of the block */
    uint32_t q;    /* int16 of a in the low half, of b in the high one; or int8 of a, b, a, b */
} es_live_pair;

/* The live columns of one token, block by block. */
typedef struct es_columns {
    const es_live_pair *pairs;
    const int32_t *begin; /* [n_blocks + 1]: block b has pairs [begin[b], begin[b + 1]) */
} es_columns;

/* The rows of some lines for one token, reading live columns only. */
typedef void es_column_list(float *y, const es_column_lines *lines, const es_columns *live,
                            const es_q16 *x, int32_t n_blocks);

/* The same for n_tokens tokens and all columns: y[t * y_stride + row]. */
typedef void es_column_dot(float *y, size_t y_stride, const es_column_lines *lines, const es_q16 *x,
                           int32_t n_tokens, int32_t n_blocks);

#endif
