/* The loops around a variant's primitives, static so that every kernel file has them under its own
 * flags. The includer defines, beside what slice_finish.h asks for:
 *
 *   slice_tables    tables of one token's blocks
 *   lut_block       one block of one token, down to the group's floats
 *   rounded_tables, rounded_block   the same with rounded tables
 *   lut_sums        all blocks of one token over ternary planes
 *   unpack_block    codes of a block, one per byte
 *   mad_block       one block of up to ES_MAD_TOKENS tokens, down to the group's floats
 *   mad_sums        the same over ternary planes, added to integers */
#ifndef ES_SLICE_DRIVER_H
#define ES_SLICE_DRIVER_H

#include "kernels/bitslice/slice_finish.h"

enum { ES_SLICE_TOKENS = 64 }; /* in one call, at most */

/* What tokens have collected of the group in progress. */
typedef struct es_slice_group {
    _Alignas(64) float f[ES_SLICE_TOKENS][ES_SLICE_ROWS];
    float xsum[ES_SLICE_TOKENS];
} es_slice_group;

/* One block with exact or rounded tables; the numbers are those of its activations. */
ES_INLINE void es_lut_block(float *f, const uint8_t *w, const uint8_t *table, float d, int32_t sum,
                            float xsum, const int is_first, const int planes, const int rounded) {
    if (rounded) {
        rounded_block(f, w, table, d, xsum, is_first, planes);
    } else {
        lut_block(f, w, table, d, sum, is_first, planes);
    }
}

ES_INLINE void es_lut_tile(float *y, const uint8_t *w, const es_slices *s, const es_q8 *x,
                           size_t token, const int planes, const int rounded) {
    _Alignas(64) float f[ES_SLICE_ROWS], acc[ES_SLICE_ROWS];
    const size_t head_bytes = es_slice_head_bytes(s), n_blocks = (size_t)s->n_blocks;
    const size_t per_group = (size_t)s->group_blocks;
    const float *d = x->d + token * x->stride_blocks, *xsum = x->xsum + token * x->stride_blocks;
    const int32_t *sum = x->sum + token * x->stride_blocks;
    const size_t table_bytes = rounded ? ES_ROUNDED_BYTES : ES_TABLE_BYTES;
    const uint8_t *table = x->tables + token * x->stride_blocks * table_bytes;
    memset(acc, 0, sizeof acc);
    for (size_t b = 0; b < n_blocks;) {
        const uint8_t *head = w;
        const size_t end = n_blocks - b < per_group ? n_blocks : b + per_group;
        float xs = xsum[b];
        es_prefetch_ahead(head, head_bytes);
        w += head_bytes;
        es_prefetch_ahead(w, es_slice_block_bytes(planes));
        es_lut_block(f, w, table, d[b], sum[b], xsum[b], 1, planes, rounded);
        for (b++; b < end; b++) {
            w += es_slice_block_bytes(planes);
            table += table_bytes;
            xs = xs + xsum[b];
            es_prefetch_ahead(w, es_slice_block_bytes(planes));
            es_lut_block(f, w, table, d[b], sum[b], xsum[b], 0, planes, rounded);
        }
        w += es_slice_block_bytes(planes);
        table += table_bytes;
        es_slice_close(acc, f, head, xs, s);
    }
    memcpy(y, acc, sizeof acc);
}

ES_INLINE void es_mad_tile(float *y, size_t y_stride, const uint8_t *w, const es_slices *s,
                           const es_q8 *x, size_t n_tokens, const int planes) {
    _Alignas(64) uint8_t panel[ES_SLICE_ROWS * ES_SLICE_BLOCK];
    es_slice_group group;
    const size_t head_bytes = es_slice_head_bytes(s), n_blocks = (size_t)s->n_blocks;
    const size_t per_group = (size_t)s->group_blocks;
    for (size_t t = 0; t < n_tokens; t++) {
        memset(y + t * y_stride, 0, ES_SLICE_ROWS * sizeof *y);
    }
    for (size_t first = 0; first < n_blocks; first += per_group) {
        const uint8_t *head = w;
        const size_t end = n_blocks - first < per_group ? n_blocks : first + per_group;
        es_prefetch_ahead(head, head_bytes);
        w += head_bytes;
        for (size_t b = first; b < end; b++, w += es_slice_block_bytes(planes)) {
            es_prefetch_ahead(w, es_slice_block_bytes(planes));
            unpack_block(panel, w, planes);
            for (size_t t = 0; t < n_tokens; t++) {
                const float xsum = x->xsum[t * x->stride_blocks + b];
                group.xsum[t] = b == first ? xsum : group.xsum[t] + xsum;
            }
            for (size_t t = 0; t < n_tokens; t += ES_MAD_TOKENS) {
                const size_t left = n_tokens - t;
                mad_block(group.f[t], panel, x, t, left < ES_MAD_TOKENS ? left : ES_MAD_TOKENS, b,
                          b == first, planes);
            }
        }
        for (size_t t = 0; t < n_tokens; t++) {
            es_slice_close(y + t * y_stride, group.f[t], head, group.xsum[t], s);
        }
    }
}

ES_INLINE size_t es_slice_tile_bytes(const es_slices *s) {
    const size_t n_groups = (size_t)((s->n_blocks + s->group_blocks - 1) / s->group_blocks);
    return n_groups * es_slice_head_bytes(s) +
           (size_t)s->n_blocks * es_slice_block_bytes(s->planes);
}

ES_INLINE void es_look_up_tiles(float *y, size_t y_stride, const uint8_t *w, const es_slices *s,
                                int32_t n_tiles, const es_q8 *x, int32_t n_tokens, const int planes,
                                const int rounded) {
    for (int32_t tile = 0; tile < n_tiles; tile++) {
        for (int32_t t = 0; t < n_tokens; t++) {
            es_lut_tile(y + (size_t)t * y_stride + (size_t)tile * ES_SLICE_ROWS, w, s, x, (size_t)t,
                        planes, rounded);
        }
        w += es_slice_tile_bytes(s);
    }
}

ES_INLINE void es_lut_tiles(float *y, size_t y_stride, const uint8_t *w, const es_slices *s,
                            int32_t n_tiles, const es_q8 *x, int32_t n_tokens, const int planes) {
    es_look_up_tiles(y, y_stride, w, s, n_tiles, x, n_tokens, planes, 0);
}

ES_INLINE void es_rounded_tiles(float *y, size_t y_stride, const uint8_t *w, const es_slices *s,
                                int32_t n_tiles, const es_q8 *x, int32_t n_tokens,
                                const int planes) {
    es_look_up_tiles(y, y_stride, w, s, n_tiles, x, n_tokens, planes, 1);
}

ES_INLINE void es_mad_tiles(float *y, size_t y_stride, const uint8_t *w, const es_slices *s,
                            int32_t n_tiles, const es_q8 *x, int32_t n_tokens, const int planes) {
    for (int32_t tile = 0; tile < n_tiles; tile++) {
        es_mad_tile(y + (size_t)tile * ES_SLICE_ROWS, y_stride, w, s, x, (size_t)n_tokens, planes);
        w += es_slice_tile_bytes(s);
    }
}

#define ES_SLICE_DOT(name, tiles)                                                     \
    static void name(float *y, size_t y_stride, const uint8_t *w, const es_slices *s, \
                     int32_t n_tiles, const es_q8 *x, int32_t n_tokens) {             \
        switch (s->planes) {                                                          \
        case 1:                                                                       \
            tiles(y, y_stride, w, s, n_tiles, x, n_tokens, 1);                        \
            break;                                                                    \
        case 2:                                                                       \
            tiles(y, y_stride, w, s, n_tiles, x, n_tokens, 2);                        \
            break;                                                                    \
        case 3:                                                                       \
            tiles(y, y_stride, w, s, n_tiles, x, n_tokens, 3);                        \
            break;                                                                    \
        default:                                                                      \
            tiles(y, y_stride, w, s, n_tiles, x, n_tokens, 4);                        \
            break;                                                                    \
        }                                                                             \
    }

/* bst: sums[t][r] = sum of code * q over all columns, codes 0, 1, 2, for whole tiles. */
static void bst_lut(int32_t *sums, size_t sums_stride, const uint8_t *w, int32_t n_tiles,
                    const es_q8 *x, int32_t n_tokens, int32_t n_blocks) {
    for (int32_t tile = 0; tile < n_tiles; tile++) {
        for (size_t t = 0; t < (size_t)n_tokens; t++) {
            lut_sums(sums + t * sums_stride + (size_t)tile * ES_SLICE_ROWS, w,
                     x->tables + t * x->stride_blocks * ES_TABLE_BYTES, (size_t)n_blocks);
        }
        w += (size_t)n_blocks * es_slice_block_bytes(2);
    }
}

static void bst_mad(int32_t *sums, size_t sums_stride, const uint8_t *w, int32_t n_tiles,
                    const es_q8 *x, int32_t n_tokens, int32_t n_blocks) {
    _Alignas(64) uint8_t panel[ES_SLICE_ROWS * ES_SLICE_BLOCK];
    for (int32_t tile = 0; tile < n_tiles; tile++) {
        int32_t *out = sums + (size_t)tile * ES_SLICE_ROWS;
        for (size_t t = 0; t < (size_t)n_tokens; t++) {
            memset(out + t * sums_stride, 0, ES_SLICE_ROWS * sizeof *out);
        }
        for (size_t b = 0; b < (size_t)n_blocks; b++, w += es_slice_block_bytes(2)) {
            es_prefetch_ahead(w, es_slice_block_bytes(2));
            unpack_block(panel, w, 2);
            for (size_t t = 0; t < (size_t)n_tokens; t += ES_MAD_TOKENS) {
                const size_t left = (size_t)n_tokens - t;
                mad_sums(out + t * sums_stride, sums_stride, panel,
                         x->q + t * x->q_stride + b * ES_SLICE_BLOCK, x->q_stride,
                         left < ES_MAD_TOKENS ? left : ES_MAD_TOKENS);
            }
        }
    }
}

ES_SLICE_DOT(slice_lut, es_lut_tiles)
ES_SLICE_DOT(slice_rounded, es_rounded_tiles)
ES_SLICE_DOT(slice_mad, es_mad_tiles)

#include "kernels/bitslice/slice_columns.h"

#define ES_SLICE_SET(table, name)                             \
    do {                                                      \
        (table)->slice_list = slice_list;                     \
        (table)->slice_column_dot = slice_column_dot;         \
        (table)->list_bytes = list_bytes;                     \
        (table)->slice_tables = slice_tables;                 \
        (table)->slice_lut = slice_lut;                       \
        (table)->rounded_tables = rounded_tables;             \
        (table)->slice_rounded = slice_rounded;               \
        (table)->slice_mad = slice_mad;                       \
        (table)->bst_lut = bst_lut;                           \
        (table)->bst_mad = bst_mad;                           \
        (table)->lut_variant = (table)->mad_variant = (name); \
    } while (0)

#endif
