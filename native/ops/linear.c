/* Linear: an input (linear_input.c), and up to four products that share it, in one job over their rows
 * (linear_deal.c). An output that skips dead neurons comes after the others, in jobs of its own
 * (linear_sparse.c). */
#include "linear.h"

#include <math.h>
#include <string.h>

static int is_ternary(const es_weight *w) {
    return w->format == ES_FORMAT_T2 || w->format == ES_FORMAT_T5 || w->format == ES_FORMAT_T2N;
}

static int is_block(const es_weight *w) {
    return (w->format >= ES_FORMAT_Q8 && w->format <= ES_FORMAT_Q6) ||
           es_is_block_column(w->format) || es_is_row(w->format) || es_is_sparse(w->format);
}

const float *es_linear_gate(const es_linear_job *job, const es_output *out, int32_t row,
                            int32_t first, int32_t n_rows, float *room) {
    const float *gate = es_linear_target(job, out, out->live, row) + first;
    if (out->live_threshold <= 0.0f) {
        return gate;
    }
    const int32_t token = es_linear_token(job, row);
    const int is_exempt = job->step->positions[token] < job->step->sparse_from;
    float ones[ES_ROW_BLOCK];
    for (int32_t r = 0; r < ES_ROW_BLOCK; r++) {
        ones[r] = 1.0f;
    }
    job->engine->k.glu_silu(room, gate, ones, n_rows);
    for (int32_t r = 0; r < n_rows; r++) {
        const float size = out->live_factors != NULL ? fabsf(room[r]) * out->live_factors[first + r]
                                                     : fabsf(room[r]);
        room[r] = is_exempt || !(size < out->live_threshold) ? 1.0f : 0.0f;
    }
    return room;
}

void es_linear_store(const es_linear_job *job, const es_output *out, int32_t row, int32_t first,
                     int32_t n_rows, float *restrict y) {
    float *restrict dst = es_linear_destination(job, out, row) + first;
    if (out->bias != NULL) {
        for (int32_t r = 0; r < n_rows; r++) {
            y[r] = y[r] + out->bias[first + r];
        }
    }
    if (out->live >= 0) {
        float room[ES_ROW_BLOCK];
        const float *gate = es_linear_gate(job, out, row, first, n_rows, room);
        for (int32_t r = 0; r < n_rows; r++) {
            y[r] = gate[r] > 0.0f ? y[r] : 0.0f;
        }
    }
    if (out->add) {
        for (int32_t r = 0; r < n_rows; r++) {
            dst[r] = dst[r] + y[r];
        }
    } else {
        memcpy(dst, y, (size_t)n_rows * sizeof *y);
    }
}

void es_linear_finish(const es_linear_job *job, const es_output *out, const es_input *input,
                      int32_t row, int32_t n_tokens, const int32_t *sums, size_t sums_stride,
                      es_sums kind, int32_t first, int32_t n_rows) {
    enum { FAR_BYTES = 4 << 20 }; /* more than second-level caches hold beside weights and inputs */
    const es_engine *engine = job->engine;
    const es_weight *w = es_linear_weight(job, out);
    const size_t stride =
        (size_t)(out->dst < 0 ? engine->plan.n_vocab : engine->plan.widths[out->dst]);
    const int is_far = (size_t)job->n_tokens * stride * sizeof(float) >= FAR_BYTES;
    const int shared = es_linear_one_scale(job, w);
    es_scaling by = {.scales = shared ? w->scales : w->scales + first,
                     .shared = shared,
                     .s = input->s + row,
                     .qsum = kind == ES_SUMS_OF_CODES ? input->sum + row : NULL};
    const int masks = out->live_threshold <= 0.0f && !out->add && !job->op->outputs_only;
    if (out->bias == NULL && job->rows == NULL && (out->live < 0 || masks)) {
        if (out->live >= 0) {
            by.live = es_linear_target(job, out, out->live, row) + first;
            by.live_stride = (size_t)engine->plan.widths[out->live];
        }
        engine->k.scale_sums(es_linear_destination(job, out, row) + first, stride, sums,
                             sums_stride, &by, n_rows, n_tokens,
                             out->add ? ES_STORE_ADD
                             : is_far ? ES_STORE_FAR
                                      : ES_STORE);
        return;
    }
    float y[ES_NEURON_ROWS];
    for (int32_t t = row; t < row + n_tokens; t++, sums += sums_stride, by.s++) {
        engine->k.scale_sums(y, 0, sums, 0, &by, n_rows, 1, ES_STORE);
        by.qsum = by.qsum != NULL ? by.qsum + 1 : NULL;
        es_linear_store(job, out, t, first, n_rows, y);
    }
}

static void ternary_rows(const es_linear_job *job, const es_output *out, const es_weight *w,
                         const es_input *input, es_scratch *scratch, int32_t first,
                         int32_t n_rows) {
    const es_kernels *kernels = &job->engine->k;
    const size_t row_bytes = w->n_bytes / (size_t)w->n_rows;
    const int t2 = w->format == ES_FORMAT_T2;
    es_ternary_dot *few = t2 ? kernels->t2_dot : kernels->t5_dot;
    es_ternary_dot *many = t2 ? kernels->t2_many : kernels->t5_many;
    int32_t *sums = (int32_t *)(void *)scratch->sums;
    const int32_t block = es_linear_token_block(job, w->k);
    for (int32_t t0 = 0; t0 < job->n_tokens; t0 += block) {
        const int32_t n_tokens = es_min(block, job->n_tokens - t0);
        es_ternary_dot *dot = n_tokens >= kernels->many_tokens ? many : few;
        dot(sums, ES_ROW_BLOCK, w->data + (size_t)first * row_bytes, row_bytes, n_rows,
            input->q8 + (size_t)t0 * input->q8_stride, input->q8_stride, n_tokens, w->k);
        es_linear_finish(job, out, input, t0, n_tokens, sums, ES_ROW_BLOCK, ES_SUMS_OF_CODES, first,
                         n_rows);
    }
}

void es_linear_tiles(const es_linear_job *job, const es_output *out, const es_input *input,
                     es_scratch *scratch, int32_t first, int32_t n_rows) {
    const es_weight *w = es_linear_weight(job, out);
    const size_t all_tiles = ((size_t)w->n_rows + 7) / 8;
    es_linear_tile_products(job, out, input, scratch,
                            w->data + (size_t)(first / 8) * (w->n_bytes / all_tiles), first,
                            n_rows);
}

void es_linear_tile_products(const es_linear_job *job, const es_output *out, const es_input *input,
                             es_scratch *scratch, const uint8_t *data, int32_t first,
                             int32_t n_rows) {
    const es_kernels *kernels = &job->engine->k;
    const es_weight *w = es_linear_weight(job, out);
    const int32_t n_tiles = (n_rows + 7) / 8;
    const int32_t n_blocks = (w->k + 31) / 32;
    for (int32_t t0 = 0; t0 < job->n_tokens; t0 += ES_TOKEN_BLOCK) {
        const int32_t n_tokens = es_min(ES_TOKEN_BLOCK, job->n_tokens - t0);
        const es_q16 x = es_linear_blocks(input, (size_t)t0);
        const float *h = input->h + (size_t)t0 * input->h_stride;
        float *y = scratch->sums;
        switch (es_tile_format(w->format)) {
        case ES_FORMAT_Q8:
            kernels->q8_dot(y, ES_ROW_BLOCK, data, n_tiles, &x, n_tokens, n_blocks);
            break;
        case ES_FORMAT_Q4:
            kernels->q4_dot(y, ES_ROW_BLOCK, data, n_tiles, &x, n_tokens, n_blocks);
            break;
        case ES_FORMAT_Q8M:
            kernels->q8m_dot(y, ES_ROW_BLOCK, data, n_tiles, &x, n_tokens, n_blocks);
            break;
        case ES_FORMAT_Q4M:
            kernels->q4m_dot(y, ES_ROW_BLOCK, data, n_tiles, &x, n_tokens, n_blocks);
            break;
        case ES_FORMAT_Q6:
            kernels->q6_dot(y, ES_ROW_BLOCK, data, n_tiles, &x, n_tokens, n_blocks);
            break;
        case ES_FORMAT_F16:
            kernels->f16_dot(y, ES_ROW_BLOCK, data, n_tiles, h, input->h_stride, n_tokens, w->k);
            break;
        case ES_FORMAT_BF16:
            kernels->bf16_dot(y, ES_ROW_BLOCK, data, n_tiles, h, input->h_stride, n_tokens, w->k);
            break;
        default:
            kernels->f32_dot(y, ES_ROW_BLOCK, data, n_tiles, h, input->h_stride, n_tokens, w->k);
            break;
        }
        for (int32_t t = 0; t < n_tokens; t++) {
            es_linear_store(job, out, t0 + t, first, n_rows, y + t * ES_ROW_BLOCK);
        }
    }
}

void es_linear_rows(const es_linear_job *job, const es_output *out, const es_input *input,
                    es_scratch *scratch, int32_t begin, int32_t end) {
    const es_weight *w = &job->engine->plan.weights[out->weight];
    if (es_is_column(w->format)) {
        es_linear_column_rows(job, out, input, scratch, begin, end);
        return;
    }
    if (es_is_sparse(w->format)) {
        es_bitmap_rows(job, out, input, scratch, begin, end);
        return;
    }
    for (int32_t first = begin; first < end; first += ES_ROW_BLOCK) {
        const int32_t n_rows = es_min(ES_ROW_BLOCK, end - first);
        if (is_ternary(w)) {
            ternary_rows(job, out, w, input, scratch, first, n_rows);
        } else if (es_is_sliced(w)) {
            es_slice_rows(job, out, w, input, scratch, first, n_rows);
        } else if (es_is_row(w->format)) {
            es_linear_whole_rows(job, out, input, scratch, first, n_rows);
        } else {
            es_linear_tiles(job, out, input, scratch, first, n_rows);
        }
    }
}

/* Rows of an output as work items see it: outputs follow one another in whole panels. */
static int32_t panelled(const es_linear_job *job, int32_t output) {
    const int32_t n_rows = es_linear_weight(job, &job->op->outputs[output])->n_rows;
    return (int32_t)es_round_up((size_t)n_rows, (size_t)job->panel);
}

static void product_chunk(void *context, int32_t chunk, int32_t thread) {
    const es_linear_job *job = context;
    const es_input *input = es_linear_input(job, thread);
    int32_t begin = chunk * job->unit_rows, end = begin + job->unit_rows;
    for (int32_t i = job->first; i < job->first + job->n_outputs && end > 0; i++) {
        const es_output *out = &job->op->outputs[i];
        const int32_t n_rows = panelled(job, i);
        if (begin < n_rows) {
            const int32_t last = es_min(end, es_linear_weight(job, out)->n_rows);
            es_linear_rows(job, out, input, &job->engine->scratch[thread], begin, last);
            if (out->side >= 0 && !job->sides_later) {
                es_side_rows(job, out, input, begin, last);
            }
        }
        begin = es_max(begin - n_rows, 0);
        end -= n_rows;
    }
}

void es_linear_products(es_linear_job *job, int32_t first, int32_t n_outputs) {
    if (es_linear_looks_up(job, first, n_outputs)) {
        for (int32_t i = first; i < first + n_outputs; i++) {
            es_linear_lookup(job, i);
            if (!job->sides_later) {
                es_linear_side(job, i);
            }
        }
        return;
    }
    /* Lines of a tile by columns, side by side, so that a column is a run worth fetching. */
    enum { LINES = ES_COLUMN_WIDTH / 2 };
    int32_t together = 1;
    job->panel = 32;
    for (int32_t i = first; i < first + n_outputs; i++) {
        const es_weight *w = es_linear_weight(job, &job->op->outputs[i]);
        if (job->op->outputs[i].side >= 0 && !job->sides_later) {
            job->engine->moved += job->engine->plan.weights[job->op->outputs[i].side].n_bytes;
        }
        if (es_is_column(w->format)) {
            job->panel = es_max(job->panel, (int32_t)es_line_rows(w->format));
            together = LINES;
        } else {
            job->panel = es_is_sliced(w) ? es_max(job->panel, 64) : job->panel; /* rows of a tile */
            job->engine->moved += w->n_bytes + es_linear_scale_bytes(w);
        }
    }
    int64_t all_rows = 0;
    for (int32_t i = first; i < first + n_outputs; i++) {
        all_rows += panelled(job, i);
    }
    job->first = first;
    job->n_outputs = n_outputs;
    job->unit_rows =
        es_linear_unit(all_rows, es_pool_threads(job->engine->pool), job->k, job->panel, together);
    es_pool_run(job->engine->pool, product_chunk, job,
                (int32_t)((all_rows + job->unit_rows - 1) / job->unit_rows));
    for (int32_t i = first; i < first + n_outputs; i++) {
        const es_weight *w = es_linear_weight(job, &job->op->outputs[i]);
        if (es_is_column(w->format)) {
            job->engine->moved += es_linear_column_bytes(job, w);
        }
    }
}

int32_t es_run_linear(es_engine *engine, const es_op *op, const es_step *step) {
    es_linear_job job = {.engine = engine,
                         .op = op,
                         .step = step,
                         .id = ++engine->job,
                         .n_tokens = op->outputs_only ? step->n_outputs : step->n_tokens,
                         .k = engine->plan.weights[op->outputs[0].weight].k};
    return es_linear_run(&job);
}

int32_t es_linear_run(es_linear_job *job) {
    const es_op *op = job->op;
    if (job->n_tokens == 0) {
        return ES_OK;
    }
    int32_t n_plain = 0;
    for (int32_t i = 0; i < op->n_outputs; i++) {
        const es_weight *w = es_linear_weight(job, &op->outputs[i]);
        job->forms |= is_ternary(w)     ? ES_NEEDS_INT8
                      : is_block(w)     ? ES_NEEDS_INT16
                      : es_is_sliced(w) ? es_slice_forms(job, w)
                                        : 0;
        job->keeps_floats |= !(is_ternary(w) || is_block(w)) || op->outputs[i].signs >= 0 ||
                             op->outputs[i].side >= 0;
        n_plain += n_plain == i && !es_linear_skips(job, &op->outputs[i]);
    }
    if (op->coarse != NULL && job->step->n_tiles > 0 && job->n_tokens == 1) {
        es_linear_two_stage(job);
        return ES_OK;
    }
    es_linear_prepare(job);
    const int is_gated = n_plain < op->n_outputs && es_linear_is_gated(job, n_plain);
    if (n_plain - is_gated > 0) {
        es_linear_products(job, 0, n_plain - is_gated);
        es_linear_cut(job, 0, n_plain - is_gated);
    }
    if (is_gated) {
        es_linear_gated(job, n_plain);
    }
    for (int32_t i = n_plain + is_gated; i < op->n_outputs; i++) {
        if (es_linear_skips(job, &op->outputs[i])) {
            job->sides_later = 1; /* lists of rows come and go with the token */
            es_linear_sparse(job, i);
            es_linear_side(job, i);
            job->sides_later = 0;
        } else {
            es_linear_products(job, i, 1);
        }
        es_linear_cut(job, i, 1);
    }
    return ES_OK;
}
