/* coo, a matrix of few numbers with their coordinates (edgesparse/formats/README.md), and what reads it:
 * plain C on every CPU. */
#ifndef ES_COO_H
#define ES_COO_H

#include "edgesparse.h"

enum { ES_COO_ROWS = 16, ES_COO_MAX_K = 65536 };

typedef struct es_coo {
    const uint32_t *begins; /* [tiles + 1]: the first entry of every tile of rows */
    const float *values;
    const uint16_t *columns;
    const uint8_t *rows; /* within the tile */
} es_coo;

static inline size_t es_coo_tiles(const es_weight *w) {
    return ((size_t)w->n_rows + ES_COO_ROWS - 1) / ES_COO_ROWS;
}

/* Bytes of a matrix of so many entries: all four arrays, to a whole number of lines. */
static inline size_t es_coo_bytes(const es_weight *w, size_t n) {
    return (4 * (es_coo_tiles(w) + 1) + 7 * n + 63) / 64 * 64;
}

static inline es_coo es_coo_of(const es_weight *w) {
    const uint32_t *index = (const uint32_t *)(const void *)w->data;
    const size_t n_tiles = es_coo_tiles(w), n = index[n_tiles];
    const float *values = (const float *)(const void *)(index + n_tiles + 1);
    const uint16_t *columns = (const uint16_t *)(const void *)(values + n);
    return (es_coo){index, values, columns, (const uint8_t *)(columns + n)};
}

/* Whether lengths, rows and columns stay inside the matrix. */
int es_coo_is_valid(const es_weight *w);

#endif
