/* What a linear op multiplies: (glu) → (norm) → (gather) → quantised in every form that its weights ask for.
 *
 * One token: every thread that takes part prepares the input for itself, which costs a microsecond and saves
 * a barrier. Several tokens: a job of its own, by tokens. */
#include "linear.h"

#include <math.h>
#include <string.h>

/* Small inputs become zeros, where the op has a threshold and the token is far enough behind the first. */
static void apply_threshold(const es_linear_job *job, float *restrict h, int32_t token) {
    const es_op *op = job->op;
    if (op->threshold <= 0.0f || job->step->positions[token] < job->step->sparse_from) {
        return;
    }
    for (int32_t i = 0; i < job->k; i++) {
        const float size = op->factors != NULL ? fabsf(h[i]) * op->factors[i] : fabsf(h[i]);
        h[i] = size < op->threshold ? 0.0f : h[i];
    }
}

/* What the matrices multiply, before it is quantised: k floats at h. */
static void make_input(const es_linear_job *job, float *h, int32_t row) {
    const es_engine *engine = job->engine;
    const es_op *op = job->op;
    const int32_t token = es_linear_token(job, row);
    const int32_t k = job->k;
    const float *x = es_linear_source(job, op->src, row);
    const float *up = op->glu == ES_GLU_NONE ? NULL : es_linear_source(job, op->src2, row);
    if (op->glu == ES_GLU_RELU2) {
        engine->k.glu_relu2(h, x, up, k);
        x = h;
    } else if (op->glu == ES_GLU_RELU) {
        engine->k.glu_relu(h, x, up, k);
        x = h;
    } else if (op->glu == ES_GLU_SILU) {
        engine->k.glu_silu(h, x, up, k);
        x = h;
    } else if (op->glu == ES_GLU_GELU) {
        engine->k.glu_gelu(h, x, up, k);
        x = h;
    }
    if (op->norm != NULL) {
        engine->k.rmsnorm(h, x, op->norm, k, op->eps);
        x = h;
    }
    if (x != h) {
        memcpy(h, x, (size_t)k * sizeof *h);
    }
    apply_threshold(job, h, token);
}

/* Fills row `slot` of `input` for row `row` of the product; the floats go to h, where a later step wants
 * them in the input that is their own row. */
static void prepare_input(const es_linear_job *job, es_input *input, float *h, int32_t slot,
                          int32_t row, es_scratch *scratch) {
    const es_engine *engine = job->engine;
    const int32_t k = job->k;
    const int32_t *order = job->op->order;
    const size_t at = (size_t)slot;
    make_input(job, order != NULL ? scratch->unordered : h, row);
    for (int32_t i = 0; order != NULL && i < k; i++) {
        h[i] = scratch->unordered[order[i]];
    }
    if (job->forms & ES_NEEDS_INT8) {
        input->s[at] = engine->k.quantize_i8(input->q8 + at * input->q8_stride, &input->sum[at], h,
                                             k, (int32_t)input->q8_stride);
    }
    if (job->forms & ES_NEEDS_INT16) {
        engine->k.quantize_i16(input->q16 + at * input->n_blocks * 32,
                               input->d + at * input->n_blocks, input->sum16 + at * input->n_blocks,
                               input->xsum + at * input->n_blocks, h, k);
    }
    es_slice_prepare(job, input, at);
}

static void prepare_chunk(void *context, int32_t chunk, int32_t thread) {
    const es_linear_job *job = context;
    es_input *input = &job->engine->input;
    /* Floats that nobody reads again stay in a row that is in the cache. */
    float *h = job->engine->scratch[thread].input.h;
    const int32_t begin = chunk * job->tokens_per_chunk;
    const int32_t end = es_min(begin + job->tokens_per_chunk, job->n_tokens);
    for (int32_t row = begin; row < end; row++) {
        float *own = input->h + (size_t)row * input->h_stride;
        prepare_input(job, input, job->keeps_floats ? own : h, row, row,
                      &job->engine->scratch[thread]);
    }
}

const es_input *es_linear_input(const es_linear_job *job, int32_t thread) {
    es_engine *engine = job->engine;
    es_scratch *scratch = &engine->scratch[thread];
    if (job->n_tokens > 1) {
        return &engine->input;
    }
    if (scratch->input_job != job->id) {
        prepare_input(job, &scratch->input, scratch->input.h, 0, 0, scratch);
        scratch->input_job = job->id;
    }
    return &scratch->input;
}

void es_linear_prepare(es_linear_job *job) {
    es_engine *engine = job->engine;
    if (job->n_tokens == 1) {
        return;
    }
    /* Close together: what lies between them takes room in caches and translation buffers. */
    engine->input.q8_stride = es_q8_stride((size_t)job->k);
    job->tokens_per_chunk = es_max(1, job->n_tokens / (4 * es_pool_threads(engine->pool)));
    es_pool_run(engine->pool, prepare_chunk, job,
                (job->n_tokens + job->tokens_per_chunk - 1) / job->tokens_per_chunk);
}
