/* The two-stage head's first pass: scalar against a loop that decodes the byte picture, every other
 * instruction set against scalar, extremes included. */
#include "check_support.h"

#include <string.h>

enum { N_SHAPES = 2100, MAX_ROWS = 21 };

/* Sums of all four codes times q, one after the other. */
static void naive(int32_t *sums, const uint8_t *codes, size_t n_blocks, int32_t n_rows,
                  const int8_t *x) {
    for (int32_t r = 0; r < n_rows; r++) {
        const uint8_t *row = codes + (size_t)r * 32 * n_blocks;
        sums[r] = 0;
        for (size_t i = 0; i < 128 * n_blocks; i++) {
            sums[r] += (row[i / 128 * 32 + i % 32] >> (6 - 2 * (i % 128 / 32)) & 3) * x[i];
        }
    }
}

static void cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                  int32_t isa) {
    uint64_t random = 5;
    check_case(count, isa == ES_ISA_SCALAR || table->proposal_dot != scalar->proposal_dot,
               "level has a kernel of its own", isa, 0, 0);
    for (int shape = 0; shape < N_SHAPES; shape++) {
        if (check_skips()) {
            continue;
        }
        const size_t n_blocks = (size_t)check_range(&random, 1, shape % 10 == 0 ? 200 : 9);
        const int32_t n_rows = check_range(&random, 1, MAX_ROWS);
        const size_t row_bytes = 32 * n_blocks;
        check_buffer w = check_buffer_new((size_t)n_rows * row_bytes);
        check_buffer q = check_buffer_new(n_blocks * 128);
        uint8_t *codes = check_tail(&w, (size_t)n_rows * row_bytes);
        int8_t *x = check_tail(&q, n_blocks * 128);
        for (size_t i = 0; i < (size_t)n_rows * row_bytes; i++) {
            codes[i] = shape % 3 == 0 ? 0xff : (uint8_t)check_random(&random);
        }
        for (size_t i = 0; i < n_blocks * 128; i++) {
            x[i] = (int8_t)(shape % 3 != 0   ? check_range(&random, -128, 127)
                            : shape % 2 == 0 ? -128
                                             : 127);
        }
        int32_t expected[MAX_ROWS], found[MAX_ROWS];
        memset(found, 0x5A, sizeof found);
        if (isa == ES_ISA_SCALAR) {
            naive(expected, codes, n_blocks, n_rows, x);
        } else {
            scalar->proposal_dot(expected, codes, row_bytes, n_rows, x);
        }
        table->proposal_dot(found, codes, row_bytes, n_rows, x);
        const size_t n_bytes = (size_t)n_rows * sizeof(int32_t);
        check_case(count, memcmp(expected, found, n_bytes) == 0, "proposal_dot", shape, n_rows,
                   (int64_t)n_blocks);
        if (shape % 3 == 0) {
            const int32_t all = 3 * (shape % 2 == 0 ? -128 : 127) * (int32_t)(n_blocks * 128);
            check_case(count, found[n_rows - 1] == all, "extremes", shape, found[n_rows - 1], all);
        }
        check_buffer_free(&w);
        check_buffer_free(&q);
    }
}

int check_proposal(void) {
    return check_each_isa("proposal", cases);
}
