/* Outputs of a linear op whose weights are bit planes: the input becomes int8 per block, or per token
 * for ternary planes, and, where few tokens make looking up the faster way, tables of sums. The tables
 * are made once for an op and serve all of its matrices and rows. */
#include "linear.h"
#include "memory.h"

#include <stdlib.h>
#include <string.h>

static int32_t table_form(const es_weight *w) {
    return w->format == ES_FORMAT_BST ? ES_NEEDS_TOKEN_TABLE
           : w->rounded               ? ES_NEEDS_ROUNDED
                                      : ES_NEEDS_TABLE;
}

/* Tokens of the largest step that looks up in tables of a form; 0 without weights that do. */
static size_t table_tokens(const es_plan *plan, int32_t form, size_t capacity) {
    size_t most = 0;
    for (int32_t i = 0; i < plan->n_weights; i++) {
        const es_weight *w = &plan->weights[i];
        if (es_is_sliced(w) && table_form(w) == form) {
            const size_t n = (size_t)w->mad_tokens - 1;
            const size_t fits = n < capacity ? n : capacity;
            most = fits > most ? fits : most;
        }
    }
    return most;
}

static int has_slices(const es_plan *plan) {
    for (int32_t i = 0; i < plan->n_weights; i++) {
        if (es_is_sliced(&plan->weights[i])) {
            return 1;
        }
    }
    return 0;
}

int es_slice_input_create(es_input *input, const es_plan *plan, size_t capacity) {
    es_slice_input *slices = &input->slices;
    memset(slices, 0, sizeof *slices);
    if (!has_slices(plan)) {
        return 1;
    }
    const size_t n_blocks = capacity * input->n_blocks;
    const size_t table_bytes = input->n_blocks * ES_TABLE_BYTES;
    /* An odd number of cache lines, so that the rows of many tokens do not share a few of its sets. */
    slices->q_stride = (es_round_up(input->n_blocks * 32, 64) / 64 | 1) * 64;
    slices->q = es_aligned(capacity * slices->q_stride);
    slices->d = es_aligned(n_blocks * sizeof(float));
    slices->sum = es_aligned(n_blocks * sizeof(int32_t));
    slices->xsum = es_aligned(n_blocks * sizeof(float));
    slices->table = es_aligned(table_tokens(plan, ES_NEEDS_TABLE, capacity) * table_bytes);
    slices->token_table =
        es_aligned(table_tokens(plan, ES_NEEDS_TOKEN_TABLE, capacity) * table_bytes);
    slices->rounded = es_aligned(table_tokens(plan, ES_NEEDS_ROUNDED, capacity) * input->n_blocks *
                                 ES_ROUNDED_BYTES);
    slices->rounded_d = es_aligned(n_blocks * sizeof(float));
    return slices->rounded && slices->rounded_d && slices->q && slices->d && slices->sum &&
           slices->xsum && slices->table && slices->token_table;
}

void es_slice_input_destroy(es_input *input) {
    es_slice_input *slices = &input->slices;
    free(slices->q);
    free(slices->d);
    free(slices->sum);
    free(slices->xsum);
    free(slices->table);
    free(slices->token_table);
    free(slices->rounded);
    free(slices->rounded_d);
    memset(slices, 0, sizeof *slices);
}

static int looks_up(const es_linear_job *job, const es_weight *w) {
    return job->n_tokens < w->mad_tokens;
}

int32_t es_slice_forms(const es_linear_job *job, const es_weight *w) {
    const int32_t int8 = w->format == ES_FORMAT_BST ? ES_NEEDS_INT8 : ES_NEEDS_INT8_BLOCKS;
    return int8 | (looks_up(job, w) ? table_form(w) : 0);
}

void es_slice_prepare(const es_linear_job *job, es_input *input, size_t slot) {
    const es_kernels *kernels = &job->engine->k;
    es_slice_input *slices = &input->slices;
    const int32_t n_blocks = (job->k + 31) / 32;
    const size_t at = slot * input->n_blocks;
    int8_t *q = slices->q + slot * slices->q_stride;
    if (job->forms & ES_NEEDS_INT8_BLOCKS) {
        kernels->quantize_i8_blocks(q, slices->d + at, slices->sum + at, slices->xsum + at,
                                    input->h + slot * input->h_stride, job->k);
    }
    if (job->forms & ES_NEEDS_TABLE) {
        kernels->slice_tables(slices->table + at * ES_TABLE_BYTES, q, n_blocks);
    }
    if (job->forms & ES_NEEDS_ROUNDED) {
        kernels->rounded_tables(slices->rounded + at * ES_ROUNDED_BYTES, slices->rounded_d + at, q,
                                slices->d + at, n_blocks);
    }
    if (job->forms & ES_NEEDS_TOKEN_TABLE) {
        kernels->slice_tables(slices->token_table + at * ES_TABLE_BYTES,
                              input->q8 + slot * input->q8_stride, n_blocks);
    }
}

static void ternary_tile(const es_linear_job *job, const es_output *out, const es_weight *w,
                         const es_input *input, es_scratch *scratch, int32_t first,
                         int32_t n_rows) {
    const es_kernels *kernels = &job->engine->k;
    const int32_t n_blocks = (w->k + 31) / 32;
    const uint8_t *data = w->data + (size_t)(first / 64) * (size_t)n_blocks * 2 * 256;
    int32_t *sums = (int32_t *)(void *)scratch->sums;
    for (int32_t t0 = 0; t0 < job->n_tokens; t0 += ES_TOKEN_BLOCK) {
        const int32_t n_tokens = es_min(ES_TOKEN_BLOCK, job->n_tokens - t0);
        const size_t at = (size_t)t0;
        es_q8 x = {
            .q = input->q8 + at * input->q8_stride,
            .q_stride = input->q8_stride,
            .stride_blocks = input->n_blocks,
        };
        if (looks_up(job, w)) {
            x.tables = input->slices.token_table + at * input->n_blocks * ES_TABLE_BYTES;
            kernels->bst_lut(sums, ES_ROW_BLOCK, data, 1, &x, n_tokens, n_blocks);
        } else {
            kernels->bst_mad(sums, ES_ROW_BLOCK, data, 1, &x, n_tokens, n_blocks);
        }
        es_linear_finish(job, out, input, t0, n_tokens, sums, ES_ROW_BLOCK, ES_SUMS_OF_CODES, first,
                         n_rows);
    }
}

es_slices es_slice_layout(const es_weight *w) {
    const int32_t n_blocks = (w->k + 31) / 32;
    return (es_slices){
        .planes = es_is_slice_column(w->format) ? w->format - ES_FORMAT_BS2N + 2
                                                : w->format - ES_FORMAT_BS1 + 1,
        .n_blocks = n_blocks,
        .group_blocks = w->group == 0 ? n_blocks : w->group / 32,
        .zeros = w->zeros,
        .wide = w->wide,
    };
}

es_q8 es_slice_tokens(const es_input *input, size_t slot) {
    const es_slice_input *slices = &input->slices;
    const size_t at = slot * input->n_blocks;
    return (es_q8){
        .q = slices->q + slot * slices->q_stride,
        .d = slices->d + at,
        .sum = slices->sum + at,
        .xsum = slices->xsum + at,
        .q_stride = slices->q_stride,
        .stride_blocks = input->n_blocks,
    };
}

static void group_tile(const es_linear_job *job, const es_output *out, const es_weight *w,
                       const es_input *input, es_scratch *scratch, int32_t first, int32_t n_rows) {
    const es_kernels *kernels = &job->engine->k;
    const es_slice_input *slices = &input->slices;
    const es_slices layout = es_slice_layout(w);
    const size_t n_tiles = ((size_t)w->n_rows + 63) / 64;
    const uint8_t *data = w->data + (size_t)(first / 64) * (w->n_bytes / n_tiles);
    float *y = scratch->sums;
    for (int32_t t0 = 0; t0 < job->n_tokens; t0 += ES_TOKEN_BLOCK) {
        const int32_t n_tokens = es_min(ES_TOKEN_BLOCK, job->n_tokens - t0);
        const size_t at = (size_t)t0 * input->n_blocks;
        es_q8 x = es_slice_tokens(input, (size_t)t0);
        if (looks_up(job, w) && w->rounded) {
            x.tables = slices->rounded + at * ES_ROUNDED_BYTES;
            x.d = slices->rounded_d + at;
            kernels->slice_rounded(y, ES_ROW_BLOCK, data, &layout, 1, &x, n_tokens);
        } else if (looks_up(job, w)) {
            x.tables = slices->table + at * ES_TABLE_BYTES;
            kernels->slice_lut(y, ES_ROW_BLOCK, data, &layout, 1, &x, n_tokens);
        } else {
            kernels->slice_mad(y, ES_ROW_BLOCK, data, &layout, 1, &x, n_tokens);
        }
        for (int32_t t = 0; t < n_tokens; t++) {
            es_linear_store(job, out, t0 + t, first, n_rows, y + t * ES_ROW_BLOCK);
        }
    }
}

void es_slice_rows(const es_linear_job *job, const es_output *out, const es_weight *w,
                   const es_input *input, es_scratch *scratch, int32_t first, int32_t n_rows) {
    if (w->format == ES_FORMAT_BST) {
        ternary_tile(job, out, w, input, scratch, first, n_rows);
    } else {
        group_tile(job, out, w, input, scratch, first, n_rows);
    }
}
