/* Ternary products of many tokens whose kernels look sums up: tables are made for a block of tokens and
 * serve many rows, so a work item is a run of rows times some blocks of tokens. */
#include "linear.h"

/* Fewer rows are not worth their tables, nor fewer tokens than three in five of the blocks' (measured). */
enum { LEAST_ROWS = 256, LEAST_FIFTHS = 3 };

typedef struct lookup_job {
    const es_linear_job *linear;
    const es_output *out;
    const es_weight *w;
    int32_t n_rows;     /* of an item, a multiple of ES_NEURON_ROWS */
    int32_t n_tokens;   /* of an item, a multiple of ES_LOOKUP_TOKENS */
    int32_t n_row_runs; /* items that share their tokens */
} lookup_job;

int es_linear_looks_up(const es_linear_job *job, int32_t first, int32_t n_outputs) {
    const int32_t n = job->n_tokens;
    const int32_t whole = (n + ES_LOOKUP_TOKENS - 1) / ES_LOOKUP_TOKENS * ES_LOOKUP_TOKENS;
    if (job->engine->k.t2_lookup == NULL || 5 * n < LEAST_FIFTHS * whole ||
        es_lookup_bytes(LEAST_ROWS, job->k) > ES_LOOKUP_INDEX_BYTES) {
        return 0;
    }
    for (int32_t i = first; i < first + n_outputs; i++) {
        const es_weight *w = es_linear_weight(job, &job->op->outputs[i]);
        if ((w->format != ES_FORMAT_T2 && w->format != ES_FORMAT_T2N) || w->n_rows < LEAST_ROWS) {
            return 0;
        }
    }
    return 1;
}

static void lookup_item(void *context, int32_t item, int32_t thread) {
    const lookup_job *job = context;
    const es_linear_job *linear = job->linear;
    const es_kernels *kernels = &linear->engine->k;
    const es_scratch *scratch = &linear->engine->scratch[thread];
    const es_input *input = es_linear_input(linear, thread);
    const es_weight *w = job->w;
    const int32_t first = item % job->n_row_runs * job->n_rows;
    const int32_t n_rows = es_min(job->n_rows, w->n_rows - first);
    const int32_t begin = item / job->n_row_runs * job->n_tokens;
    const int32_t end = es_min(begin + job->n_tokens, linear->n_tokens);
    const int t2 = w->format == ES_FORMAT_T2;
    if (t2) {
        const size_t row_bytes = w->n_bytes / (size_t)w->n_rows;
        kernels->t2_index(scratch->index, w->data + (size_t)first * row_bytes, row_bytes, n_rows,
                          w->k);
    } else {
        kernels->t2n_index(scratch->index, w->data + first / 4, w->n_bytes / (size_t)w->k, n_rows,
                           w->k);
    }
    es_ternary_lookup *lookup = t2 ? kernels->t2_lookup : kernels->t2n_lookup;
    for (int32_t t = begin; t < end; t += ES_LOOKUP_TOKENS) {
        const int32_t n_tokens = es_min(ES_LOOKUP_TOKENS, end - t);
        lookup(scratch->wide, scratch->narrow, scratch->index, n_rows,
               input->q8 + (size_t)t * input->q8_stride, input->q8_stride, n_tokens, w->k);
        for (int32_t r = 0; r < n_rows; r += ES_ROW_BLOCK) {
            const int32_t n = es_min(ES_ROW_BLOCK, n_rows - r);
            int32_t sums[ES_LOOKUP_TOKENS * ES_ROW_BLOCK];
            kernels->turn_sums(sums, ES_ROW_BLOCK, scratch->wide + r * ES_LOOKUP_TOKENS,
                               (n + 7) & ~7, n_tokens);
            es_linear_finish(linear, job->out, input, t, n_tokens, sums, ES_ROW_BLOCK,
                             ES_SUMS_OF_SIGNS, first + r, n);
        }
    }
}

void es_linear_lookup(es_linear_job *linear, int32_t output) {
    enum { ITEMS_PER_THREAD = 4 };
    es_engine *engine = linear->engine;
    lookup_job job = {.linear = linear, .out = &linear->op->outputs[output]};
    job.w = es_linear_weight(linear, job.out);
    const int32_t n_threads = es_pool_threads(engine->pool);
    const int32_t n_blocks = es_ratio_up(linear->n_tokens, ES_LOOKUP_TOKENS);
    int32_t most = ES_LOOKUP_ROWS;
    while (es_lookup_bytes(most, linear->k) > ES_LOOKUP_INDEX_BYTES) {
        most -= ES_NEURON_ROWS;
    }
    /* Tokens are dealt out before rows: numbering weights again costs less than making tables again. */
    int32_t n_runs = es_ratio_up(job.w->n_rows, most);
    const int32_t wanted = n_threads > 1 ? ITEMS_PER_THREAD * n_threads : 1;
    const int32_t n_token_runs = es_min(es_ratio_up(wanted, n_runs), n_blocks);
    while (n_runs * n_token_runs < n_threads && job.w->n_rows / (2 * n_runs) >= LEAST_ROWS) {
        n_runs *= 2;
    }
    job.n_tokens = es_ratio_up(n_blocks, n_token_runs) * ES_LOOKUP_TOKENS;
    job.n_rows = es_ratio_up(es_ratio_up(job.w->n_rows, n_runs), ES_NEURON_ROWS) * ES_NEURON_ROWS;
    job.n_row_runs = es_ratio_up(job.w->n_rows, job.n_rows);
    es_pool_run(engine->pool, lookup_item, &job,
                job.n_row_runs * es_ratio_up(linear->n_tokens, job.n_tokens));
    engine->moved += job.w->n_bytes + es_linear_scale_bytes(job.w);
}
