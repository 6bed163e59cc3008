/* Attention in plain C, one head of one token after the other: the definition for every other
 * instruction set. Scores, their maximum, exp and its sum, then the weighted sum of values. */
#include "kernels.h"
#include "kernels/attention/cache_rows.h"
#include "kernels/vector/vector.h"

#include <math.h>

/* Row j as n floats. */
static void widen(float *to, const es_cache_rows *rows, int32_t j, int32_t n) {
    const uint8_t *row = rows->data + (size_t)j * rows->row_bytes;
    if (rows->type == ES_CACHE_Q8_0) {
        es_widen_q8_0(to, row, n);
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, row + (size_t)i * sizeof half, sizeof half);
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

/* Turns the scores of rows [first, end) into weights; notes their largest and the weights' sum. */
static void weigh(float *s, int32_t first, int32_t end, float *part) {
    float largest = -INFINITY;
    for (int32_t j = first; j < end; j++) {
        largest = s[j] > largest ? s[j] : largest;
    }
    float lane[ES_LANES] = {0};
    for (int32_t j = first; j < end; j++) {
        s[j] = es_exp(s[j] - largest);
        lane[j % ES_LANES] += s[j];
    }
    part[ES_PART_TOP] = largest;
    part[ES_PART_SUM] = es_fold16(lane);
}

static void attend(float *part, const float *q, const es_attention_token *token,
                   const es_cache_rows *k, const es_cache_rows *v, int32_t head_dim, float scale,
                   float *scratch) {
    float *s = scratch, *row = s + ES_CACHE_CHUNK, *acc = part + ES_PART_VALUES;
    for (int32_t j = token->first; j < token->end; j++) {
        widen(row, k, j, head_dim);
        s[j] = dot16(q, row, head_dim) * scale;
    }
    weigh(s, token->first, token->end, part);
    for (int32_t i = 0; i < head_dim; i++) {
        acc[i] = 0.0f;
    }
    for (int32_t j = token->first; j < token->end; j++) {
        widen(row, v, j, head_dim);
        for (int32_t i = 0; i < head_dim; i++) {
            acc[i] += s[j] * row[i];
        }
    }
}

static void attention(const es_attention_token *tokens, int32_t n_tokens, int32_t n_heads,
                      const es_cache_rows *k, const es_cache_rows *v, int32_t head_dim, float scale,
                      float *scratch) {
    const size_t dim = (size_t)head_dim, part_floats = es_attention_part_floats(dim);
    for (const es_attention_token *token = tokens; token < tokens + n_tokens; token++) {
        for (size_t h = 0; h < (size_t)n_heads; h++) {
            attend(token->part + h * part_floats, token->q + h * dim, token, k, v, head_dim, scale,
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
    table->attention_variant = "scalar";
}
