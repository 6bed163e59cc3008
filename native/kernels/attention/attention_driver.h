/* The loops around a SIMD variant's primitives, for a block of queries that read one kv head.
 *
 * Rows are widened to floats sixteen at a time, once for all queries of the block; columns are padded
 * with zeros to a multiple of sixteen, so that no inner loop has a tail. A lane of dot16 starts with
 * its first product instead of +0, and padding adds +0: that can change the sign of a zero score,
 * never a weight. Values get no such freedom: their sums start from +0.
 *
 * The including file defines, inlined, with `width` the padded head_dim:
 *   widen_row(to, from, n)                        n halfs as floats
 *   widen_q8_row(to, from, n)                     n elements of a q8_0 row as floats
 *   score_tile(s, q, tile, width, scale)          s[0..16) = dot16(q, row) * scale
 *   weigh(s, n)                                   s[j] = exp(s[j] - max s); returns 1 / sum
 *   add_values(acc, e, stride, tile, n, width, n_heads)
 *       acc[h][0..width) += e[h * stride + j] * row j, for rows j < n in order
 *   scale_row(out, acc, n, factor)                out = acc * factor */
#ifndef ES_ATTENTION_DRIVER_H
#define ES_ATTENTION_DRIVER_H

#include "kernels.h"
#include "kernels/attention/cache_rows.h"
#include "kernels/prefetch.h"

#include <string.h>

#define ES_INLINE_ATTENTION static inline __attribute__((always_inline))

/* A call, and where its scratch lies. */
typedef struct es_attention_block {
    const es_attention_token *tokens;
    int32_t n_tokens, n_heads, head_dim;
    int32_t low, high; /* rows that any token reads */
    size_t stride;     /* floats from one query's scores to the next */
    float *q, *acc, *tile, *scores;
} es_attention_block;

static inline int32_t es_lower(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static inline int32_t es_higher(int32_t a, int32_t b) {
    return a > b ? a : b;
}

/* Scores of query `index`, from its token's first row on. */
static inline float *es_attention_scores(const es_attention_block *b, size_t index) {
    return b->scores + index * b->stride + ES_ATTENTION_TILE;
}

static es_attention_block es_attention_lay_out(const es_attention_token *tokens, int32_t n_tokens,
                                               int32_t n_heads, int32_t head_dim, size_t width,
                                               float *scratch) {
    es_attention_block b = {.tokens = tokens,
                            .n_tokens = n_tokens,
                            .n_heads = n_heads,
                            .head_dim = head_dim,
                            .low = tokens[0].first,
                            .high = tokens[0].end};
    int32_t longest = 0;
    for (int32_t t = 0; t < n_tokens; t++) {
        b.low = es_lower(b.low, tokens[t].first);
        b.high = es_higher(b.high, tokens[t].end);
        longest = es_higher(longest, tokens[t].end - tokens[t].first);
    }
    const size_t n_queries = (size_t)n_tokens * (size_t)n_heads, dim = (size_t)head_dim;
    b.stride = ((size_t)longest + 15) / 16 * 16 + 2 * ES_ATTENTION_TILE;
    b.tile = scratch;
    b.q = b.tile + ES_ATTENTION_TILE * width;
    b.acc = b.q + n_queries * width;
    b.scores = b.acc + n_queries * width;
    memset(b.acc, 0, n_queries * width * sizeof *b.acc);
    for (size_t i = 0; i < n_queries; i++) {
        const es_attention_token *token = &tokens[i / (size_t)n_heads];
        float *q = b.q + i * width;
        memcpy(q, token->q + i % (size_t)n_heads * dim, dim * sizeof *q);
        memset(q + dim, 0, (width - dim) * sizeof *q);
    }
    return b;
}

/* Columns [column, column + n_columns) of rows [j, j + n) as floats, and zeros up to a whole tile. */
ES_INLINE_ATTENTION void es_attention_widen(float *tile, const size_t width,
                                            const es_cache_rows *rows, int32_t j, int32_t n,
                                            int32_t column, int32_t n_columns) {
    const uint8_t *row = rows->data + (size_t)j * rows->row_bytes;
    if (rows->type == ES_CACHE_Q8_0) {
        const size_t n_bytes = es_cache_row_bytes(ES_CACHE_Q8_0, n_columns);
        row += es_cache_row_bytes(ES_CACHE_Q8_0, column);
        for (size_t r = 0; r < (size_t)n; r++, row += rows->row_bytes) {
            es_prefetch_ahead(row, n_bytes);
            widen_q8_row(tile + r * width, row, n_columns);
            for (size_t i = (size_t)n_columns; i < width; i++) {
                tile[r * width + i] = 0.0f;
            }
        }
    } else {
        row += (size_t)column * sizeof(uint16_t);
        for (size_t r = 0; r < (size_t)n; r++, row += rows->row_bytes) {
            es_prefetch_ahead(row, (size_t)n_columns * sizeof(uint16_t));
            widen_row(tile + r * width, (const void *)row, n_columns);
        }
    }
    memset(tile + (size_t)n * width, 0, (size_t)(ES_ATTENTION_TILE - n) * width * sizeof *tile);
}

ES_INLINE_ATTENTION void es_attention_keys(const es_attention_block *b, const es_cache_rows *k,
                                           const size_t width, float scale) {
    const size_t n_heads = (size_t)b->n_heads;
    for (int32_t j = b->low; j < b->high; j += ES_ATTENTION_TILE) {
        es_attention_widen(b->tile, width, k, j, es_lower(ES_ATTENTION_TILE, b->high - j), 0,
                           b->head_dim);
        for (int32_t t = 0; t < b->n_tokens; t++) {
            const es_attention_token *token = &b->tokens[t];
            if (token->first >= j + ES_ATTENTION_TILE || token->end <= j) {
                continue;
            }
            /* A tile may begin before the token's first row or run past its last: the scores it
             * writes there lie in the room on either side. */
            for (size_t i = (size_t)t * n_heads; i < ((size_t)t + 1) * n_heads; i++) {
                score_tile(es_attention_scores(b, i) + (j - token->first), b->q + i * width,
                           b->tile, width, scale);
            }
        }
    }
}

ES_INLINE_ATTENTION void es_attention_values(const es_attention_block *b, const es_cache_rows *v,
                                             const size_t width) {
    const size_t n_heads = (size_t)b->n_heads;
    for (int32_t j = b->low; j < b->high; j += ES_ATTENTION_TILE) {
        es_attention_widen(b->tile, width, v, j, es_lower(ES_ATTENTION_TILE, b->high - j), 0,
                           b->head_dim);
        for (int32_t t = 0; t < b->n_tokens; t++) {
            const es_attention_token *token = &b->tokens[t];
            const int32_t begin = es_higher(j, token->first);
            const int32_t end = es_lower(j + ES_ATTENTION_TILE, token->end);
            if (begin < end) {
                const size_t i = (size_t)t * n_heads;
                add_values(b->acc + i * width, es_attention_scores(b, i) + (begin - token->first),
                           b->stride, b->tile + (size_t)(begin - j) * width, end - begin, width,
                           b->n_heads);
            }
        }
    }
}

ES_INLINE_ATTENTION void es_attention_run(const es_attention_token *tokens, int32_t n_tokens,
                                          int32_t n_heads, const es_cache_rows *k,
                                          const es_cache_rows *v, int32_t head_dim,
                                          const size_t width, float scale, float *scratch) {
    const es_attention_block b =
        es_attention_lay_out(tokens, n_tokens, n_heads, head_dim, width, scratch);
    float inverse[ES_ATTENTION_QUERIES];
    es_attention_keys(&b, k, width, scale);
    for (int32_t i = 0; i < n_tokens * n_heads; i++) {
        const es_attention_token *token = &tokens[i / n_heads];
        inverse[i] = weigh(es_attention_scores(&b, (size_t)i), token->end - token->first);
    }
    es_attention_values(&b, v, width);
    for (int32_t i = 0; i < n_tokens * n_heads; i++) {
        scale_row(tokens[i / n_heads].out + (size_t)(i % n_heads) * (size_t)head_dim,
                  b.acc + (size_t)i * width, head_dim, inverse[i]);
    }
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
                         ((size_t)head_dim + 15) / 16 * 16, scale, scratch);
    }
}

/* ---- one token in three parts, see kernels.h ---------------------------------------------------- */

ES_INLINE_ATTENTION void es_attention_score_rows(float *s, size_t stride, const float *q,
                                                 int32_t n_heads, const es_cache_rows *k, int32_t n,
                                                 int32_t head_dim, const size_t width, float scale,
                                                 float *scratch) {
    float *tile = scratch, *padded = tile + ES_ATTENTION_TILE * width;
    const size_t dim = (size_t)head_dim;
    for (size_t h = 0; h < (size_t)n_heads; h++) {
        memcpy(padded + h * width, q + h * dim, dim * sizeof *q);
        memset(padded + h * width + dim, 0, (width - dim) * sizeof *q);
    }
    for (int32_t j = 0; j < n; j += ES_ATTENTION_TILE) {
        es_attention_widen(tile, width, k, j, es_lower(ES_ATTENTION_TILE, n - j), 0, head_dim);
        for (size_t h = 0; h < (size_t)n_heads; h++) {
            score_tile(s + h * stride + j, padded + h * width, tile, width, scale);
        }
    }
}

static void es_attention_scores_of(float *s, size_t stride, const float *q, int32_t n_heads,
                                   const es_cache_rows *k, int32_t n, int32_t head_dim, float scale,
                                   float *scratch) {
    if (head_dim == 64) {
        es_attention_score_rows(s, stride, q, n_heads, k, n, 64, 64, scale, scratch);
    } else if (head_dim == 128) {
        es_attention_score_rows(s, stride, q, n_heads, k, n, 128, 128, scale, scratch);
    } else {
        es_attention_score_rows(s, stride, q, n_heads, k, n, head_dim,
                                ((size_t)head_dim + 15) / 16 * 16, scale, scratch);
    }
}

static float es_attention_weigh_all(float *s, int32_t n) {
    return weigh(s, n);
}

ES_INLINE_ATTENTION void
es_attention_value_rows(float *out, const float *e, size_t stride, const float *inverse,
                        int32_t n_heads, const es_cache_rows *v, int32_t n, int32_t head_dim,
                        int32_t column, int32_t n_columns, const size_t width, float *scratch) {
    float *tile = scratch, *acc = tile + ES_ATTENTION_TILE * width;
    memset(acc, 0, (size_t)n_heads * width * sizeof *acc);
    for (int32_t j = 0; j < n; j += ES_ATTENTION_TILE) {
        const int32_t n_rows = es_lower(ES_ATTENTION_TILE, n - j);
        es_attention_widen(tile, width, v, j, n_rows, column, n_columns);
        add_values(acc, e + j, stride, tile, n_rows, width, n_heads);
    }
    for (int32_t h = 0; h < n_heads; h++) {
        scale_row(out + (size_t)h * (size_t)head_dim + column, acc + (size_t)h * width, n_columns,
                  inverse[h]);
    }
}

static void es_attention_values_of(float *out, const float *e, size_t stride, const float *inverse,
                                   int32_t n_heads, const es_cache_rows *v, int32_t n,
                                   int32_t head_dim, int32_t column, int32_t n_columns,
                                   float *scratch) {
    if (n_columns == 32) {
        es_attention_value_rows(out, e, stride, inverse, n_heads, v, n, head_dim, column, 32, 32,
                                scratch);
    } else if (n_columns == 64) {
        es_attention_value_rows(out, e, stride, inverse, n_heads, v, n, head_dim, column, 64, 64,
                                scratch);
    } else if (n_columns == 128) {
        es_attention_value_rows(out, e, stride, inverse, n_heads, v, n, head_dim, column, 128, 128,
                                scratch);
    } else {
        es_attention_value_rows(out, e, stride, inverse, n_heads, v, n, head_dim, column, n_columns,
                                ((size_t)n_columns + 15) / 16 * 16, scratch);
    }
}

/* Puts an instruction set's kernels into the table. */
static inline void es_attention_fill(es_kernels *table, const char *variant) {
    table->attention = es_attention;
    table->attention_scores = es_attention_scores_of;
    table->attention_weigh = es_attention_weigh_all;
    table->attention_values = es_attention_values_of;
    table->attention_variant = variant;
}

#endif
