/* Attention. Of several tokens, one work item is a block of tokens of one sequence times the heads of one kv head, so
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
    const es_cache_rows keys = es_cache_plane(engine, op, cache, 0, kv_head, 0);
    const es_cache_rows values = es_cache_plane(engine, op, cache, 1, kv_head, 0);
    es_attention_token tokens[ES_ATTENTION_QUERIES];
    for (int32_t i = 0; i < n; i++) {
        const int32_t end = job->step->positions[begin + i] + 1;
        const size_t at = (size_t)head * (size_t)op->head_dim;
        tokens[i] = (es_attention_token){
            .q = es_row(engine, op->src, begin + i) + at,
            .out = es_row(engine, op->dst, begin + i) + at,
            .first = op->window > 0 ? es_max(0, end - op->window) : 0,
            .end = end,
        };
    }
    engine->k.attention(tokens, n, n_heads, &keys, &values, op->head_dim, op->scale, scratch);
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

/* One token alone, as in decoding: with more threads than kv heads, the threads share
 * positions for the scores and columns for the values. No sum is shared, so bits do not change. */
typedef struct split_job {
    es_engine *engine;
    const es_op *op;
    const es_cache *cache;
    int32_t first, n_rows;   /* rows that the token attends to */
    int32_t piece, n_pieces; /* positions of one item, and items of one kv head */
    int32_t slice, n_slices; /* columns of one item, and items of one kv head */
} split_job;

enum {
    ES_SPLIT_ITEMS = 4,     /* of one phase and one thread, about */
    ES_SPLIT_POSITIONS = 64 /* at least, in one item */
};

/* Heads [head, head + n) of a kv head's group, as many as a kernel takes. */
static int32_t next_heads(const es_op *op, int32_t kv_head, int32_t head) {
    const int32_t group = op->n_heads / op->n_kv_heads;
    return es_min(ES_ATTENTION_QUERIES, (kv_head + 1) * group - head);
}

static void score_piece(void *context, int32_t item, int32_t thread) {
    const split_job *job = context;
    es_engine *engine = job->engine;
    const es_op *op = job->op;
    const int32_t kv_head = item / job->n_pieces, begin = item % job->n_pieces * job->piece;
    const int32_t n = es_min(job->piece, job->n_rows - begin);
    const int32_t group = op->n_heads / op->n_kv_heads, last = (kv_head + 1) * group;
    const es_cache_rows keys =
        es_cache_plane(engine, op, job->cache, 0, kv_head, job->first + begin);
    for (int32_t head = kv_head * group, count; head < last; head += count) {
        count = next_heads(op, kv_head, head);
        engine->k.attention_scores(
            engine->scores + (size_t)head * engine->scores_stride + (size_t)begin,
            engine->scores_stride, es_row(engine, op->src, 0) + (size_t)head * (size_t)op->head_dim,
            count, &keys, n, op->head_dim, op->scale, engine->scratch[thread].attention);
    }
    /* Whoever completes a kv head's scores turns them into weights. */
    if (__atomic_sub_fetch(&engine->unscored[kv_head], 1, __ATOMIC_ACQ_REL) == 0) {
        for (int32_t head = kv_head * group; head < last; head++) {
            engine->inverse[head] = engine->k.attention_weigh(
                engine->scores + (size_t)head * engine->scores_stride, job->n_rows);
        }
    }
}

static void add_slice(void *context, int32_t item, int32_t thread) {
    const split_job *job = context;
    const es_engine *engine = job->engine;
    const es_op *op = job->op;
    const int32_t kv_head = item / job->n_slices, column = item % job->n_slices * job->slice;
    const int32_t group = op->n_heads / op->n_kv_heads, last = (kv_head + 1) * group;
    const es_cache_rows values = es_cache_plane(engine, op, job->cache, 1, kv_head, job->first);
    for (int32_t head = kv_head * group, count; head < last; head += count) {
        count = next_heads(op, kv_head, head);
        engine->k.attention_values(
            es_row(engine, op->dst, 0) + (size_t)head * (size_t)op->head_dim,
            engine->scores + (size_t)head * engine->scores_stride, engine->scores_stride,
            engine->inverse + head, count, &values, job->n_rows, op->head_dim, column,
            es_min(job->slice, op->head_dim - column), engine->scratch[thread].attention);
    }
}

static int32_t attend_together(es_engine *engine, const es_op *op, const es_step *step) {
    const int32_t end = step->positions[0] + 1, n_threads = es_pool_threads(engine->pool);
    split_job job = {engine, op, &step->caches[step->sequences[0]], .first = 0};
    job.first = op->window > 0 ? es_max(0, end - op->window) : 0;
    job.n_rows = end - job.first;
    const int32_t wanted =
        n_threads == 1 ? 1 : ratio_up(ES_SPLIT_ITEMS * n_threads, op->n_kv_heads);
    job.piece = es_max(ratio_up(ratio_up(job.n_rows, wanted), 16) * 16, ES_SPLIT_POSITIONS);
    job.n_pieces = ratio_up(job.n_rows, job.piece);
    const int32_t n_blocks = ratio_up(op->head_dim, ES_CACHE_BLOCK);
    job.slice = ratio_up(n_blocks, es_min(wanted, n_blocks)) * ES_CACHE_BLOCK;
    job.n_slices = ratio_up(op->head_dim, job.slice);
    for (int32_t h = 0; h < op->n_kv_heads; h++) {
        engine->unscored[h] = job.n_pieces;
    }
    es_pool_run(engine->pool, score_piece, &job, op->n_kv_heads * job.n_pieces);
    es_pool_run(engine->pool, add_slice, &job, op->n_kv_heads * job.n_slices);
    return ES_OK;
}

int32_t es_run_attention(es_engine *engine, const es_op *op, const es_step *step) {
    /* Where every thread has a kv head to itself, sharing one was measured to be no faster. */
    if (step->n_tokens == 1 && es_pool_threads(engine->pool) > op->n_kv_heads) {
        return attend_together(engine, op, step);
    }
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
