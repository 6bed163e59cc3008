/* Products with formats without zeros: one token multiplies codes as they are expanded in registers; several
 * tokens share tiles that are expanded into the dense format with the same codes and steps. Both give
 * the bits of the dense formats. */
#include "kernels/bitmap/bitmap.h"
#include "linear.h"
#include "memory.h"

#include <stdlib.h>
#include <string.h>

int es_bitmap_scratch_create(es_bitmap_scratch *scratch, const es_plan *plan) {
    const size_t n_blocks = es_max_blocks(plan, es_is_sparse);
    scratch->split = es_aligned(n_blocks * 64);
    scratch->centre = es_aligned(n_blocks * sizeof(int32_t));
    scratch->tiles = es_aligned(n_blocks * 2 * es_block_bytes(ES_FORMAT_Q8));
    return scratch->split != NULL && scratch->centre != NULL && scratch->tiles != NULL;
}

void es_bitmap_scratch_destroy(es_bitmap_scratch *scratch) {
    free(scratch->split);
    free(scratch->centre);
    free(scratch->tiles);
    memset(scratch, 0, sizeof *scratch);
}

typedef struct functions {
    es_bitmap_dot *dot;
    es_bitmap_expand *expand;
} functions;

static functions functions_of(const es_kernels *kernels, int32_t format) {
    switch (format) {
    case ES_FORMAT_BMP8:
        return (functions){kernels->bmp8_dot, kernels->bmp8_expand};
    case ES_FORMAT_BMP4:
        return (functions){kernels->bmp4_dot, kernels->bmp4_expand};
    case ES_FORMAT_CSR:
        return (functions){kernels->csr_dot, kernels->csr_expand};
    case ES_FORMAT_NM8:
        return (functions){kernels->nm8_dot, kernels->nm8_expand};
    default:
        return (functions){kernels->nm4_dot, kernels->nm4_expand};
    }
}

/* Where a tile starts. */
static const uint8_t *tile_at(const es_weight *w, int32_t tile) {
    if (es_is_two_of_four(w->format)) {
        const size_t n_blocks = ((size_t)w->k + 31) / 32;
        return w->data + (size_t)tile * n_blocks * es_nm_block_bytes(w->format);
    }
    uint64_t start;
    memcpy(&start, w->data + 8 * (size_t)tile, sizeof start);
    return w->data + start;
}

static es_split split_input(const es_linear_job *job, const es_input *input, es_scratch *scratch) {
    es_bitmap_scratch *bitmap = &scratch->bitmap;
    if (job->engine->k.split_q16 != NULL && bitmap->job != job->id) {
        job->engine->k.split_q16(bitmap->split, bitmap->centre, input->q16, (job->k + 31) / 32);
        bitmap->job = job->id;
    }
    return (es_split){bitmap->split, bitmap->centre};
}

static void one_token(const es_linear_job *job, const es_output *out, const es_input *input,
                      es_scratch *scratch, int32_t first, int32_t n_rows) {
    const es_weight *w = es_linear_weight(job, out);
    es_bitmap_dot *dot = functions_of(&job->engine->k, w->format).dot;
    const es_split split = split_input(job, input, scratch);
    const es_q16 x = es_linear_blocks(input, 0);
    dot(scratch->sums, tile_at(w, first / ES_BITMAP_ROWS),
        (n_rows + ES_BITMAP_ROWS - 1) / ES_BITMAP_ROWS, &x, &split, (w->k + 31) / 32);
    es_linear_store(job, out, 0, first, n_rows, scratch->sums);
}

static void expanded(const es_linear_job *job, const es_output *out, const es_input *input,
                     es_scratch *scratch, int32_t first, int32_t n_rows) {
    const es_weight *w = es_linear_weight(job, out);
    const es_kernels *kernels = &job->engine->k;
    es_block_dot *dot =
        es_dense_format(w->format) == ES_FORMAT_Q8 ? kernels->q8_dot : kernels->q4_dot;
    const int32_t n_blocks = (w->k + 31) / 32;
    float *y = scratch->sums;
    functions_of(kernels, w->format)
        .expand(scratch->bitmap.tiles, tile_at(w, first / ES_BITMAP_ROWS), n_blocks);
    for (int32_t t0 = 0; t0 < job->n_tokens; t0 += ES_TOKEN_BLOCK) {
        const int32_t n_tokens = es_min(ES_TOKEN_BLOCK, job->n_tokens - t0);
        const es_q16 x = es_linear_blocks(input, (size_t)t0);
        dot(y, ES_ROW_BLOCK, scratch->bitmap.tiles, (n_rows + 7) / 8, &x, n_tokens, n_blocks);
        for (int32_t t = 0; t < n_tokens; t++) {
            es_linear_store(job, out, t0 + t, first, n_rows, y + t * ES_ROW_BLOCK);
        }
    }
}

void es_bitmap_rows(const es_linear_job *job, const es_output *out, const es_input *input,
                    es_scratch *scratch, int32_t begin, int32_t end) {
    const int one = job->n_tokens == 1;
    const int32_t step = one ? ES_ROW_BLOCK : ES_BITMAP_ROWS;
    for (int32_t first = begin; first < end; first += step) {
        (one ? one_token : expanded)(job, out, input, scratch, first, es_min(step, end - first));
    }
}
