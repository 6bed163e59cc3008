/* Thresholds of a gate's activation: FATReLU keeps what is not below its cutoff, the shifted ReLU subtracts
 * first. Both are a ReLU of the gate that is stored, so what skips dead gates skips theirs.
 *
 * It comes behind everything that makes the gate, outliers and predictions included, and reads what has just
 * been written. */
#include "linear.h"

static int is_cut(const es_output *out) {
    return out->shift > 0.0f || out->cutoff > 0.0f;
}

void es_linear_cut_row(const es_linear_job *job, const es_output *out, int32_t row, int32_t first,
                       int32_t n_rows) {
    if (!is_cut(out)) {
        return;
    }
    const float shift = out->shift, cutoff = out->cutoff;
    float *y = es_linear_destination(job, out, row) + first;
    for (int32_t r = 0; r < n_rows; r++) {
        const float shifted = y[r] - shift;
        y[r] = shifted < cutoff ? 0.0f : shifted;
    }
}

typedef struct cut_job {
    const es_linear_job *linear;
    const es_output *out;
} cut_job;

static void cut_token(void *context, int32_t row, int32_t thread) {
    const cut_job *job = context;
    (void)thread;
    es_linear_cut_row(job->linear, job->out, row, 0,
                      es_linear_weight(job->linear, job->out)->n_rows);
}

void es_linear_cut(const es_linear_job *job, int32_t first, int32_t n_outputs) {
    for (int32_t i = first; i < first + n_outputs; i++) {
        cut_job one = {job, &job->op->outputs[i]};
        if (is_cut(one.out)) {
            es_pool_run(job->engine->pool, cut_token, &one, job->n_tokens);
        }
    }
}
