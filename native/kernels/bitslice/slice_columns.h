/* The loops around the products with bit slices by columns (bytes: edgesparse/formats/README.md); floats
 * meet in the order of bit planes, and the same code adds them.
 *
 * Beside what slice_driver.h asks for the includer defines
 *
 *   list_line        one block of a line, or of several of n_lines, from the columns of a list, down to
 *                    the group's floats; returns how many lines it took
 *   ES_COLUMNS_AT_ONCE   2 for that from pairs, 4 from fours of columns
 *   live_bytes       bit i of the result: q[i] != 0, for 32 inputs
 *   unpack_columns   codes of a block of 64 rows of a line, as unpack_block leaves them
 *
 * A block without live columns would add +0 to its group, and a group of them +-0 to a result: neither
 * changes a sum that began with +0. */
#ifndef ES_SLICE_COLUMNS_H
#define ES_SLICE_COLUMNS_H

#include "kernels/bitslice/slice_line.h"
#include "kernels/far_columns.h"

/* Where the numbers of a line and its columns lie in a group of a tile. */
typedef struct es_slice_place {
    size_t step_bytes, beside_bytes, head_bytes, line_bytes, column;
} es_slice_place;

ES_INLINE es_slice_place es_place_of(const es_column_lines *lines, const es_slices *s,
                                     const int planes) {
    const size_t line_bytes = es_slice_line_bytes(planes);
    return (es_slice_place){.step_bytes = es_slice_step_bytes(s),
                            .beside_bytes = es_slice_beside_bytes(s),
                            .head_bytes = lines->width * es_slice_line_head(s),
                            .line_bytes = line_bytes,
                            .column = lines->width * line_bytes};
}

/* A group's sum `f` of 64 rows joins their results; `row` counts from the first of the tile. */
ES_INLINE void close_rows(float *y, const float *f, const uint8_t *head, size_t row,
                          const es_column_lines *lines, const es_slice_place *at, float xsum,
                          const es_slices *s) {
    const uint8_t *beside = head + lines->width * ES_SLICE_LINE_ROWS * at->step_bytes;
    es_slice_close_rows(y, f, head + row * at->step_bytes, beside + row * at->beside_bytes, xsum,
                        s);
}

/* Asks for what close_rows will read. */
ES_INLINE void prefetch_head(const uint8_t *head, const es_column_lines *lines,
                             const es_slice_place *at) {
    const size_t first = lines->first * ES_SLICE_LINE_ROWS, n = lines->n * ES_SLICE_LINE_ROWS;
    const uint8_t *beside = head + lines->width * ES_SLICE_LINE_ROWS * at->step_bytes;
    for (size_t i = 0; i < n * at->step_bytes; i += ES_CACHE_LINE) {
        __builtin_prefetch(head + first * at->step_bytes + i, 0, 3);
    }
    for (size_t i = 0; i < n * at->beside_bytes; i += ES_CACHE_LINE) {
        __builtin_prefetch(beside + first * at->beside_bytes + i, 0, 3);
    }
}

/* The block `ahead` of block b. Behind the last one lies the first of the next tile. */
ES_INLINE es_far_columns far_block(const es_column_lines *lines, const es_slice_place *at,
                                   const es_slices *s, const es_columns *live, size_t b,
                                   size_t ahead) {
    const size_t n_blocks = (size_t)s->n_blocks, per_group = (size_t)s->group_blocks;
    const size_t n_groups = (n_blocks + per_group - 1) / per_group, far = b + ahead;
    const size_t heads = far / n_blocks * n_groups + far % n_blocks / per_group + 1;
    const int32_t *begin = live->begin + far % n_blocks;
    return (es_far_columns){.lines = lines->tile + heads * at->head_bytes +
                                     far * ES_SLICE_BLOCK * at->column +
                                     lines->first * at->line_bytes,
                            .pairs = live->pairs + begin[0],
                            .n = ahead > 0 ? begin[1] - begin[0] : 0,
                            .column = at->column,
                            .bytes = lines->n * at->line_bytes};
}

ES_INLINE void list_lines(float *y, const es_column_lines *lines, const es_slices *s,
                          const es_columns *live, const es_q8 *x, const int planes) {
    _Alignas(64) float f[ES_COLUMN_WIDTH * ES_SLICE_LINE_ROWS];
    const es_slice_place at = es_place_of(lines, s, planes);
    const size_t n_blocks = (size_t)s->n_blocks, per_group = (size_t)s->group_blocks;
    const uint8_t *w = lines->tile;
    const size_t ahead = es_far_blocks(0);
    memset(y, 0, lines->n * ES_SLICE_LINE_ROWS * sizeof *y);
    for (size_t first = 0; first < n_blocks; first += per_group) {
        const size_t end = n_blocks - first < per_group ? n_blocks : first + per_group;
        const uint8_t *head = w;
        float xs = 0.0f;
        int is_first = 1;
        w += at.head_bytes;
        if (live->begin[first] != live->begin[end]) {
            prefetch_head(head, lines, &at);
        }
        for (size_t b = first; b < end; b++, w += ES_SLICE_BLOCK * at.column) {
            /* Behind the last block lies the first one of the next tile. */
            const int32_t *next = live->begin + (b + 1 < n_blocks ? b + 1 : 0);
            es_line_columns l = {.pairs = live->pairs + live->begin[b],
                                 .n = live->begin[b + 1] - live->begin[b],
                                 .next_pairs = live->pairs + next[0],
                                 .n_next = next[1] - next[0],
                                 .column = at.column};
            es_far_columns far = far_block(lines, &at, s, live, b, ahead);
            for (size_t i = 0, n_done; i < lines->n; i += n_done) {
                n_done = 1;
                es_far_share(&far, lines->n - i);
                l.codes = w + (lines->first + i) * at.line_bytes;
                l.next = l.codes + ES_SLICE_BLOCK * at.column + (b + 1 < end ? 0 : at.head_bytes);
                if (l.n > 0) {
                    n_done = list_line(f + i * ES_SLICE_LINE_ROWS, &l, lines->n - i, x->d[b],
                                       es_slice_middle(planes) * x->sum[b], is_first, planes);
                }
                for (int32_t p = l.n; p < l.n_next; p++) {
                    es_prefetch_pair(&l, p);
                }
            }
            if (l.n > 0) {
                xs = is_first ? x->xsum[b] : xs + x->xsum[b];
                is_first = 0;
            }
        }
        for (size_t row = 0; !is_first && row < lines->n * ES_SLICE_LINE_ROWS;
             row += ES_SLICE_ROWS) {
            close_rows(y + row, f + row, head, lines->first * ES_SLICE_LINE_ROWS + row, lines, &at,
                       xs, s);
        }
    }
}

/* 64 rows of a line, `half` 0 or 1, for several tokens. */
ES_INLINE void half_line_tokens(float *y, size_t y_stride, const es_column_lines *lines,
                                size_t line, size_t half, const es_slices *s, const es_q8 *x,
                                size_t n_tokens, const int planes) {
    _Alignas(64) uint8_t panel[ES_SLICE_ROWS * ES_SLICE_BLOCK];
    es_slice_group group;
    const es_slice_place at = es_place_of(lines, s, planes);
    const size_t n_blocks = (size_t)s->n_blocks, per_group = (size_t)s->group_blocks;
    const uint8_t *w = lines->tile;
    for (size_t first = 0; first < n_blocks; first += per_group) {
        const size_t end = n_blocks - first < per_group ? n_blocks : first + per_group;
        const uint8_t *head = w;
        w += at.head_bytes;
        for (size_t b = first; b < end; b++, w += ES_SLICE_BLOCK * at.column) {
            unpack_columns(panel, w + line * at.line_bytes, at.column, half, planes);
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
            close_rows(y + t * y_stride, group.f[t], head,
                       line * ES_SLICE_LINE_ROWS + half * ES_SLICE_ROWS, lines, &at, group.xsum[t],
                       s);
        }
    }
}

ES_INLINE void dot_lines(float *y, size_t y_stride, const es_column_lines *lines,
                         const es_slices *s, const es_q8 *x, int32_t n_tokens, const int planes) {
    for (size_t t = 0; t < (size_t)n_tokens; t++) {
        memset(y + t * y_stride, 0, lines->n * ES_SLICE_LINE_ROWS * sizeof *y);
    }
    for (size_t i = 0; i < lines->n; i++) {
        for (size_t half = 0; half < 2; half++) {
            half_line_tokens(y + i * ES_SLICE_LINE_ROWS + half * ES_SLICE_ROWS, y_stride, lines,
                             lines->first + i, half, s, x, (size_t)n_tokens, planes);
        }
    }
}

static void slice_list(float *y, const es_column_lines *lines, const es_slices *s,
                       const es_columns *live, const es_q8 *x) {
    switch (s->planes) {
    case 2:
        list_lines(y, lines, s, live, x, 2);
        break;
    case 3:
        list_lines(y, lines, s, live, x, 3);
        break;
    default:
        list_lines(y, lines, s, live, x, 4);
        break;
    }
}

static void slice_column_dot(float *y, size_t y_stride, const es_column_lines *lines,
                             const es_slices *s, const es_q8 *x, int32_t n_tokens) {
    switch (s->planes) {
    case 2:
        dot_lines(y, y_stride, lines, s, x, n_tokens, 2);
        break;
    case 3:
        dot_lines(y, y_stride, lines, s, x, n_tokens, 3);
        break;
    default:
        dot_lines(y, y_stride, lines, s, x, n_tokens, 4);
        break;
    }
}

static int32_t list_bytes(es_live_pair *pairs, int32_t *begin, const int8_t *q, int32_t n_blocks) {
    int32_t n = 0, n_live = 0;
    for (int32_t b = 0; b < n_blocks; b++, q += ES_SLICE_BLOCK) {
        const uint32_t live = live_bytes(q);
        begin[b] = n;
        const int32_t n_pairs = es_byte_pairs(pairs + n, live, q);
        n += ES_COLUMNS_AT_ONCE == 4 ? es_pairs_to_fours(pairs + n, n_pairs) : n_pairs;
        n_live += __builtin_popcount(live);
    }
    begin[n_blocks] = n;
    return n_live;
}

#endif
