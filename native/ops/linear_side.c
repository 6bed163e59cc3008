/* Outliers beside a matrix: a side matrix in coordinates (coo) multiplies the floats of the same input and
 * is added to the same destination, in the phase of its base wherever that is multiplied row by row. */
#include "kernels/coo.h"
#include "linear.h"

enum { TOKENS = 8 };

static void add(float *dst, const float *sums, size_t stride, int32_t n_rows) {
    for (int32_t r = 0; r < n_rows; r++) {
        dst[r] += sums[(size_t)r * stride];
    }
}

/* One token. Neighbours belong to different rows, mostly, so that sums do not wait for each other. */
static void one_token(float *dst, int32_t n_rows, const es_coo *side, uint32_t from, uint32_t to,
                      const float *x) {
    float sums[ES_COO_ROWS] = {0};
    for (uint32_t i = from; i < to; i++) {
        sums[side->rows[i]] += side->values[i] * x[side->columns[i]];
    }
    add(dst, sums, 1, n_rows);
}

/* The sums of TOKENS tokens, side by side: entries are read once. */
static void some_tokens(float (*sums)[TOKENS], const es_coo *side, uint32_t from, uint32_t to,
                        const float *x, size_t stride) {
    for (uint32_t i = from; i < to; i++) {
        const float value = side->values[i], *at = x + side->columns[i];
        float *y = sums[side->rows[i]];
        for (size_t t = 0; t < TOKENS; t++) {
            y[t] += value * at[t * stride];
        }
    }
}

void es_side_rows(const es_linear_job *job, const es_output *out, const es_input *input,
                  int32_t begin, int32_t end) {
    const es_coo side = es_coo_of(&job->engine->plan.weights[out->side]);
    const size_t stride = input->h_stride;
    for (int32_t first = begin; first < end; first += ES_COO_ROWS) {
        const int32_t n_rows = es_min(ES_COO_ROWS, end - first);
        const uint32_t from = side.begins[first / ES_COO_ROWS];
        const uint32_t to = side.begins[first / ES_COO_ROWS + 1];
        int32_t t = 0;
        for (; job->n_tokens - t >= TOKENS; t += TOKENS) {
            float sums[ES_COO_ROWS][TOKENS] = {0};
            some_tokens(sums, &side, from, to, input->h + (size_t)t * stride, stride);
            for (int32_t i = 0; i < TOKENS; i++) {
                add(es_linear_destination(job, out, t + i) + first, sums[0] + i, TOKENS, n_rows);
            }
        }
        for (; t < job->n_tokens; t++) {
            one_token(es_linear_destination(job, out, t) + first, n_rows, &side, from, to,
                      input->h + (size_t)t * stride);
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
