/* Products with weights stored row by row: lists of single rows, which outputs with dead neurons ask for,
 * and all rows. One token reads the rows as they lie; several share tiles that are made of eight rows at
 * a time, and meet them in the kernels of the tiled formats. Both have the same bits. */
#include "linear.h"

void es_linear_row_list(const es_linear_job *job, const es_weight *w, const es_input *input,
                        size_t slot, const int32_t *rows, int32_t n_rows, float *y) {
    const int32_t n_blocks = (w->k + 31) / 32;
    const es_q16 x = es_linear_blocks(input, slot);
    job->engine->k.row_list[w->format - ES_FORMAT_Q8R](
        y, w->data, es_row_bytes(w->format, (size_t)n_blocks), rows, n_rows, &x, n_blocks);
}

void es_linear_whole_rows(const es_linear_job *job, const es_output *out, const es_input *input,
                          es_scratch *scratch, int32_t first, int32_t n_rows) {
    enum { TILE_ROWS = 8 };
    const es_weight *w = es_linear_weight(job, out);
    const int32_t n_blocks = (w->k + 31) / 32;
    const size_t row_bytes = es_row_bytes(w->format, (size_t)n_blocks);
    if (job->n_tokens == 1) {
        int32_t rows[ES_ROW_BLOCK];
        for (int32_t r = 0; r < n_rows; r++) {
            rows[r] = first + r;
        }
        es_linear_row_list(job, w, input, 0, rows, n_rows, scratch->sums);
        es_linear_store(job, out, 0, first, n_rows, scratch->sums);
        return;
    }
    for (int32_t r = 0; r < n_rows; r += TILE_ROWS) {
        const int32_t n = es_min(TILE_ROWS, n_rows - r);
        job->engine->k.row_tile[w->format - ES_FORMAT_Q8R](
            scratch->tile, w->data + (size_t)(first + r) * row_bytes, row_bytes, n, n_blocks);
        es_linear_tile_products(job, out, input, scratch, scratch->tile, first + r, n);
    }
}
