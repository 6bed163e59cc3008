/* The loops around a SIMD variant's primitives, for a block of queries that read one kv head.
 *
 * Rows are widened to floats sixteen at a time, once for all queries of the block; columns are padded
 * with zeros to a multiple of sixteen, so that no inner loop has a tail. A lane of dot16 starts with
 * its first product instead of +0, and padding adds +0: that can change the sign of a zero score,
 * never a weight. Values get no such freedom: their sums start from +0.
 *
 * The including file defines, inlined, with `width` the padded head_dim:
 *   widen_row(to, from, n)                        n halfs as floats
 *   score_tile(s, q, tile, width, scale)          s[0..16) = dot16(q, row) * scale
 *   weigh(s, n)                                   s[j] = exp(s[j] - max s); returns 1 / sum
 *   add_values(acc, e, stride, tile, n, width, n_heads)
 *       acc[h][0..width) += e[h * stride + j] * row j, for rows j < n in order
 *   scale_row(out, acc, n, factor)                out = acc * factor */
#ifndef ES_ATTENTION_DRIVER_H
#define ES_ATTENTION_DRIVER_H

#include "kernels.h"
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

/* Rows [j, j + n) as floats, and zeros up to a whole tile. */
ES_INLINE_ATTENTION void es_attention_widen(const es_attention_block *b, const uint16_t *rows,
                                            int32_t j, int32_t n, const size_t width) {
    const size_t dim = (size_t)b->head_dim;
    const uint16_t *row = rows + (size_t)j * dim;
    for (size_t r = 0; r < (size_t)n; r++, row += dim) {
        es_prefetch_ahead(row, dim * sizeof *row);
        widen_row(b->tile + r * width, row, b->head_dim);
    }
    memset(b->tile + (size_t)n * width, 0,
           (size_t)(ES_ATTENTION_TILE - n) * width * sizeof *b->tile);
}

ES_INLINE_ATTENTION void es_attention_keys(const es_attention_block *b, const uint16_t *k,
                                           const size_t width, float scale) {
    const size_t n_heads = (size_t)b->n_heads;
    for (int32_t j = b->low; j < b->high; j += ES_ATTENTION_TILE) {
        es_attention_widen(b, k, j, es_lower(ES_ATTENTION_TILE, b->high - j), width);
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

ES_INLINE_ATTENTION void es_attention_values(const es_attention_block *b, const uint16_t *v,
                                             const size_t width) {
    const size_t n_heads = (size_t)b->n_heads;
    for (int32_t j = b->low; j < b->high; j += ES_ATTENTION_TILE) {
        es_attention_widen(b, v, j, es_lower(ES_ATTENTION_TILE, b->high - j), width);
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
                                          int32_t n_heads, const uint16_t *k, const uint16_t *v,
                                          int32_t head_dim, const size_t width, float scale,
                                          float *scratch) {
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
                         const uint16_t *k, const uint16_t *v, int32_t head_dim, float scale,
                         float *scratch) {
    if (head_dim == 64) {
        es_attention_run(tokens, n_tokens, n_heads, k, v, 64, 64, scale, scratch);
    } else if (head_dim == 128) {
        es_attention_run(tokens, n_tokens, n_heads, k, v, 128, 128, scale, scratch);
    } else {
        es_attention_run(tokens, n_tokens, n_heads, k, v, head_dim,
                         ((size_t)head_dim + 15) / 16 * 16, scale, scratch);
    }
}

#endif
