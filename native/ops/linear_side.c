/* Outliers beside a matrix: a side matrix in coordinates (coo) multiplies the floats of the same input and
 * is added to the same destination, in the phase of its base wherever that is multiplied row by row. */
#include "kernels/coo.h"
#include "linear.h"

void es_side_rows(const es_linear_job *job, const es_output *out, const es_input *input,
                  int32_t begin, int32_t end) {
    const es_weight *w = &job->engine->plan.weights[out->side];
    const es_coo side = es_coo_of(w);
    for (int32_t first = begin; first < end; first += ES_COO_ROWS) {
        const int32_t n_rows = es_min(ES_COO_ROWS, end - first);
        const uint32_t from = side.index[first / ES_COO_ROWS];
        const uint32_t to = side.index[first / ES_COO_ROWS + 1];
        for (int32_t t = 0; t < job->n_tokens; t++) {
            const float *x = input->h + (size_t)t * input->h_stride;
            float y[ES_COO_ROWS] = {0};
            /* Neighbours belong to different rows, mostly, so that sums do not wait for each other. */
            for (uint32_t i = from; i < to; i++) {
                y[side.rows[i]] += side.values[i] * x[side.columns[i]];
            }
            float *dst = es_linear_destination(job, out, t) + first;
            for (int32_t r = 0; r < n_rows; r++) {
                dst[r] += y[r];
            }
        }
    }
}

static void side_chunk(void *context, int32_t chunk, int32_t thread) {
    const es_linear_job *job = context;
    const es_output *out = &job->op->outputs[job->first];
    const int32_t begin = chunk * job->unit_rows;
    es_side_rows(job, out, es_linear_input(job, thread), begin,
                 es_min(begin + job->unit_rows, es_linear_weight(job, out)->n_rows));
}

void es_linear_side(es_linear_job *job, int32_t output) {
    const es_output *out = &job->op->outputs[output];
    if (out->side < 0) {
        return;
    }
    enum { CHUNKS_PER_THREAD = 4 };
    es_engine *engine = job->engine;
    const int32_t n_rows = es_linear_weight(job, out)->n_rows;
    const int32_t n_chunks = CHUNKS_PER_THREAD * es_pool_threads(engine->pool);
    job->first = output;
    job->unit_rows = es_ratio_up(es_ratio_up(n_rows, n_chunks), ES_COO_ROWS) * ES_COO_ROWS;
    engine->moved += engine->plan.weights[out->side].n_bytes;
    es_pool_run(engine->pool, side_chunk, job, es_ratio_up(n_rows, job->unit_rows));
}
