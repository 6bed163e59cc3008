/* Attention over chunks of the cache: rows of the cache, parts of a query, scratch. */
#ifndef ES_FAMILIES_ATTENTION_H
#define ES_FAMILIES_ATTENTION_H

#include "edgesparse.h"

/* One token of a block that attention works on: its heads lie side by side, head_dim floats each. */
typedef struct es_attention_token {
    const float *q; /* [n_heads][head_dim] */
    float *part;    /* [n_heads][es_attention_part_floats(head_dim)], see below */
    int32_t first;  /* attends to rows [first, end) of the chunk, at least one */
    int32_t end;
} es_attention_token;

/* Bytes of the bitmap of a pruned row of head_dim elements, and of the row. */
static inline size_t es_sparse_bitmap_bytes(int32_t head_dim) {
    return ((size_t)head_dim + 63) / 64 * 8;
}

static inline size_t es_sparse_row_bytes(int32_t head_dim, int32_t n_kept) {
    return es_sparse_bitmap_bytes(head_dim) + (size_t)n_kept * sizeof(uint16_t);
}

/* Rows of one kv head of one layer's cache: row j lies at data + j * row_bytes; or, for j < n_pruned, pruned
 * at pruned + j * pruned_bytes. n_pruned is a multiple of ES_KV_GROUP, and other rows lie behind those. */
typedef struct es_cache_rows {
    const uint8_t *data;
    size_t row_bytes; /* es_cache_row_bytes */
    int32_t type;     /* ES_CACHE_* */
    int32_t n_pruned;
    const uint8_t *pruned;
    size_t pruned_bytes; /* es_sparse_row_bytes */
} es_cache_rows;

/* So many bytes behind the last pruned row may be read. */
enum { ES_PRUNED_SLACK = 32 };

/* A block of the q8_0 cache: a half as step, then 32 int8 codes. */
enum { ES_CACHE_BLOCK = 32, ES_CACHE_BLOCK_BYTES = 34 };

static inline size_t es_cache_row_bytes(int32_t type, int32_t head_dim) {
    const size_t dim = (size_t)head_dim;
    return type == ES_CACHE_Q8_0
               ? (dim + ES_CACHE_BLOCK - 1) / ES_CACHE_BLOCK * ES_CACHE_BLOCK_BYTES
               : dim * sizeof(uint16_t);
}

static inline es_cache_rows es_cache_rows_from(const es_cache_rows *rows, int32_t first) {
    es_cache_rows later = *rows;
    later.data += (size_t)first * rows->row_bytes;
    return later;
}

enum {
    ES_ATTENTION_QUERIES = 16, /* heads times tokens in one call, at most */
    ES_ATTENTION_TILE = 16     /* rows that are worked on together */
};

/* What attention makes of one chunk for one query: the largest score, the sum of the weights, then
 * from ES_PART_VALUES on the weighted sum of values, padded. */
enum { ES_PART_TOP = 0, ES_PART_SUM = 1, ES_PART_VALUES = 16 };

/* head_dim rounded up to 16. */
static inline size_t es_attention_width(size_t head_dim) {
    return (head_dim + 15) / 16 * 16;
}

static inline size_t es_attention_part_floats(size_t head_dim) {
    return ES_PART_VALUES + es_attention_width(head_dim);
}

/* Floats of scratch for n_queries heads: the query and the scores of each, and a tile of widened rows. */
static inline size_t es_attention_scratch(size_t n_queries, size_t head_dim) {
    const size_t width = es_attention_width(head_dim);
    return n_queries * (width + ES_CACHE_CHUNK + 16) + ES_ATTENTION_TILE * width;
}

#endif
