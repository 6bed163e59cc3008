/* What the two halves of the linear op share: linear.c prepares inputs and multiplies by rows,
 * linear_sparse.c multiplies by lists of live rows or live inputs. */
#ifndef ES_LINEAR_H
#define ES_LINEAR_H

#include "engine.h"

typedef struct es_linear_job {
    es_engine *engine;
    const es_op *op;
    const es_step *step;
    uint64_t id;      /* of this run of the op */
    int32_t n_tokens; /* rows of the product's left side */
    int32_t k;
    int32_t first, n_outputs; /* outputs of the job in progress */
    int32_t unit_rows;        /* rows per chunk, a multiple of 8 */
    int32_t tokens_per_chunk;
    int32_t forms; /* NEEDS_* */
} es_linear_job;

static inline const es_weight *es_linear_weight(const es_linear_job *job, const es_output *out) {
    return &job->engine->plan.weights[out->weight];
}

/* The step's token that row `row` of the product belongs to. */
static inline int32_t es_linear_token(const es_linear_job *job, int32_t row) {
    return job->op->outputs_only ? job->step->outputs[row] : row;
}

/* Bytes of the row scales, which ternary weights have beside their codes. */
static inline uint64_t es_linear_scale_bytes(const es_weight *w) {
    return w->scales != NULL ? (uint64_t)w->n_rows * sizeof(float) : 0;
}

/* Whether an output is computed through lists. */
static inline int es_linear_skips(const es_linear_job *job, const es_output *out) {
    return out->live >= 0 || out->signs >= 0 || es_linear_weight(job, out)->format == ES_FORMAT_T2N;
}

/* The quantised input: of one token, prepared by each thread for itself, or of all tokens. */
const es_input *es_linear_input(const es_linear_job *job, int32_t thread);

/* Outputs [first, first + n_outputs), dense and row by row. */
void es_linear_products(es_linear_job *job, int32_t first, int32_t n_outputs);

/* Rows [begin, end) of one output, begin a multiple of 8, in blocks that fit the scratch. */
void es_linear_rows(const es_linear_job *job, const es_output *out, const es_input *input,
                    es_scratch *scratch, int32_t begin, int32_t end);

/* One output whose dead rows sign planes predict (linear_predict.c). */
void es_linear_predicted(es_linear_job *linear, int32_t output);

/* One output in a tiled format, for one token, without the tiles in which every gate is dead. */
void es_linear_live_tiles(es_linear_job *linear, int32_t output);

/* The first n_listed rows of the engine's list, of a t2 or t5 output, for one row of the product; all
 * other rows are +0. */
void es_linear_listed(es_linear_job *linear, int32_t output, int32_t row, int32_t n_listed);

/* One output that skips dead neurons. */
void es_linear_sparse(es_linear_job *job, int32_t output);

/* y[r] = (sum[r] - qsum) * (scale[r] / s). A shared scale is divided once: same bits, fewer divisions. */
void es_linear_scale(float *restrict y, const int32_t *restrict sum, int32_t qsum,
                     const float *restrict scales, float s, int32_t n_rows);

/* y[0..n_rows) of one row of the product joins its destination, from column `first` on. */
void es_linear_store(const es_linear_job *job, const es_output *out, int32_t row, int32_t first,
                     int32_t n_rows, float *restrict y);

#endif
