/* The loops around a SIMD variant's primitives, for queries that read one chunk of one kv head.
 *
 * Queries are served in groups of four, so that a row is loaded and widened once for four of them.
 * Few queries read the cache as it lies; many, and ragged heads, go through a tile of sixteen rows
 * that are widened first, padded with zero columns to a multiple of sixteen.
 * Every query of a call meets every row that any of them attends to; its weight is +0 where it does
 * not, which changes no sum: sums start from +0 and so never are -0. A lane of dot16 starts with its
 * first product instead of +0: that can change the sign of a zero score, never a weight.
 *
 * The including file defines, inlined, with `width` the padded head_dim:
 *   widen_row(to, from, n)                        n halfs as floats
 *   widen_q8_row(to, from, n)                     n elements of a q8_0 row as floats
 *   widen_pruned_row(to, from, n)                 n elements of a pruned row as floats, zeros behind them;
 *       if it defines ES_READS_PRUNED as 1, and score_rows then takes such rows too
 *   score_rows(s, stride, q, n_queries, rows, n, width, scale)
 *       s[i * stride + r] = dot16(q + i * width, row r) * scale for r < n; may write up to sixteen
 *   weigh(s, low, high, part)                     s[j] = exp(s[j] - max s), or +0 where s[j] is -inf;
 *       notes maximum and sum in the part; low and high are multiples of sixteen
 *   add_rows(acc, e, stride, n_queries, rows, n, width)
 *       acc[i][0..width) += e[i * stride + r] * row r, for rows r < n in order
 * and ES_VALUE_ROWS, the rows of values that a strip of columns goes down before the next strip.
 * n_queries is 1 to 4, a constant. */
#ifndef ES_ATTENTION_DRIVER_H
#define ES_ATTENTION_DRIVER_H

#include "kernels.h"
#include "kernels/attention/cache_rows.h"
#include "kernels/prefetch.h"

#include <math.h>
#include <string.h>

#define ES_INLINE_ATTENTION static inline __attribute__((always_inline))

enum {
    ES_ATTENTION_GROUP = 4, /* queries that share a row in registers */
    ES_SCORES_STRIDE = ES_CACHE_CHUNK + 16
};

static inline int32_t es_lower(int32_t a, int32_t b) {
    return a < b ? a : b;
}

/* A call, and where its scratch lies. */
typedef struct es_attention_block {
    int32_t n_queries, head_dim;
    int32_t low, high; /* rows that any query reads; low is a tile's first */
    float *q, *tile, *scores;
    float *parts[ES_ATTENTION_QUERIES], *values[ES_ATTENTION_QUERIES];
    int32_t first[ES_ATTENTION_QUERIES], end[ES_ATTENTION_QUERIES];
} es_attention_block;

ES_INLINE_ATTENTION void es_attention_lay_out(es_attention_block *b,
                                              const es_attention_token *tokens, int32_t n_tokens,
                                              int32_t n_heads, int32_t head_dim, size_t width,
                                              float *scratch) {
    const size_t dim = (size_t)head_dim, part_floats = ES_PART_VALUES + width;
    b->n_queries = 0;
    b->head_dim = head_dim;
    b->low = ES_CACHE_CHUNK;
    b->high = 0;
    b->tile = scratch;
    b->q = b->tile + ES_ATTENTION_TILE * width;
    b->scores = b->q + (size_t)(n_tokens * n_heads) * width;
    for (const es_attention_token *token = tokens; token < tokens + n_tokens; token++) {
        b->low = token->first < b->low ? token->first : b->low;
        b->high = token->end > b->high ? token->end : b->high;
        for (size_t h = 0; h < (size_t)n_heads; h++) {
            const int32_t i = b->n_queries++;
            float *q = b->q + (size_t)i * width;
            memcpy(q, token->q + h * dim, dim * sizeof *q);
            memset(q + dim, 0, (width - dim) * sizeof *q);
            b->first[i] = token->first;
            b->end[i] = token->end;
            b->parts[i] = token->part + h * part_floats;
            b->values[i] = b->parts[i] + ES_PART_VALUES;
            memset(b->values[i], 0, width * sizeof *q);
        }
    }
    b->low = b->low / ES_ATTENTION_TILE * ES_ATTENTION_TILE;
}

#if ES_READS_PRUNED
/* Pruned rows [j, j + n) in the tile as floats. */
ES_INLINE_ATTENTION void es_attention_widen_pruned(float *tile, const size_t width,
                                                   const es_cache_rows *rows, int32_t j, int32_t n,
                                                   int32_t head_dim) {
    const uint8_t *row = rows->pruned + (size_t)j * rows->pruned_bytes;
    for (size_t r = 0; r < (size_t)n; r++, row += rows->pruned_bytes) {
        es_prefetch_ahead(row, rows->pruned_bytes);
        widen_pruned_row(tile + r * width, row, head_dim);
    }
}
#endif

/* Rows [j, j + n) in the tile as floats. */
ES_INLINE_ATTENTION es_source_rows es_attention_widen(float *tile, const size_t width,
                                                      const es_cache_rows *rows, int32_t j,
                                                      int32_t n, int32_t head_dim) {
    const es_source_rows made = {(const void *)tile, width * sizeof(float), ES_SOURCE_F32};
#if ES_READS_PRUNED
    if (j < rows->n_pruned) {
        es_attention_widen_pruned(tile, width, rows, j, n, head_dim);
        return made;
    }
#endif
    const uint8_t *row = rows->data + (size_t)j * rows->row_bytes;
    for (size_t r = 0; r < (size_t)n; r++, row += rows->row_bytes) {
        es_prefetch_ahead(row, rows->row_bytes);
        float *to = tile + r * width;
        if (rows->type == ES_CACHE_Q8_0) {
            widen_q8_row(to, row, head_dim);
            for (size_t i = (size_t)head_dim; i < width; i++) {
                to[i] = 0.0f;
            }
        } else {
            widen_row(to, (const void *)row, head_dim);
        }
    }
    return made;
}

/* Scores of all queries for n rows, of which the first is row j. */
ES_INLINE_ATTENTION void es_attention_score(const es_attention_block *b, const es_source_rows *rows,
                                            int32_t j, int32_t n, const size_t width, float scale) {
    int32_t i = 0;
    for (; i + 4 <= b->n_queries; i += 4) {
        score_rows(b->scores + i * ES_SCORES_STRIDE + j, ES_SCORES_STRIDE, b->q + (size_t)i * width,
                   4, rows, n, width, scale);
    }
    float *s = b->scores + i * ES_SCORES_STRIDE + j;
    const float *q = b->q + (size_t)i * width;
    if (b->n_queries - i == 3) {
        score_rows(s, ES_SCORES_STRIDE, q, 3, rows, n, width, scale);
    } else if (b->n_queries - i == 2) {
        score_rows(s, ES_SCORES_STRIDE, q, 2, rows, n, width, scale);
    } else if (b->n_queries - i == 1) {
        score_rows(s, ES_SCORES_STRIDE, q, 1, rows, n, width, scale);
    }
}

/* The same for values. */
ES_INLINE_ATTENTION void es_attention_add(const es_attention_block *b, const es_source_rows *rows,
                                          int32_t j, int32_t n, const size_t width) {
    const float *e = b->scores + j;
    int32_t i = 0;
    for (; i + 4 <= b->n_queries; i += 4) {
        add_rows(b->values + i, e + i * ES_SCORES_STRIDE, ES_SCORES_STRIDE, 4, rows, n, width);
    }
    e += i * ES_SCORES_STRIDE;
    if (b->n_queries - i == 3) {
        add_rows(b->values + i, e, ES_SCORES_STRIDE, 3, rows, n, width);
    } else if (b->n_queries - i == 2) {
        add_rows(b->values + i, e, ES_SCORES_STRIDE, 2, rows, n, width);
    } else if (b->n_queries - i == 1) {
        add_rows(b->values + i, e, ES_SCORES_STRIDE, 1, rows, n, width);
    }
}

/* Gives rows [begin, end) no weight. */
static inline void es_attention_exclude(float *s, int32_t begin, int32_t end) {
    for (int32_t j = begin; j < end; j++) {
        s[j] = -INFINITY;
    }
}

/* Rows of the cache from row j on, as they lie there. */
ES_INLINE_ATTENTION es_source_rows es_source_from(const es_cache_rows *rows, int32_t j,
                                                  es_source_kind kind) {
    return (es_source_rows){rows->data + (size_t)j * rows->row_bytes, rows->row_bytes, kind};
}

/* Whether rows are read as they lie in the cache. */
static inline int es_attention_direct(const es_attention_block *b, int32_t type) {
    const int32_t multiple = type == ES_CACHE_Q8_0 ? ES_CACHE_BLOCK : 16;
    return b->head_dim % multiple == 0 && b->n_queries <= ES_ATTENTION_GROUP;
}

/* Scores of all queries. */
ES_INLINE_ATTENTION void es_attention_score_chunk(const es_attention_block *b,
                                                  const es_cache_rows *k, const size_t width,
                                                  float scale) {
    const int direct = es_attention_direct(b, k->type);
    int32_t j = b->low;
#if ES_READS_PRUNED
    if (direct && j < k->n_pruned) {
        const es_source_rows rows = {k->pruned + (size_t)j * k->pruned_bytes, k->pruned_bytes,
                                     ES_SOURCE_PRUNED};
        es_attention_score(b, &rows, j, k->n_pruned - j, width, scale);
        j = k->n_pruned;
    }
#endif
    if (!direct) {
        for (; j < b->high; j += ES_ATTENTION_TILE) {
            const int32_t n = es_lower(ES_ATTENTION_TILE, b->high - j);
            const es_source_rows rows = es_attention_widen(b->tile, width, k, j, n, b->head_dim);
            es_attention_score(b, &rows, j, n, width, scale);
        }
    } else if (k->type == ES_CACHE_Q8_0) {
        const es_source_rows rows = es_source_from(k, j, ES_SOURCE_Q8_0);
        es_attention_score(b, &rows, j, b->high - j, width, scale);
    } else if (j < b->high) {
        const es_source_rows rows = es_source_from(k, j, ES_SOURCE_F16);
        es_attention_score(b, &rows, j, b->high - j, width, scale);
    }
}

/* Values by the weights that scores have become. Pruned ones go through the tile: strips of columns would
 * have to find their place in every row. */
ES_INLINE_ATTENTION void es_attention_add_chunk(const es_attention_block *b, const es_cache_rows *v,
                                                const size_t width) {
    const int direct = es_attention_direct(b, v->type);
    int32_t n;
    for (int32_t j = b->low; j < b->high; j += n) {
        const int widened = !direct || j < v->n_pruned;
        n = es_lower(widened ? ES_ATTENTION_TILE : ES_VALUE_ROWS, b->high - j);
        if (widened) {
            const es_source_rows rows = es_attention_widen(b->tile, width, v, j, n, b->head_dim);
            es_attention_add(b, &rows, j, n, width);
        } else if (v->type == ES_CACHE_Q8_0) {
            const es_source_rows rows = es_source_from(v, j, ES_SOURCE_Q8_0);
            es_attention_add(b, &rows, j, n, width);
        } else {
            const es_source_rows rows = es_source_from(v, j, ES_SOURCE_F16);
            es_attention_add(b, &rows, j, n, width);
        }
    }
}

ES_INLINE_ATTENTION void es_attention_run(const es_attention_token *tokens, int32_t n_tokens,
                                          int32_t n_heads, const es_cache_rows *k,
                                          const es_cache_rows *v, int32_t head_dim,
                                          const size_t width, float scale, float *scratch) {
    es_attention_block b;
    es_attention_lay_out(&b, tokens, n_tokens, n_heads, head_dim, width, scratch);
    es_attention_score_chunk(&b, k, width, scale);
    const int32_t high = (b.high + 15) / 16 * 16;
    for (int32_t i = 0; i < b.n_queries; i++) {
        float *s = b.scores + i * ES_SCORES_STRIDE;
        es_attention_exclude(s, b.low, b.first[i]);
        es_attention_exclude(s, b.end[i], high);
        weigh(s, b.low, high, b.parts[i]);
    }
    es_attention_add_chunk(&b, v, width);
}

/* The kernel itself; the usual head sizes have code of their own. */
static void es_attention(const es_attention_token *tokens, int32_t n_tokens, int32_t n_heads,
                         const es_cache_rows *k, const es_cache_rows *v, int32_t head_dim,
                         float scale, float *scratch) {
    if (head_dim == 64) {
        es_attention_run(tokens, n_tokens, n_heads, k, v, 64, 64, scale, scratch);
    } else if (head_dim == 128) {
        es_attention_run(tokens, n_tokens, n_heads, k, v, 128, 128, scale, scratch);
    } else {
        es_attention_run(tokens, n_tokens, n_heads, k, v, head_dim,
                         es_attention_width((size_t)head_dim), scale, scratch);
    }
}

#endif
