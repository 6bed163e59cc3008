/* Sizes and places of the column formats (edgesparse/formats/README.md), shared by their kernels. */
#ifndef ES_COLUMNS_H
#define ES_COLUMNS_H

#include "edgesparse.h"
#include "kernels.h"
#include "kernels/half.h"
#include "kernels/prefetch.h"

#define ES_INLINE static inline __attribute__((always_inline))

/* From a column code's stored number to the code. */
ES_INLINE int32_t es_column_zero(int format) {
    return format == ES_FORMAT_Q8N || format == ES_FORMAT_Q8MN ? 128
           : format == ES_FORMAT_Q4N                           ? 8
                                                               : 0;
}

/* Where row r (below 64) of a column's 64 bytes lies. Interleaving two columns' bytes, and those with
 * zeros, then leaves rows in their order, in registers of 128, 256 and 512 bits alike. */
ES_INLINE size_t es_column_place(size_t r) {
    return r / 4 % 4 * 16 + r / 16 * 4 + r % 4;
}

/* Steps of line `line` in a block that starts at p; the minima lie es_minimum_offset behind them. */
ES_INLINE const uint8_t *es_line_steps(const uint8_t *p, size_t width, size_t line, int format) {
    return p + width * 32 * ES_LINE_BYTES + line * 2 * es_line_rows(format);
}

ES_INLINE size_t es_minimum_offset(size_t width, int format) {
    return width * 2 * es_line_rows(format);
}

/* The column formats by name: FORMAT_KERNELS(name, format) for each. */
#define ES_COLUMN_FORMATS(FORMAT_KERNELS) \
    FORMAT_KERNELS(q8n, ES_FORMAT_Q8N)    \
    FORMAT_KERNELS(q4n, ES_FORMAT_Q4N)    \
    FORMAT_KERNELS(q8mn, ES_FORMAT_Q8MN)  \
    FORMAT_KERNELS(q4mn, ES_FORMAT_Q4MN)

/* One function per format from column_list() and column_dot(), which the including file defines with
 * the format as their last argument. */
#define ES_COLUMN_KERNELS(name, format)                                                     \
    static void name##_list(float *y, const es_column_lines *lines, const es_columns *live, \
                            const es_q16 *x, int32_t n_blocks) {                            \
        column_list(y, lines, live, x, (size_t)n_blocks, format);                           \
    }                                                                                       \
    static void name##_dot(float *y, size_t y_stride, const es_column_lines *lines,         \
                           const es_q16 *x, int32_t n_tokens, int32_t n_blocks) {           \
        column_dot(y, y_stride, lines, x, (size_t)n_tokens, (size_t)n_blocks, format);      \
    }

#define ES_COLUMNS_SET(table, variant)      \
    do {                                    \
        (table)->q8n_list = q8n_list;       \
        (table)->q4n_list = q4n_list;       \
        (table)->q8mn_list = q8mn_list;     \
        (table)->q4mn_list = q4mn_list;     \
        (table)->q8n_dot = q8n_dot;         \
        (table)->q4n_dot = q4n_dot;         \
        (table)->q8mn_dot = q8mn_dot;       \
        (table)->q4mn_dot = q4mn_dot;       \
        (table)->columns_variant = variant; \
    } while (0)

#endif
