/* Attention: one work item is a block of tokens of one sequence times the heads of one kv head, so
 * that a row of keys or values is read and widened once for all of them. */
#include "engine.h"

typedef struct attention_job {
    const es_engine *engine;
    const es_op *op;
    const es_step *step;
    int32_t n_runs;   /* work items that share a kv head */
    int32_t n_heads;  /* of one item, at most */
    int32_t n_tokens; /* of one item, at most */
} attention_job;

/* Tokens [begin, begin + n) of one sequence, n_heads heads of each. */
static void attend_tokens(const attention_job *job, int32_t begin, int32_t n, int32_t kv_head,
                          int32_t head, int32_t n_heads, float *scratch) {
    const es_engine *engine = job->engine;
    const es_op *op = job->op;
    const es_cache *cache = &job->step->caches[job->step->sequences[begin]];
    const size_t dim = (size_t)op->head_dim, plane = (size_t)cache->capacity * dim;
    const uint16_t *keys =
        cache->data + ((size_t)op->layer * 2 * (size_t)op->n_kv_heads + (size_t)kv_head) * plane;
    const uint16_t *values = keys + (size_t)op->n_kv_heads * plane;
    es_attention_token tokens[ES_ATTENTION_QUERIES];
    for (int32_t i = 0; i < n; i++) {
        const int32_t end = job->step->positions[begin + i] + 1;
        const size_t at = (size_t)head * dim;
        tokens[i] = (es_attention_token){
            .q = es_row(engine, op->src, begin + i) + at,
            .out = es_row(engine, op->dst, begin + i) + at,
            .first = op->window > 0 ? es_max(0, end - op->window) : 0,
            .end = end,
        };
    }
    engine->k.attention(tokens, n, n_heads, keys, values, op->head_dim, op->scale, scratch);
}

static void attend(void *context, int32_t item, int32_t thread) {
    const attention_job *job = context;
    const int32_t group = job->op->n_heads / job->op->n_kv_heads;
    const int32_t per_block = job->op->n_kv_heads * job->n_runs;
    const int32_t n_blocks = (job->step->n_tokens + job->n_tokens - 1) / job->n_tokens;
    /* The last tokens of a prompt have the most to read: they go first, so that no thread is left
     * alone with them at the end. */
    const int32_t block = n_blocks - 1 - item / per_block;
    const int32_t kv_head = item % per_block / job->n_runs;
    const int32_t skipped = item % job->n_runs * job->n_heads;
    const int32_t n_heads = es_min(job->n_heads, group - skipped);
    const int32_t *sequences = job->step->sequences;
    int32_t begin = block * job->n_tokens;
    const int32_t end = es_min(begin + job->n_tokens, job->step->n_tokens);
    while (begin < end) {
        int32_t n = 1;
        while (begin + n < end && sequences[begin + n] == sequences[begin]) {
            n++;
        }
        attend_tokens(job, begin, n, kv_head, kv_head * group + skipped, n_heads,
                      job->engine->scratch[thread].attention);
        begin += n;
    }
}

static int32_t ratio_up(int32_t a, int32_t b) {
    return (a + b - 1) / b;
}

int32_t es_run_attention(es_engine *engine, const es_op *op, const es_step *step) {
    const int32_t group = op->n_heads / op->n_kv_heads, n_threads = es_pool_threads(engine->pool);
    /* Heads stay together unless that would leave threads without work. */
    const int32_t wanted = ratio_up(n_threads, step->n_tokens * op->n_kv_heads);
    const int32_t n_heads = ratio_up(group, es_max(wanted, ratio_up(group, ES_ATTENTION_QUERIES)));
    attention_job job = {engine, op, step, .n_heads = n_heads};
    job.n_heads = es_min(es_max(n_heads, 1), ES_ATTENTION_QUERIES);
    job.n_runs = ratio_up(group, job.n_heads);
    job.n_tokens = es_max(1, ES_ATTENTION_QUERIES / job.n_heads);
    job.n_tokens = es_min(job.n_tokens, ratio_up(step->n_tokens * op->n_kv_heads, n_threads));
    const int32_t n_blocks = ratio_up(step->n_tokens, job.n_tokens);
    es_pool_run(engine->pool, attend, &job, n_blocks * op->n_kv_heads * job.n_runs);
    return ES_OK;
}
