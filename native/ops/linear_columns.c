/* Products with weights stored by columns: one token reads only the columns whose quantised input is
 * not zero; several tokens share every column. Both give the bits of the row-major formats. */
#include "linear.h"

/* The live columns of the job's only token, as the thread's scratch holds them, in int16 or int8. */
static es_columns live_columns(const es_linear_job *job, const es_input *input, es_scratch *scratch,
                               int32_t format) {
    const es_kernels *kernels = &job->engine->k;
    const int32_t n_blocks = (job->k + 31) / 32;
    es_column_scratch *to = es_is_slice_column(format) ? &scratch->int8 : &scratch->int16;
    if (to->job != job->id) {
        to->n_columns = es_is_slice_column(format)
                            ? kernels->list_bytes(to->pairs, to->begin, input->slices.q, n_blocks)
                            : kernels->list_columns(to->pairs, to->begin, input->q16, n_blocks);
        to->job = job->id;
    }
    return (es_columns){to->pairs, to->begin};
}

static es_column_list *list_kernel(const es_kernels *kernels, int32_t format) {
    switch (format) {
    case ES_FORMAT_Q8N:
        return kernels->q8n_list;
    case ES_FORMAT_Q4N:
        return kernels->q4n_list;
    case ES_FORMAT_Q8MN:
        return kernels->q8mn_list;
    default:
        return kernels->q4mn_list;
    }
}

static es_column_dot *dot_kernel(const es_kernels *kernels, int32_t format) {
    switch (format) {
    case ES_FORMAT_Q8N:
        return kernels->q8n_dot;
    case ES_FORMAT_Q4N:
        return kernels->q4n_dot;
    case ES_FORMAT_Q8MN:
        return kernels->q8mn_dot;
    default:
        return kernels->q4mn_dot;
    }
}

/* Some lines for the job's only token. */
static void list_lines(const es_linear_job *job, const es_weight *w, const es_input *input,
                       es_scratch *scratch, const es_column_lines *lines, float *y) {
    const es_kernels *kernels = &job->engine->k;
    const es_columns live = live_columns(job, input, scratch, w->format);
    if (es_is_slice_column(w->format)) {
        const es_slices layout = es_slice_layout(w);
        const es_q8 x = es_slice_tokens(input, 0);
        kernels->slice_list(y, lines, &layout, &live, &x);
    } else {
        const es_q16 x = es_linear_blocks(input, 0);
        list_kernel(kernels, w->format)(y, lines, &live, &x, (w->k + 31) / 32);
    }
}

/* Some lines for n_tokens tokens from t0 on. */
static void dot_lines(const es_linear_job *job, const es_weight *w, const es_input *input,
                      const es_column_lines *lines, int32_t t0, int32_t n_tokens, float *y,
                      size_t y_stride) {
    const es_kernels *kernels = &job->engine->k;
    if (es_is_slice_column(w->format)) {
        const es_slices layout = es_slice_layout(w);
        const es_q8 x = es_slice_tokens(input, (size_t)t0);
        kernels->slice_column_dot(y, y_stride, lines, &layout, &x, n_tokens);
    } else {
        const es_q16 x = es_linear_blocks(input, (size_t)t0);
        dot_kernel(kernels, w->format)(y, y_stride, lines, &x, n_tokens, (w->k + 31) / 32);
    }
}

/* Some lines of a tile, whose first row is `first`, for one token or for all. */
static void lines_rows(const es_linear_job *job, const es_output *out, const es_input *input,
                       es_scratch *scratch, const es_column_lines *lines, int32_t first) {
    const es_weight *w = es_linear_weight(job, out);
    const int32_t line_rows = (int32_t)es_line_rows(w->format);
    const int32_t n_rows = es_min(line_rows * (int32_t)lines->n, w->n_rows - first);
    float *y = scratch->sums;
    if (job->n_tokens == 1) {
        list_lines(job, w, input, scratch, lines, y);
        es_linear_store(job, out, 0, first, n_rows, y);
        return;
    }
    const size_t y_stride = lines->n * (size_t)line_rows;
    const int32_t most = (int32_t)(ES_NEURON_ROWS * ES_TOKEN_BLOCK / y_stride);
    for (int32_t t0 = 0; t0 < job->n_tokens; t0 += most) {
        const int32_t n_tokens = es_min(most, job->n_tokens - t0);
        dot_lines(job, w, input, lines, t0, n_tokens, y, y_stride);
        for (int32_t t = 0; t < n_tokens; t++) {
            es_linear_store(job, out, t0 + t, first, n_rows, y + (size_t)t * y_stride);
        }
    }
}

void es_linear_column_rows(const es_linear_job *job, const es_output *out, const es_input *input,
                           es_scratch *scratch, int32_t begin, int32_t end) {
    const es_weight *w = es_linear_weight(job, out);
    const size_t line_rows = es_line_rows(w->format);
    const size_t all = ((size_t)w->n_rows + line_rows - 1) / line_rows;
    const size_t last = ((size_t)end + line_rows - 1) / line_rows;
    /* Rather few lines at a time than few tokens, which share what is unpacked. */
    const size_t n_tokens = (size_t)es_min(ES_TOKEN_BLOCK, job->n_tokens);
    const size_t room = ES_NEURON_ROWS * ES_TOKEN_BLOCK / (line_rows * n_tokens);
    const size_t most_lines = room > 1 ? room : 1;
    for (size_t line = (size_t)begin / line_rows; line < last;) {
        const size_t tile = line / ES_COLUMN_WIDTH * ES_COLUMN_WIDTH;
        const size_t width = all - tile < ES_COLUMN_WIDTH ? all - tile : ES_COLUMN_WIDTH;
        size_t stop = last < tile + width ? last : tile + width;
        stop = stop - line > most_lines ? line + most_lines : stop;
        const es_column_lines lines = {w->data + tile * (w->n_bytes / all), width, line - tile,
                                       stop - line};
        lines_rows(job, out, input, scratch, &lines, (int32_t)(line * line_rows));
        line = stop;
    }
}

uint64_t es_linear_column_bytes(const es_linear_job *job, const es_weight *w) {
    if (job->n_tokens > 1) {
        return w->n_bytes;
    }
    const uint64_t line_rows = es_line_rows(w->format), n_blocks = ((uint64_t)w->k + 31) / 32;
    const uint64_t n_lines = ((uint64_t)w->n_rows + line_rows - 1) / line_rows;
    const int sliced = es_is_slice_column(w->format);
    const es_slices layout = sliced ? es_slice_layout(w) : (es_slices){.group_blocks = 1};
    const uint64_t line_bytes = sliced ? es_slice_line_bytes(layout.planes) : ES_LINE_BYTES;
    const uint64_t step_bytes =
        sliced ? es_slice_line_head(&layout) : es_line_block_bytes(w->format) - 32 * ES_LINE_BYTES;
    const uint64_t per_group = (uint64_t)layout.group_blocks;
    for (int32_t i = 0; i < es_pool_threads(job->engine->pool); i++) {
        const es_scratch *scratch = &job->engine->scratch[i];
        const es_column_scratch *found = sliced ? &scratch->int8 : &scratch->int16;
        if (found->job == job->id) { /* every thread's list is the whole one */
            uint64_t n_live_groups = 0;
            for (uint64_t b = 0; b < n_blocks; b += per_group) {
                const uint64_t end = n_blocks - b < per_group ? n_blocks : b + per_group;
                n_live_groups += found->begin[b] != found->begin[end];
            }
            return n_lines * ((uint64_t)found->n_columns * line_bytes + n_live_groups * step_bytes);
        }
    }
    return 0;
}
