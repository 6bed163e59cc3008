/* Attention. Rows come in chunks of ES_CACHE_CHUNK; a kernel makes each chunk's part, and parts are merged in
 * ascending order, whoever made them: no sum depends on how the work was split. */
#include "engine.h"
#include "kernels/vector/vector.h"

/* Adds the part of a later chunk. */
static void merge(float *to, const float *part, int32_t head_dim) {
    const float top = to[ES_PART_TOP] > part[ES_PART_TOP] ? to[ES_PART_TOP] : part[ES_PART_TOP];
    const float f = es_exp(to[ES_PART_TOP] - top), g = es_exp(part[ES_PART_TOP] - top);
    to[ES_PART_TOP] = top;
    to[ES_PART_SUM] = to[ES_PART_SUM] * f + part[ES_PART_SUM] * g;
    float *total = to + ES_PART_VALUES;
    const float *added = part + ES_PART_VALUES;
    for (int32_t i = 0; i < head_dim; i++) {
        total[i] = total[i] * f + added[i] * g;
    }
}

static void finish(float *out, const float *total, int32_t head_dim) {
    const float inverse = 1.0f / total[ES_PART_SUM];
    for (int32_t i = 0; i < head_dim; i++) {
        out[i] = total[ES_PART_VALUES + i] * inverse;
    }
}

/* First row that a token at `position` attends to. */
static int32_t first_row(const es_op *op, int32_t position) {
    return op->window > 0 ? es_max(0, position + 1 - op->window) : 0;
}

/* Rows [low, high) of the chunk that begins at row `begin`, to tokens that read n_sparse rows pruned. */
typedef struct chunk_rows {
    int32_t begin, low, high, n_sparse;
} chunk_rows;

static es_cache_rows rows_of(const es_engine *engine, const es_op *op, const es_cache *cache,
                             int values, int32_t kv_head, const chunk_rows *rows,
                             const es_scratch *scratch) {
    if (engine->plan.kv_kept == 0) {
        return es_cache_plane(engine, op, cache, values, kv_head, rows->begin);
    }
    const size_t half = (size_t)ES_CACHE_CHUNK * (size_t)op->head_dim;
    return es_sparse_chunk(engine, op, cache, values, kv_head, rows->begin, rows->low, rows->high,
                           rows->n_sparse, scratch->whole + (values ? half : 0));
}

/* ---- several tokens -----------------------------------------------------------------------------
 * One work item is a block of tokens of one sequence times heads of one kv head, so that a row of keys or values is
 * read and widened once for all of them. */

typedef struct attention_job {
    const es_engine *engine;
    const es_op *op;
    const es_step *step;
    int32_t n_runs;   /* work items that share a kv head */
    int32_t n_heads;  /* of one item, at most */
    int32_t n_tokens; /* of one item, at most */
} attention_job;

/* Tokens [begin, begin + n) of one sequence; for heads [head, head + n_heads) of each. */
static void attend_tokens(const attention_job *job, int32_t begin, int32_t n, int32_t kv_head,
                          int32_t head, int32_t n_heads, const es_scratch *scratch) {
    const es_engine *engine = job->engine;
    const es_op *op = job->op;
    const es_cache *cache = &job->step->caches[job->step->sequences[begin]];
    const int32_t *positions = job->step->positions + begin;
    const size_t part_floats = es_attention_part_floats((size_t)op->head_dim);
    const size_t token_floats = (size_t)n_heads * part_floats;
    const size_t at = (size_t)head * (size_t)op->head_dim;
    float *totals = scratch->parts, *parts = totals + ES_ATTENTION_QUERIES * part_floats;
    int32_t low = first_row(op, positions[0]), high = 0;
    for (int32_t i = 0; i < n; i++) {
        low = es_min(low, first_row(op, positions[i]));
        high = es_max(high, positions[i] + 1);
    }
    for (int32_t row = low / ES_CACHE_CHUNK * ES_CACHE_CHUNK; row < high; row += ES_CACHE_CHUNK) {
        es_attention_token tokens[ES_ATTENTION_QUERIES];
        int32_t which[ES_ATTENTION_QUERIES], n_attending = 0;
        for (int32_t i = 0; i < n; i++) {
            const int32_t first = es_max(0, first_row(op, positions[i]) - row);
            const int32_t end = es_min(positions[i] + 1 - row, ES_CACHE_CHUNK);
            if (first < end) {
                const int opens = row <= first_row(op, positions[i]);
                which[n_attending] = opens ? -1 : i;
                tokens[n_attending++] = (es_attention_token){
                    .q = es_row(engine, op->src, begin + i) + at,
                    .part = (opens ? totals : parts) + (size_t)i * token_floats,
                    .first = first,
                    .end = end,
                };
            }
        }
        if (n_attending == 0) {
            continue; /* windows of tokens that do not follow one another */
        }
        const chunk_rows rows = {row, es_max(0, low - row), es_min(high - row, ES_CACHE_CHUNK),
                                 es_sparse_rows(&engine->plan, positions[0])};
        const es_cache_rows keys = rows_of(engine, op, cache, 0, kv_head, &rows, scratch);
        const es_cache_rows values = rows_of(engine, op, cache, 1, kv_head, &rows, scratch);
        engine->k.attention(tokens, n_attending, n_heads, &keys, &values, op->head_dim, op->scale,
                            scratch->attention);
        for (int32_t i = 0; i < n_attending; i++) {
            for (int32_t h = 0; which[i] >= 0 && h < n_heads; h++) {
                const size_t part = (size_t)which[i] * token_floats + (size_t)h * part_floats;
                merge(totals + part, parts + part, op->head_dim);
            }
        }
    }
    for (int32_t i = 0; i < n; i++) {
        float *out = es_row(engine, op->dst, begin + i) + at;
        for (int32_t h = 0; h < n_heads; h++) {
            finish(out + (size_t)h * (size_t)op->head_dim,
                   totals + (size_t)i * token_floats + (size_t)h * part_floats, op->head_dim);
        }
    }
}

static void attend(void *context, int32_t item, int32_t thread) {
    const attention_job *job = context;
    const int32_t group = job->op->n_heads / job->op->n_kv_heads;
    const int32_t per_block = job->op->n_kv_heads * job->n_runs;
    const int32_t n_blocks = es_ratio_up(job->step->n_tokens, job->n_tokens);
    /* The last tokens of a prompt have the most to read: they go first, so that no thread is left
     * alone with them at the end. */
    const int32_t block = n_blocks - 1 - item / per_block;
    const int32_t kv_head = item % per_block / job->n_runs;
    const int32_t skipped = item % job->n_runs * job->n_heads;
    const int32_t n_heads = es_min(job->n_heads, group - skipped);
    const int32_t *sequences = job->step->sequences, *positions = job->step->positions;
    const es_plan *plan = &job->engine->plan;
    int32_t begin = block * job->n_tokens;
    const int32_t end = es_min(begin + job->n_tokens, job->step->n_tokens);
    while (begin < end) {
        int32_t n = 1;
        while (begin + n < end && sequences[begin + n] == sequences[begin] &&
               es_sparse_rows(plan, positions[begin + n]) ==
                   es_sparse_rows(plan, positions[begin])) {
            n++;
        }
        attend_tokens(job, begin, n, kv_head, kv_head * group + skipped, n_heads,
                      &job->engine->scratch[thread]);
        begin += n;
    }
}

/* ---- one token, as in decoding ------------------------------------------------------------------
 * A work item is one chunk of one kv head, and where those are too few for the threads, some of its heads. */

typedef struct together_job {
    es_engine *engine;
    const es_op *op;
    const es_cache *cache;
    int32_t first, end;      /* rows that the token attends to */
    int32_t chunk, n_chunks; /* the first one, and how many */
    int32_t n_runs, n_heads; /* work items that share a chunk of a kv head, heads of one at most */
} together_job;

static float *part_of(const together_job *job, int32_t head, int32_t chunk) {
    const size_t index = (size_t)chunk * (size_t)job->op->n_heads + (size_t)head;
    return job->engine->parts + index * es_attention_part_floats((size_t)job->op->head_dim);
}

static void merge_head(const together_job *job, int32_t head) {
    const int32_t head_dim = job->op->head_dim;
    float *total = part_of(job, head, 0);
    for (int32_t chunk = 1; chunk < job->n_chunks; chunk++) {
        merge(total, part_of(job, head, chunk), head_dim);
    }
    finish(es_row(job->engine, job->op->dst, 0) + (size_t)head * (size_t)head_dim, total, head_dim);
}

static void attend_chunk(void *context, int32_t item, int32_t thread) {
    const together_job *job = context;
    es_engine *engine = job->engine;
    const es_op *op = job->op;
    const int32_t group = op->n_heads / op->n_kv_heads;
    /* Chunk after chunk, as they lie in the cache. */
    const int32_t run = item % job->n_runs, kv_head = item / job->n_runs % op->n_kv_heads;
    const int32_t chunk = item / job->n_runs / op->n_kv_heads;
    const int32_t row = (job->chunk + chunk) * ES_CACHE_CHUNK;
    const int32_t head = kv_head * group + run * job->n_heads;
    const int32_t n_heads = es_min(job->n_heads, (kv_head + 1) * group - head);
    const es_attention_token token = {
        .q = es_row(engine, op->src, 0) + (size_t)head * (size_t)op->head_dim,
        .part = part_of(job, head, chunk),
        .first = es_max(0, job->first - row),
        .end = es_min(job->end - row, ES_CACHE_CHUNK),
    };
    const es_scratch *scratch = &engine->scratch[thread];
    const chunk_rows rows = {row, token.first, token.end,
                             es_sparse_rows(&engine->plan, job->end - 1)};
    const es_cache_rows keys = rows_of(engine, op, job->cache, 0, kv_head, &rows, scratch);
    const es_cache_rows values = rows_of(engine, op, job->cache, 1, kv_head, &rows, scratch);
    engine->k.attention(&token, 1, n_heads, &keys, &values, op->head_dim, op->scale,
                        scratch->attention);
    /* Whoever completes a kv head's parts merges them. */
    if (__atomic_sub_fetch(&engine->unmerged[kv_head], 1, __ATOMIC_ACQ_REL) == 0) {
        for (int32_t h = kv_head * group; h < (kv_head + 1) * group; h++) {
            merge_head(job, h);
        }
    }
}

static void attend_together(es_engine *engine, const es_op *op, const es_step *step) {
    together_job job = {engine, op, &step->caches[step->sequences[0]], .first = 0};
    job.first = first_row(op, step->positions[0]);
    job.end = step->positions[0] + 1;
    job.chunk = job.first / ES_CACHE_CHUNK;
    job.n_chunks = es_attention_chunks(job.end) - job.chunk;
    const int32_t group = op->n_heads / op->n_kv_heads;
    const int32_t wanted =
        es_ratio_up(es_pool_threads(engine->pool), op->n_kv_heads * job.n_chunks);
    job.n_runs = es_max(es_min(wanted, group), es_ratio_up(group, ES_ATTENTION_QUERIES));
    job.n_heads = es_ratio_up(group, job.n_runs);
    job.n_runs = es_ratio_up(group, job.n_heads);
    for (int32_t h = 0; h < op->n_kv_heads; h++) {
        engine->unmerged[h] = job.n_chunks * job.n_runs;
    }
    es_pool_run(engine->pool, attend_chunk, &job, op->n_kv_heads * job.n_chunks * job.n_runs);
}

int32_t es_run_attention(es_engine *engine, const es_op *op, const es_step *step) {
    if (step->n_tokens == 1) {
        attend_together(engine, op, step);
        return ES_OK;
    }
    const int32_t group = op->n_heads / op->n_kv_heads, n_threads = es_pool_threads(engine->pool);
    /* Heads stay together unless that would leave threads without work. */
    const int32_t wanted = es_ratio_up(n_threads, step->n_tokens * op->n_kv_heads);
    const int32_t n_heads =
        es_ratio_up(group, es_max(wanted, es_ratio_up(group, ES_ATTENTION_QUERIES)));
    attention_job job = {engine, op, step, .n_heads = n_heads};
    job.n_heads = es_min(es_max(n_heads, 1), ES_ATTENTION_QUERIES);
    job.n_runs = es_ratio_up(group, job.n_heads);
    job.n_tokens = es_max(1, ES_ATTENTION_QUERIES / job.n_heads);
    job.n_tokens = es_min(job.n_tokens, es_ratio_up(step->n_tokens * op->n_kv_heads, n_threads));
    const int32_t n_blocks = es_ratio_up(step->n_tokens, job.n_tokens);
    es_pool_run(engine->pool, attend, &job, n_blocks * op->n_kv_heads * job.n_runs);
    return ES_OK;
}
