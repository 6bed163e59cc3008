/* RopeKV: normalises (optionally) and rotates q and k, and stores k and v in the cache. */
#include "engine.h"

typedef struct rope_job {
    const es_engine *engine;
    const es_op *op;
    const es_step *step;
} rope_job;

static void rotate_heads(const rope_job *job, float *x, int32_t n_heads, const float *norm,
                         const float *table) {
    const es_op *op = job->op;
    const es_kernels *kernels = &job->engine->k;
    for (int32_t h = 0; h < n_heads; h++) {
        float *head = x + (size_t)h * (size_t)op->head_dim;
        if (norm != NULL) {
            kernels->rmsnorm(head, head, norm, op->head_dim, op->eps);
        }
        if (op->rope_style == ES_ROPE_NEOX) {
            kernels->rope_neox(head, table, op->rope_dim);
        } else {
            kernels->rope_norm(head, table, op->rope_dim);
        }
    }
}

static void store_row(const rope_job *job, const es_cache *cache, int values, int32_t kv_head,
                      int32_t position, const float *x) {
    if (job->engine->plan.kv_kept > 0) {
        es_sparse_store(job->engine, job->op, cache, values, kv_head, position, x);
        return;
    }
    const es_cache_rows row =
        es_cache_plane(job->engine, job->op, cache, values, kv_head, position);
    void *to = (void *)row.data;
    if (row.type == ES_CACHE_Q8_0) {
        job->engine->k.store_q8_0(to, x, job->op->head_dim);
    } else {
        job->engine->k.f32_to_f16(to, x, job->op->head_dim);
    }
}

static void rope_token(const rope_job *job, int32_t token) {
    const es_engine *engine = job->engine;
    const es_op *op = job->op;
    const int32_t position = job->step->positions[token];
    const es_cache *cache = &job->step->caches[job->step->sequences[token]];
    const float *table = op->rope + (size_t)position * (size_t)op->rope_dim;
    float *q = es_row(engine, op->src, token);
    float *k = es_row(engine, op->src2, token);
    const float *v = es_row(engine, op->src3, token);
    rotate_heads(job, q, op->n_heads, op->norm, table);
    rotate_heads(job, k, op->n_kv_heads, op->norm_k, table);
    for (int32_t h = 0; h < op->n_kv_heads; h++) {
        const size_t at = (size_t)h * (size_t)op->head_dim;
        store_row(job, cache, 0, h, position, k + at);
        store_row(job, cache, 1, h, position, v + at);
    }
}

static void rope_chunk(void *context, int32_t chunk, int32_t thread) {
    const rope_job *job = context;
    (void)thread;
    const int32_t begin = chunk * ES_TOKENS_PER_CHUNK;
    const int32_t end = es_min(begin + ES_TOKENS_PER_CHUNK, job->step->n_tokens);
    for (int32_t token = begin; token < end; token++) {
        rope_token(job, token);
    }
}

int32_t es_run_rope_kv(es_engine *engine, const es_op *op, const es_step *step) {
    rope_job job = {engine, op, step};
    es_pool_run(engine->pool, rope_chunk, &job, es_token_chunks(step->n_tokens));
    return ES_OK;
}
