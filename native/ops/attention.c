/* Attention: one work item is one head of one token. */
#include "engine.h"

typedef struct attention_job {
    const es_engine *engine;
    const es_op *op;
    const es_step *step;
} attention_job;

static void attend(void *context, int32_t item, int32_t thread) {
    const attention_job *job = context;
    const es_engine *engine = job->engine;
    const es_op *op = job->op;
    const int32_t token = item / op->n_heads, head = item % op->n_heads;
    const int32_t kv_head = head / (op->n_heads / op->n_kv_heads);
    const int32_t position = job->step->positions[token];
    const int32_t first = op->window > 0 ? es_max(0, position + 1 - op->window) : 0;
    const es_cache *cache = &job->step->caches[job->step->sequences[token]];
    const size_t dim = (size_t)op->head_dim;
    const size_t plane = (size_t)cache->capacity * dim;
    const uint16_t *keys =
        cache->data + ((size_t)op->layer * 2 * (size_t)op->n_kv_heads + (size_t)kv_head) * plane +
        (size_t)first * dim;
    const uint16_t *values = keys + (size_t)op->n_kv_heads * plane;
    const size_t at = (size_t)head * dim;
    engine->k.attention(es_row(engine, op->dst, token) + at, es_row(engine, op->src, token) + at,
                        keys, values, op->head_dim, position - first + 1, op->scale,
                        engine->scratch[thread].scores);
}

int32_t es_run_attention(es_engine *engine, const es_op *op, const es_step *step) {
    attention_job job = {engine, op, step};
    es_pool_run(engine->pool, attend, &job, step->n_tokens * op->n_heads);
    return ES_OK;
}
