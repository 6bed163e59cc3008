/* The coarse copy of a head: rows rotated, then rounded to two bits with one scale each.
 *
 * The codes 0 to 3 stand for -3, -1, 1, 3 times the scale. Rotated rows are close to normal, so the step
 * follows from their mean magnitude; the scale is the one of least squares. All sums are of integers,
 * so no order of summation shows. The truth is edgesparse/formats/coarse.py. */
#include "cpu.h"
#include "ops/linear.h"
#include "repack.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int32_t round_row(uint8_t *codes, float *scale, const float *x, int32_t k) {
    float amax = 0.0f;
    unsigned broken = 0;
    for (int32_t i = 0; i < k; i++) {
        const float magnitude = fabsf(x[i]);
        broken |= !(magnitude <= 3.402823466e38f);
        amax = magnitude > amax ? magnitude : amax;
    }
    if (broken) {
        return ES_E_VALUE;
    }
    memset(codes, 0, ((size_t)k + 127) / 128 * 32);
    *scale = 0.0f;
    if (amax < 1e-20f) {
        return ES_OK;
    }
    const float factor = 1048576.0f / amax;
    int64_t total = 0;
    for (int32_t i = 0; i < k; i++) {
        total += (int64_t)fabsf(es_round_even(x[i] * factor));
    }
    const int32_t step = (int32_t)(total * 5 / (4 * (int64_t)k));
    int64_t product = 0, squares = 0;
    for (int32_t i = 0; i < k; i++) {
        const int32_t t = (int32_t)es_round_even(x[i] * factor);
        const int32_t code = (t >= -step) + (t >= 0) + (t >= step);
        codes[i / 128 * 32 + i % 32] |= (uint8_t)(code << (6 - 2 * (i % 128 / 32)));
        product += (int64_t)t * (2 * code - 3);
        squares += (2 * code - 3) * (2 * code - 3);
    }
    *scale = (float)((double)product / (double)squares) * (amax * 0x1p-20f);
    return ES_OK;
}

int32_t es_coarse(const es_coarse_job *job) {
    if (!job || !job->weight || !job->codes || !job->scales || job->row_begin < 0 ||
        job->row_begin >= job->row_end || job->row_end > job->weight->n_rows ||
        job->weight->k > ES_COARSE_MAX_K || !es_cpu_has(job->isa)) {
        return ES_E_ARGUMENT;
    }
    es_kernels kernels;
    es_kernels_fill(&kernels, job->isa);
    const size_t row_bytes = ((size_t)job->weight->k + 127) / 128 * 32;
    float *x = malloc((size_t)job->weight->k * sizeof *x);
    int32_t status = x != NULL ? ES_OK : ES_E_MEMORY;
    for (int32_t row = job->row_begin; row < job->row_end && status == ES_OK; row++) {
        es_weight_row(&kernels, x, job->weight, row);
        es_rotate(x, job->weight->k);
        status =
            round_row(job->codes + (size_t)row * row_bytes, &job->scales[row], x, job->weight->k);
    }
    free(x);
    return status;
}
