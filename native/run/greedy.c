/* See greedy.h. */
#include "run/greedy.h"

#include "src/kernels.h"

#include <stdlib.h>

enum { CHUNK = 128 }; /* tokens of a prompt in one step, at most */

/* Runs tokens [begin, end), the logits of the last one. */
static int32_t forward(es_engine *engine, const es_plan *plan, const int32_t *tokens, int32_t begin,
                       int32_t end, const es_cache *cache, float *logits) {
    static const int32_t zeros[CHUNK];
    for (int32_t first = begin; first < end; first += plan->max_tokens) {
        int32_t positions[CHUNK];
        const int32_t n = end - first < plan->max_tokens ? end - first : plan->max_tokens;
        const int32_t last = n - 1;
        for (int32_t i = 0; i < n; i++) {
            positions[i] = first + i;
        }
        const es_step step = {.n_tokens = n,
                              .n_outputs = first + n == end,
                              .n_caches = 1,
                              .sparse_from = INT32_MAX,
                              .tokens = tokens + first,
                              .positions = positions,
                              .sequences = zeros,
                              .outputs = &last,
                              .caches = cache,
                              .logits = logits};
        const int32_t status = es_engine_run(engine, &step, 0, plan->n_ops);
        if (status != ES_OK) {
            return status;
        }
    }
    return ES_OK;
}

static int32_t largest(const float *logits, int32_t n) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

static const char *generate(es_engine *engine, const es_plan *plan, int32_t *tokens,
                            int32_t n_tokens, int32_t n_generate, const es_cache *cache,
                            float *logits, es_greedy_token *take) {
    int32_t begin = 0, end = n_tokens;
    for (int32_t i = 0; i < n_generate; i++) {
        if (forward(engine, plan, tokens, begin, end, cache, logits) != ES_OK) {
            return "the engine refuses the tokens";
        }
        const int32_t token = largest(logits, plan->n_vocab);
        take(token, esp_crc32(0, (const uint8_t *)logits, (size_t)plan->n_vocab * 4));
        tokens[end] = token;
        begin = end++;
    }
    return NULL;
}

/* Of all heads at one position of the layer that needs most, times layers and positions; 0 where no
 * memory could hold that. */
static size_t cache_bytes(const es_plan *plan, int32_t type) {
    size_t row_bytes = 1, n_bytes;
    for (int32_t i = 0; i < plan->n_ops; i++) {
        const es_op *op = &plan->ops[i];
        if (op->kind == ES_OP_ROPE_KV || op->kind == ES_OP_ATTENTION) {
            const size_t n = (size_t)op->n_kv_heads * es_cache_row_bytes(type, op->head_dim);
            row_bytes = n > row_bytes ? n : row_bytes;
        }
    }
    if (__builtin_mul_overflow(row_bytes, (size_t)plan->n_layers, &n_bytes) ||
        __builtin_mul_overflow(n_bytes, (size_t)plan->n_ctx, &n_bytes)) {
        return 0;
    }
    return n_bytes;
}

static void *zeros(size_t n_bytes) {
    return n_bytes > 0 ? calloc(n_bytes, 1) : NULL;
}

const char *es_greedy(const esp_model *model, int32_t n_threads, int32_t isa, int32_t *tokens,
                      int32_t n_tokens, int32_t n_generate, es_greedy_token *take) {
    es_plan plan = model->plan;
    int32_t status;
    if (n_tokens + n_generate > plan.n_ctx) {
        return "its context is shorter than these tokens";
    }
    /* No more than these tokens need, whatever the file says. */
    const int32_t most = n_tokens < CHUNK ? n_tokens : CHUNK;
    plan.n_ctx = n_tokens + n_generate;
    plan.max_tokens = plan.max_tokens < most ? plan.max_tokens : most;
    es_engine *engine = es_engine_create(&plan, n_threads, isa, &status);
    if (engine == NULL) {
        return status == ES_E_MEMORY ? "no memory for the engine" : "the plan is not valid";
    }
    const es_cache cache = {
        .keys = zeros(cache_bytes(&plan, plan.cache_type_k)),
        .values = zeros(cache_bytes(&plan, plan.cache_type_v)),
        .capacity = plan.n_ctx,
    };
    float *logits = malloc((size_t)plan.n_vocab * sizeof *logits);
    const char *wrong = "no memory for the cache";
    if (cache.keys != NULL && cache.values != NULL && logits != NULL) {
        wrong = generate(engine, &plan, tokens, n_tokens, n_generate, &cache, logits, take);
    }
    free(logits);
    free(cache.keys);
    free(cache.values);
    es_engine_destroy(engine);
    return wrong;
}
