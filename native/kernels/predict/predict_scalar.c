/* Sign planes in plain C. */
#include "predict.h"

#include <string.h>

static void sign_bits(uint8_t *bits, size_t n_bytes, const float *x, int32_t n) {
    memset(bits, 0, n_bytes);
    for (int32_t i = 0; i < n; i++) {
        bits[i / 8] = (uint8_t)(bits[i / 8] | (x[i] < 0.0f) << i % 8);
    }
}

static int32_t count(const uint8_t *signs, const uint8_t *nonzero, const uint8_t *x,
                     size_t n_bytes) {
    int32_t sum = 0;
    for (size_t b = 0; b < n_bytes; b++) {
        const uint8_t differ = (uint8_t)((signs[b] ^ x[b]) & (nonzero != NULL ? nonzero[b] : 255));
        sum += __builtin_popcount(differ);
    }
    return sum;
}

static void sign_votes(int32_t *votes, const uint8_t *w, size_t plane_bytes, int32_t masked,
                       int32_t n_rows, const uint8_t *x) {
    const size_t row_bytes = plane_bytes * (masked ? 2 : 1);
    for (int32_t r = 0; r < n_rows; r++, w += row_bytes) {
        votes[r] = count(w, masked ? w + plane_bytes : NULL, x, plane_bytes);
    }
}

void es_predict_scalar(es_kernels *table) {
    table->sign_bits = sign_bits;
    table->sign_votes = sign_votes;
    table->signs_variant = "scalar";
}
