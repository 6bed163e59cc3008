/* Mixture of experts: a router's scores become numbers and weights of experts (route), each expert is a
 * linear over the tokens that chose it (experts), and their outputs become one (combine).
 *
 * A step's tokens are sorted by expert, so that an expert's weights are read once for all of its tokens,
 * and those of experts that no token chose are not read at all. */
#include "kernels/vector/vector.h"
#include "linear.h"
#include "memory.h"

#include <string.h>

typedef struct token_job {
    const es_engine *engine;
    const es_op *op;
    const es_step *step;
} token_job;

static int32_t chunk_end(const token_job *job, int32_t chunk) {
    return es_min((chunk + 1) * ES_TOKENS_PER_CHUNK, job->step->n_tokens);
}

/* ---- route ----------------------------------------------------------------------------------- */

/* Marks the highest scores with weights of 1; of equals the first. NaNs are chosen last. */
static void mark_best(float *restrict marks, const float *scores, int32_t n_experts,
                      int32_t n_used) {
    memset(marks, 0, (size_t)n_experts * sizeof *marks);
    for (int32_t j = 0; j < n_used; j++) {
        int32_t best = -1;
        for (int32_t e = 0; e < n_experts; e++) {
            if (marks[e] == 0.0f && (best < 0 || scores[e] > scores[best])) {
                best = e;
            }
        }
        marks[best] = 1.0f;
    }
}

static void route_token(const token_job *job, int32_t token) {
    const es_op *op = job->op;
    const float *scores = es_row(job->engine, op->src, token);
    float *numbers = es_row(job->engine, op->dst, token), *weights = numbers + op->n_used;
    float powers[ES_MAX_EXPERTS], marks[ES_MAX_EXPERTS], lane[ES_LANES] = {0};
    float largest = scores[0], chosen = 0.0f;
    for (int32_t e = 1; e < op->n_experts; e++) {
        largest = scores[e] > largest ? scores[e] : largest;
    }
    mark_best(marks, scores, op->n_experts, op->n_used);
    for (int32_t e = 0, j = 0; e < op->n_experts; e++) {
        powers[e] = es_exp(scores[e] - largest);
        lane[e % ES_LANES] += powers[e];
        if (marks[e] != 0.0f) {
            numbers[j] = (float)e;
            weights[j++] = powers[e];
            chosen += powers[e];
        }
    }
    const float total = op->normalize ? chosen : es_fold16(lane);
    for (int32_t j = 0; j < op->n_used; j++) {
        weights[j] = weights[j] / total;
    }
}

static void route_chunk(void *context, int32_t chunk, int32_t thread) {
    const token_job *job = context;
    (void)thread;
    for (int32_t t = chunk * ES_TOKENS_PER_CHUNK; t < chunk_end(job, chunk); t++) {
        route_token(job, t);
    }
}

int32_t es_run_route(es_engine *engine, const es_op *op, const es_step *step) {
    token_job job = {engine, op, step};
    es_pool_run(engine->pool, route_chunk, &job, es_token_chunks(step->n_tokens));
    return ES_OK;
}

/* ---- experts --------------------------------------------------------------------------------- */

int es_experts_create(es_engine *engine) {
    const es_plan *plan = &engine->plan;
    size_t n_rows = 0, n_experts = 0;
    for (int32_t i = 0; i < plan->n_ops; i++) {
        const es_op *op = &plan->ops[i];
        if (op->kind == ES_OP_EXPERTS) {
            const size_t rows = (size_t)plan->max_tokens * (size_t)op->n_used;
            n_rows = rows > n_rows ? rows : n_rows;
            n_experts = (size_t)op->n_experts > n_experts ? (size_t)op->n_experts : n_experts;
        }
    }
    engine->expert_rows = es_aligned(n_rows * sizeof(int32_t));
    engine->expert_begin = es_aligned((n_experts + 2) * sizeof(int32_t));
    return engine->expert_rows != NULL && engine->expert_begin != NULL;
}

/* The expert that a row belongs to; -1 for a number that is none. */
static int32_t chosen_expert(const token_job *job, int32_t row) {
    const int32_t n_used = job->op->n_used;
    const float number = es_row(job->engine, job->op->route, row / n_used)[row % n_used];
    return number >= 0.0f && number < (float)job->op->n_experts ? (int32_t)number : -1;
}

/* Sorts the rows of the step's tokens by expert; each expert's ascend. 0 for a number that is none, and
 * for an expert with more rows than there are tokens, which the buffers hold. */
static int sort_rows(const token_job *job, int32_t n_rows) {
    const es_engine *engine = job->engine;
    int32_t *begin = engine->expert_begin;
    memset(begin, 0, ((size_t)job->op->n_experts + 2) * sizeof *begin);
    for (int32_t row = 0; row < n_rows; row++) {
        const int32_t number = chosen_expert(job, row);
        if (number < 0 || ++begin[number + 2] > job->step->n_tokens) {
            return 0;
        }
    }
    for (int32_t e = 0; e < job->op->n_experts; e++) {
        begin[e + 2] += begin[e + 1];
    }
    for (int32_t row = 0; row < n_rows; row++) { /* moves each begin up to the next one */
        engine->expert_rows[begin[chosen_expert(job, row) + 1]++] = row;
    }
    return 1;
}

int32_t es_run_experts(es_engine *engine, const es_op *op, const es_step *step) {
    const token_job tokens = {engine, op, step};
    if (!sort_rows(&tokens, step->n_tokens * op->n_used)) {
        return ES_E_ARGUMENT;
    }
    for (int32_t e = 0; e < op->n_experts; e++) {
        const int32_t begin = engine->expert_begin[e];
        es_op one = *op;
        for (int32_t i = 0; i < op->n_outputs; i++) {
            one.outputs[i].weight = op->experts[e * op->n_outputs + i];
        }
        es_linear_job job = {.engine = engine,
                             .op = &one,
                             .step = step,
                             .id = ++engine->job,
                             .n_tokens = engine->expert_begin[e + 1] - begin,
                             .k = engine->plan.weights[one.outputs[0].weight].k,
                             .rows = engine->expert_rows + begin,
                             .rows_per_source = op->per_slot ? 1 : op->n_used};
        const int32_t status = es_linear_run(&job);
        if (status != ES_OK) {
            return status;
        }
    }
    return ES_OK;
}

/* ---- combine --------------------------------------------------------------------------------- */

static void combine_token(const token_job *job, int32_t token) {
    const es_op *op = job->op;
    const int32_t width = job->engine->plan.widths[op->dst];
    const float *rows = es_row(job->engine, op->src, token);
    const float *weights = es_row(job->engine, op->route, token) + op->n_used;
    const float *shared = op->src2 < 0 ? NULL : es_row(job->engine, op->src2, token);
    const float gate = op->gate < 0 ? 0.0f : es_row(job->engine, op->gate, token)[0];
    const float share = 1.0f / (1.0f + es_exp(-gate));
    float *restrict dst = es_row(job->engine, op->dst, token);
    enum { BLOCK = 256 };
    for (int32_t first = 0; first < width; first += BLOCK) {
        const int32_t n = es_min(BLOCK, width - first);
        float total[BLOCK] = {0};
        for (int32_t j = 0; j < op->n_used; j++) {
            const float *row = rows + (size_t)j * (size_t)width + first;
            for (int32_t i = 0; i < n; i++) {
                total[i] += row[i] * weights[j];
            }
        }
        for (int32_t i = 0; shared != NULL && i < n; i++) {
            total[i] += op->gate < 0 ? shared[first + i] : share * shared[first + i];
        }
        for (int32_t i = 0; i < n; i++) {
            dst[first + i] += total[i];
        }
    }
}

static void combine_chunk(void *context, int32_t chunk, int32_t thread) {
    const token_job *job = context;
    (void)thread;
    for (int32_t t = chunk * ES_TOKENS_PER_CHUNK; t < chunk_end(job, chunk); t++) {
        combine_token(job, t);
    }
}

int32_t es_run_combine(es_engine *engine, const es_op *op, const es_step *step) {
    token_job job = {engine, op, step};
    es_pool_run(engine->pool, combine_chunk, &job, es_token_chunks(step->n_tokens));
    return ES_OK;
}
