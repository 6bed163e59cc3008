/* Attention in plain C, one head of one token after the other: the definition for every other
 * instruction set. Scores, their maximum, exp and its sum, then the weighted sum of values. */
#include "kernels.h"
#include "kernels/attention/cache_rows.h"
#include "kernels/vector/vector.h"

#include <math.h>

/* Columns [column, column + n) of row j as floats. */
static void widen(float *to, const es_cache_rows *rows, int32_t j, int32_t column, int32_t n) {
    const uint8_t *row = rows->data + (size_t)j * rows->row_bytes;
    if (rows->type == ES_CACHE_Q8_0) {
        es_widen_q8_0(to, row + (size_t)(column / ES_CACHE_BLOCK) * ES_CACHE_BLOCK_BYTES, n);
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, row + (size_t)(column + i) * sizeof half, sizeof half);
        to[i] = es_half_to_float(half);
    }
}

static float dot16(const float *q, const float *k, int32_t n) {
    float lane[ES_LANES] = {0};
    int32_t i = 0;
    for (; i + ES_LANES <= n; i += ES_LANES) {
        for (int l = 0; l < ES_LANES; l++) {
            lane[l] += q[i + l] * k[i + l];
        }
    }
    for (int l = 0; i < n; i++, l++) {
        lane[l] += q[i] * k[i];
    }
    return es_fold16(lane);
}

static void scores(float *s, size_t stride, const float *q, int32_t n_heads, const es_cache_rows *k,
                   int32_t n, int32_t head_dim, float scale, float *scratch) {
    for (int32_t j = 0; j < n; j++) {
        widen(scratch, k, j, 0, head_dim);
        for (int32_t h = 0; h < n_heads; h++) {
            s[(size_t)h * stride + (size_t)j] =
                dot16(q + (size_t)h * (size_t)head_dim, scratch, head_dim) * scale;
        }
    }
}

static float weigh(float *s, int32_t n) {
    float largest = -INFINITY;
    for (int32_t j = 0; j < n; j++) {
        largest = s[j] > largest ? s[j] : largest;
    }
    float lane[ES_LANES] = {0};
    for (int32_t j = 0; j < n; j++) {
        s[j] = es_exp(s[j] - largest);
        lane[j % ES_LANES] += s[j];
    }
    return 1.0f / es_fold16(lane);
}

static void values(float *out, const float *e, size_t stride, const float *inverse, int32_t n_heads,
                   const es_cache_rows *v, int32_t n, int32_t head_dim, int32_t column,
                   int32_t n_columns, float *scratch) {
    for (int32_t h = 0; h < n_heads; h++) {
        float *to = out + (size_t)h * (size_t)head_dim + column;
        for (int32_t i = 0; i < n_columns; i++) {
            to[i] = 0.0f;
        }
    }
    for (int32_t j = 0; j < n; j++) {
        widen(scratch, v, j, column, n_columns);
        for (int32_t h = 0; h < n_heads; h++) {
            float *to = out + (size_t)h * (size_t)head_dim + column;
            for (int32_t i = 0; i < n_columns; i++) {
                to[i] += e[(size_t)h * stride + (size_t)j] * scratch[i];
            }
        }
    }
    for (int32_t h = 0; h < n_heads; h++) {
        float *to = out + (size_t)h * (size_t)head_dim + column;
        for (int32_t i = 0; i < n_columns; i++) {
            to[i] *= inverse[h];
        }
    }
}

static void attention(const es_attention_token *tokens, int32_t n_tokens, int32_t n_heads,
                      const es_cache_rows *k, const es_cache_rows *v, int32_t head_dim, float scale,
                      float *scratch) {
    float *weights = scratch + head_dim;
    for (const es_attention_token *token = tokens; token < tokens + n_tokens; token++) {
        const int32_t n = token->end - token->first;
        const es_cache_rows keys = es_cache_rows_from(k, token->first);
        const es_cache_rows kept = es_cache_rows_from(v, token->first);
        for (int32_t h = 0; h < n_heads; h++) {
            const size_t at = (size_t)h * (size_t)head_dim;
            scores(weights, 0, token->q + at, 1, &keys, n, head_dim, scale, scratch);
            const float inverse = weigh(weights, n);
            values(token->out + at, weights, 0, &inverse, 1, &kept, n, head_dim, 0, head_dim,
                   scratch);
        }
    }
}

static void store_q8_0(uint8_t *to, const float *x, int32_t n) {
    es_store_q8_0(to, x, n);
}

void es_attention_scalar(es_kernels *table) {
    table->store_q8_0 = store_q8_0;
    table->attention = attention;
    table->attention_scores = scores;
    table->attention_weigh = weigh;
    table->attention_values = values;
    table->attention_variant = "scalar";
}
