/* Attention in plain C, one head of one token after the other: the definition for every other
 * instruction set. Scores, their maximum, exp and its sum, then the weighted sum of values. */
#include "kernels.h"
#include "kernels/half.h"
#include "kernels/vector/vector.h"

#include <math.h>

/* dot16 of q and one row of keys. */
static float dot_half(const float *q, const uint16_t *k, int32_t n) {
    float lane[ES_LANES] = {0};
    int32_t i = 0;
    for (; i + ES_LANES <= n; i += ES_LANES) {
        for (int l = 0; l < ES_LANES; l++) {
            lane[l] += q[i + l] * es_half_to_float(k[i + l]);
        }
    }
    for (int l = 0; i < n; i++, l++) {
        lane[l] += q[i] * es_half_to_float(k[i]);
    }
    return es_fold16(lane);
}

static void one_head(float *out, const float *q, const uint16_t *k, const uint16_t *v,
                     int32_t head_dim, int32_t n_pos, float scale, float *weights) {
    float largest = -INFINITY;
    for (int32_t j = 0; j < n_pos; j++) {
        const float s = dot_half(q, k + (size_t)j * (size_t)head_dim, head_dim) * scale;
        weights[j] = s;
        largest = s > largest ? s : largest;
    }
    float lane[ES_LANES] = {0};
    for (int32_t j = 0; j < n_pos; j++) {
        weights[j] = es_exp(weights[j] - largest);
        lane[j % ES_LANES] += weights[j];
    }
    const float inverse = 1.0f / es_fold16(lane);
    for (int32_t i = 0; i < head_dim; i++) {
        out[i] = 0.0f;
    }
    for (int32_t j = 0; j < n_pos; j++) {
        const uint16_t *row = v + (size_t)j * (size_t)head_dim;
        for (int32_t i = 0; i < head_dim; i++) {
            out[i] += weights[j] * es_half_to_float(row[i]);
        }
    }
    for (int32_t i = 0; i < head_dim; i++) {
        out[i] *= inverse;
    }
}

static void attention(const es_attention_token *tokens, int32_t n_tokens, int32_t n_heads,
                      const uint16_t *k, const uint16_t *v, int32_t head_dim, float scale,
                      float *scratch) {
    for (const es_attention_token *token = tokens; token < tokens + n_tokens; token++) {
        const size_t skipped = (size_t)token->first * (size_t)head_dim;
        for (int32_t h = 0; h < n_heads; h++) {
            const size_t at = (size_t)h * (size_t)head_dim;
            one_head(token->out + at, token->q + at, k + skipped, v + skipped, head_dim,
                     token->end - token->first, scale, scratch);
        }
    }
}

void es_attention_scalar(es_kernels *table) {
    table->attention = attention;
    table->attention_variant = "scalar";
}
