/* The rough first pass over a head, in plain C: two-bit codes times int8. */
#include "kernels.h"

static void proposal_dot(int32_t *sums, const uint8_t *w, size_t row_bytes, int32_t n_rows,
                         const int8_t *q) {
    for (int32_t r = 0; r < n_rows; r++, w += row_bytes) {
        int32_t sum = 0;
        for (size_t j = 0; j < row_bytes; j++) {
            const int8_t *x = q + j / 32 * 128 + j % 32;
            for (int f = 0; f < 4; f++) {
                sum += (w[j] >> (6 - 2 * f) & 3) * x[32 * f];
            }
        }
        sums[r] = sum;
    }
}

void es_proposal_scalar(es_kernels *table) {
    table->proposal_dot = proposal_dot;
}
