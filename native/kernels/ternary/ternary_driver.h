/* The loops around a SIMD variant's primitives: one for few tokens, bound by memory, and one for many,
 * bound by the multipliers. Static, so that each kernel file has them under its own flags. */
#ifndef ES_TERNARY_DRIVER_H
#define ES_TERNARY_DRIVER_H

#include "ternary.h"

/* Packed bytes that stay in the second-level cache while token after token passes over them. */
enum { ES_TERNARY_STRIP_BYTES = 65536 };

static inline size_t es_min_size(size_t a, size_t b) {
    return a < b ? a : b;
}

/* One token times n_rows rows over one segment of k, in groups of dot_rows rows. */
static void es_ternary_gemv(const es_ternary_ops *ops, int32_t *sums, const uint8_t *w,
                            size_t row_bytes, size_t n_rows, const int8_t *q, size_t n_blocks,
                            int accumulate) {
    _Alignas(64) int8_t arranged[ES_TERNARY_SCRATCH_BYTES];
    if (ops->arrange != NULL) {
        ops->arrange(arranged, q, n_blocks);
        q = arranged;
    }
    const es_ahead ahead = es_groups_ahead(ops->dot_rows * row_bytes);
    for (size_t r = 0; r < n_rows; r += ops->dot_rows) {
        const size_t n = es_min_size(ops->dot_rows, n_rows - r);
        int32_t group[ES_TERNARY_MAX_DOT_ROWS];
        ops->dot(group, w + r * row_bytes, row_bytes, n, q, n_blocks, ahead);
        for (size_t i = 0; i < n; i++) {
            sums[r + i] = accumulate ? sums[r + i] + group[i] : group[i];
        }
    }
}

/* Few tokens: rows are read packed, strip by strip, and every token passes over a strip while it is
 * near. Segments of k exist for the sake of the fixed buffer; ordinary models have one. */
static void es_ternary_strips(const es_ternary_ops *ops, int32_t *sums, size_t sums_stride,
                              const uint8_t *w, size_t row_bytes, size_t n_rows, const int8_t *q,
                              size_t q_stride, size_t n_tokens, size_t n_blocks) {
    const size_t segment = ES_TERNARY_SCRATCH_BYTES / ops->block & ~(size_t)1;
    size_t strip = n_rows;
    if (n_tokens > 1) {
        strip = ES_TERNARY_STRIP_BYTES / row_bytes / ops->dot_rows * ops->dot_rows;
        strip = strip < ops->dot_rows ? ops->dot_rows : strip;
    }
    for (size_t b = 0; b < n_blocks; b += segment) {
        const size_t n = es_min_size(segment, n_blocks - b);
        for (size_t r = 0; r < n_rows; r += strip) {
            for (size_t t = 0; t < n_tokens; t++) {
                es_ternary_gemv(ops, sums + t * sums_stride + r,
                                w + r * row_bytes + b * ES_TERNARY_BLOCK_BYTES, row_bytes,
                                es_min_size(strip, n_rows - r), q + t * q_stride + b * ops->block,
                                n, b > 0);
            }
        }
    }
}

/* Requests n_bytes of each of n_rows rows. */
static void es_ternary_prefetch(const uint8_t *w, size_t row_bytes, size_t n_rows, size_t n_bytes) {
    for (size_t r = 0; r < n_rows; r++) {
        for (size_t i = 0; i < n_bytes; i += ES_CACHE_LINE) {
            es_prefetch(w, r * row_bytes + i);
        }
    }
}

/* Many tokens: a panel of rows is unpacked once and multiplied with all tokens, tile by tile. */
static void es_ternary_panels(const es_ternary_ops *ops, int32_t *sums, size_t sums_stride,
                              const uint8_t *w, size_t row_bytes, size_t n_rows, const int8_t *q,
                              size_t q_stride, size_t n_tokens, size_t n_blocks) {
    _Alignas(64) uint8_t panel[ES_TERNARY_SCRATCH_BYTES];
    for (size_t r = 0; r < n_rows; r += ops->panel_rows) {
        const size_t n = es_min_size(ops->panel_rows, n_rows - r);
        for (size_t b = 0; b < n_blocks; b += ops->panel_blocks) {
            const size_t blocks = es_min_size(ops->panel_blocks, n_blocks - b);
            const uint8_t *chunk = w + r * row_bytes + b * ES_TERNARY_BLOCK_BYTES;
            ops->unpack(panel, chunk, row_bytes, n, blocks);
            /* The next chunk arrives from memory while this one is multiplied. */
            const int is_last = b + blocks == n_blocks;
            es_ternary_prefetch(is_last ? w + (r + n) * row_bytes
                                        : chunk + blocks * ES_TERNARY_BLOCK_BYTES,
                                row_bytes, n, blocks * ES_TERNARY_BLOCK_BYTES);
            for (size_t t = 0; t < n_tokens; t += ops->tile_tokens) {
                ops->tile(sums + t * sums_stride + r, sums_stride, panel, n,
                          q + t * q_stride + b * ops->block, q_stride,
                          es_min_size(ops->tile_tokens, n_tokens - t), blocks * ops->block, b > 0);
            }
        }
    }
}

static inline void es_ternary_run(const es_ternary_ops *ops, int32_t *sums, size_t sums_stride,
                                  const uint8_t *w, size_t row_bytes, int32_t n_rows,
                                  const int8_t *q, size_t q_stride, int32_t n_tokens, int32_t k) {
    const size_t n_blocks = ((size_t)k + ops->block - 1) / ops->block;
    const size_t rows = (size_t)n_rows, tokens = (size_t)n_tokens;
    if (tokens < ops->panel_min_tokens) {
        es_ternary_strips(ops, sums, sums_stride, w, row_bytes, rows, q, q_stride, tokens,
                          n_blocks);
    } else {
        es_ternary_panels(ops, sums, sums_stride, w, row_bytes, rows, q, q_stride, tokens,
                          n_blocks);
    }
}

#endif
