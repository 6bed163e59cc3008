/* One token's gate and the live rows of what it gates, in one job: whoever has computed a run of the gate's
 * rows knows which rows of the other matrix they keep alive, and needs nothing from other threads. */
#include "linear.h"

#include <string.h>

/* Rows of a run; bytes of the first rows of its list, which are asked for as soon as they are known (later
 * ones are asked for while rows before them are multiplied); and the largest matrix. Taking turns between
 * two matrices costs memory speed: beside a phase of its own, 12 us with 300 KB a matrix become 10.7, 78 with
 * 1.6 MB 83, and 208 with 4.4 MB 228 (two threads, 20 % live). */
enum { RUN_ROWS = 256, ASKED_BYTES = 16384, MOST_BYTES = 512 * 1024 };

typedef struct gated_job {
    es_linear_job *linear;
    const es_output *gate, *out;
    int32_t n_rows, unit_rows;
} gated_job;

static void ask_rows(const es_weight *w, const int32_t *rows, int32_t n) {
    enum { LINE = 64 };
    const size_t row_bytes = w->n_bytes / (size_t)w->n_rows;
    for (int32_t i = 0; i < n; i++) {
        const uint8_t *row = w->data + (size_t)rows[i] * row_bytes;
        for (size_t b = 0; b < row_bytes; b += LINE) {
            __builtin_prefetch(row + b, 0, 2);
        }
    }
}

/* Rows [first, end), RUN_ROWS at most; returns how many rows of the gated matrix were read. */
static int32_t gated_run(const gated_job *job, const es_input *input, es_scratch *scratch,
                         int32_t first, int32_t end) {
    const es_linear_job *linear = job->linear;
    const es_weight *w = es_linear_weight(linear, job->out);
    const int32_t most_asked = (int32_t)(ASKED_BYTES / (w->n_bytes / (size_t)w->n_rows));
    int32_t list[RUN_ROWS + ES_LIST_SLACK], n_live = 0;
    for (int32_t row = first; row < end; row += ES_ROW_BLOCK) {
        const int32_t n_rows = es_min(ES_ROW_BLOCK, end - row);
        es_linear_rows(linear, job->gate, input, scratch, row, row + n_rows);
        es_linear_cut_row(linear, job->gate, 0, row, n_rows);
        const int32_t n_new = es_linear_live(linear, job->out, 0, row, n_rows, list + n_live);
        ask_rows(w, list + n_live, es_min(n_live + n_new, most_asked) - n_live);
        n_live += n_new;
    }
    if (!es_linear_list_pays(n_live, end - first)) {
        es_linear_rows(linear, job->out, input, scratch, first, end);
        return end - first;
    }
    memset(es_linear_target(linear, job->out, job->out->dst, 0) + first, 0,
           (size_t)(end - first) * sizeof(float));
    es_linear_list_products(linear, job->out, input, 0, list, n_live);
    return n_live;
}

static void gated_chunk(void *context, int32_t chunk, int32_t thread) {
    const gated_job *job = context;
    es_scratch *scratch = &job->linear->engine->scratch[thread];
    const es_input *input = es_linear_input(job->linear, thread);
    const int32_t begin = chunk * job->unit_rows;
    const int32_t end = es_min(begin + job->unit_rows, job->n_rows);
    for (int32_t first = begin; first < end; first += RUN_ROWS) {
        scratch->n_live += gated_run(job, input, scratch, first, es_min(first + RUN_ROWS, end));
    }
}

int es_linear_is_gated(const es_linear_job *linear, int32_t output) {
    const es_op *op = linear->op;
    /* One thread has no phase to save. */
    if (linear->n_tokens != 1 || output < 1 || es_pool_threads(linear->engine->pool) < 2) {
        return 0;
    }
    const es_output *gate = &op->outputs[output - 1], *out = &op->outputs[output];
    const es_weight *w = es_linear_weight(linear, out), *v = es_linear_weight(linear, gate);
    return out->live >= 0 && out->live == gate->dst && !es_linear_skips(linear, gate) &&
           out->signs < 0 && out->side < 0 && gate->side < 0 && w->n_bytes <= MOST_BYTES &&
           !out->add && es_reads_rows(w) && (es_reads_rows(v) || es_is_sliced(v)) &&
           v->n_rows == w->n_rows;
}

void es_linear_gated(es_linear_job *linear, int32_t output) {
    es_engine *engine = linear->engine;
    const int32_t n_threads = es_pool_threads(engine->pool);
    gated_job job = {.linear = linear,
                     .gate = &linear->op->outputs[output - 1],
                     .out = &linear->op->outputs[output]};
    const es_weight *gate = es_linear_weight(linear, job.gate);
    const es_weight *w = es_linear_weight(linear, job.out);
    job.n_rows = w->n_rows;
    const int32_t panel = es_is_sliced(gate) ? 64 : 32; /* a tile's rows; what kernels take */
    job.unit_rows = es_linear_unit(job.n_rows, n_threads, linear->k, panel, 1);
    es_pool_run(engine->pool, gated_chunk, &job, es_ratio_up(job.n_rows, job.unit_rows));
    engine->moved += gate->n_bytes + es_linear_scale_bytes(gate);
    for (int32_t i = 0; i < n_threads; i++) {
        engine->moved += (uint64_t)engine->scratch[i].n_live * es_linear_row_bytes(w);
        engine->scratch[i].n_live = 0;
    }
}
