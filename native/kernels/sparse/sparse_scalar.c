/* Lists of live neurons, and neuron-major products over them, in plain C. */
#include "kernels.h"

static int32_t list_positive(int32_t *list, const float *x, int32_t n) {
    int32_t n_listed = 0;
    for (int32_t i = 0; i < n; i++) {
        list[n_listed] = i;
        n_listed += x[i] > 0.0f;
    }
    return n_listed;
}

static int32_t list_nonzero(int32_t *list, const int8_t *q, int32_t n) {
    int32_t n_listed = 0;
    for (int32_t i = 0; i < n; i++) {
        list[n_listed] = i;
        n_listed += q[i] != 0;
    }
    return n_listed;
}

static void t2n_sums(int32_t *sums, const uint8_t *w, size_t row_bytes, const int32_t *inputs,
                     int32_t n_inputs, const int8_t *q) {
    for (int32_t i = 0; i < n_inputs; i++) {
        const uint8_t *row = w + (size_t)inputs[i] * row_bytes;
        const int32_t x = q[inputs[i]];
        for (size_t b = 0; b < row_bytes; b++) {
            int32_t *out = sums + b / 32 * 128 + b % 32;
            out[0] += (row[b] >> 6) * x;
            out[32] += (row[b] >> 4 & 3) * x;
            out[64] += (row[b] >> 2 & 3) * x;
            out[96] += (row[b] & 3) * x;
        }
    }
}

void es_sparse_scalar(es_kernels *table) {
    table->list_positive = list_positive;
    table->list_nonzero = list_nonzero;
    table->t2n_sums = t2n_sums;
    table->t2n_variant = "scalar";
}
