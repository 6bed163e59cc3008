/* Row formats: products that read live rows only. */
#ifndef ES_FAMILIES_ROWS_H
#define ES_FAMILIES_ROWS_H

#include "edgesparse.h"
#include "families/blocks.h"

/* Row formats (edgesparse/formats/README.md): a row's codes lie together, then the steps of its blocks and,
 * for some formats, their minima, as halfs, up to a whole cache line. */
static inline int es_is_row(int32_t format) {
    return format >= ES_FORMAT_Q8R && format <= ES_FORMAT_Q8MR;
}

static inline int es_row_is_nibble(int32_t format) {
    return format == ES_FORMAT_Q4R || format == ES_FORMAT_Q4MR;
}

static inline int es_row_has_minimum(int32_t format) {
    return format == ES_FORMAT_Q8MR || format == ES_FORMAT_Q4MR;
}

/* Bytes of the codes of one block. */
static inline size_t es_row_code_bytes(int32_t format) {
    return es_row_is_nibble(format) ? 16 : 32;
}

static inline size_t es_row_bytes(int32_t format, size_t n_blocks) {
    const size_t halfs = es_row_has_minimum(format) ? 2 : 1;
    return (n_blocks * (es_row_code_bytes(format) + 2 * halfs) + 63) / 64 * 64;
}

/* y[i] of row rows[i], for one token. */
typedef void es_row_list(float *y, const uint8_t *w, size_t row_bytes, const int32_t *rows,
                         int32_t n_rows, const es_q16 *x, int32_t n_blocks);

/* A tile of eight rows, as q8, q4, q4m or q8m store it, of n_rows rows and zeros. */
typedef void es_row_tile(uint8_t *tile, const uint8_t *w, size_t row_bytes, int32_t n_rows,
                         int32_t n_blocks);

/* The format of tiles whose codes and steps a column or row format holds; others are their own. */
static inline int32_t es_tile_format(int32_t format) {
    switch (format) {
    case ES_FORMAT_Q8N:
    case ES_FORMAT_Q8R:
        return ES_FORMAT_Q8;
    case ES_FORMAT_Q4N:
    case ES_FORMAT_Q4R:
        return ES_FORMAT_Q4;
    case ES_FORMAT_Q8MN:
    case ES_FORMAT_Q8MR:
        return ES_FORMAT_Q8M;
    case ES_FORMAT_Q4MN:
    case ES_FORMAT_Q4MR:
        return ES_FORMAT_Q4M;
    default:
        return format;
    }
}

#endif
