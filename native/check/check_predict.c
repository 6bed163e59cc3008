/* Signs and votes: scalar against loops over single bits, every other instruction set against scalar. */
#include "check/check_support.h"

#include <math.h>
#include <string.h>

enum { MAX_K = 12000, MAX_ROWS = 40, MAX_RUNS = 46 };
enum { RANDOM, ALL_ONES, ALL_ZEROS, N_PATTERNS };

typedef struct bench {
    check_buffer x, w, bits, expected_bits, votes, expected;
    uint64_t random;
    check_count *count;
    const es_kernels *table, *scalar;
    int truth;
    int pattern;
} bench;

static void fill(bench *m, uint8_t *bytes, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i++) {
        bytes[i] = m->pattern == RANDOM ? (uint8_t)check_random(&m->random)
                                        : (m->pattern == ALL_ONES ? 0xFF : 0);
    }
}

static void bits_case(bench *m, int32_t n, size_t n_bytes) {
    if (check_skips()) {
        return;
    }
    static const float special[] = {0.0f, -0.0f, 0x1p-149f, -0x1p-149f, INFINITY, -INFINITY, NAN};
    float *x = check_tail(&m->x, (size_t)n * sizeof *x);
    for (int32_t i = 0; i < n; i++) {
        const uint32_t pick = check_random(&m->random) % 16;
        x[i] = pick < 7 ? special[pick] : check_uniform(&m->random);
    }
    uint8_t *bits = check_tail(&m->bits, n_bytes),
            *expected = check_tail(&m->expected_bits, n_bytes);
    memset(bits, 0x5A, n_bytes);
    m->table->sign_bits(bits, n_bytes, x, n);
    if (m->truth) {
        memset(expected, 0, n_bytes);
        for (int32_t i = 0; i < n; i++) {
            if (x[i] < 0.0f) {
                expected[i / 8] = (uint8_t)(expected[i / 8] | 1 << i % 8);
            }
        }
    } else {
        m->scalar->sign_bits(expected, n_bytes, x, n);
    }
    check_case(m->count, memcmp(bits, expected, n_bytes) == 0, "sign_bits", n, (int64_t)n_bytes, 0);
}

static int bit(const uint8_t *bytes, size_t i) {
    return bytes[i / 8] >> i % 8 & 1;
}

static void votes_case(bench *m, int32_t n_rows, size_t plane_bytes, int masked) {
    if (check_skips()) {
        return;
    }
    const size_t row_bytes = plane_bytes * (masked ? 2 : 1);
    uint8_t *w = check_tail(&m->w, (size_t)n_rows * row_bytes);
    uint8_t *x = check_tail(&m->bits, plane_bytes);
    fill(m, w, (size_t)n_rows * row_bytes);
    const int pattern = m->pattern;
    m->pattern = pattern == ALL_ONES ? ALL_ZEROS : pattern; /* as many votes as there can be */
    fill(m, x, plane_bytes);
    m->pattern = pattern;
    const size_t bytes = (size_t)n_rows * sizeof(int32_t);
    int32_t *votes = check_tail(&m->votes, bytes), *expected = check_tail(&m->expected, bytes);
    memset(votes, 0x5A, bytes);
    m->table->sign_votes(votes, w, plane_bytes, masked, n_rows, x);
    if (m->truth) {
        for (int32_t r = 0; r < n_rows; r++) {
            const uint8_t *row = w + (size_t)r * row_bytes;
            expected[r] = 0;
            for (size_t i = 0; i < plane_bytes * 8; i++) {
                const int counts = !masked || bit(row + plane_bytes, i);
                expected[r] += (bit(row, i) ^ bit(x, i)) & counts;
            }
        }
    } else {
        m->scalar->sign_votes(expected, w, plane_bytes, masked, n_rows, x);
    }
    check_case(m->count, memcmp(votes, expected, bytes) == 0, "sign_votes", n_rows,
               (int64_t)plane_bytes, masked);
}

static void cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                  int32_t isa) {
    bench m = {.random = 0x9E3779B97F4A7C15ULL, .count = count, .table = table, .scalar = scalar};
    m.truth = isa == ES_ISA_SCALAR;
    m.x = check_buffer_new(MAX_K * sizeof(float));
    m.w = check_buffer_new((size_t)MAX_ROWS * MAX_K / 2);
    m.bits = check_buffer_new(MAX_K);
    m.expected_bits = check_buffer_new(MAX_K);
    m.votes = check_buffer_new(MAX_ROWS * sizeof(int32_t));
    m.expected = check_buffer_new(MAX_ROWS * sizeof(int32_t));
    check_case(count,
               m.truth || (table->sign_bits != scalar->sign_bits &&
                           table->sign_votes != scalar->sign_votes),
               "level has kernels of its own", isa, 0, 0);
    for (m.pattern = RANDOM; m.pattern < N_PATTERNS; m.pattern++) {
        for (int32_t n = 1; n <= 700; n++) {
            bits_case(&m, n, (size_t)(n + 255) / 256 * 32);
        }
        for (size_t runs = 1; runs <= MAX_RUNS; runs += runs < 11 ? 1 : 7) {
            for (int32_t n_rows = 1; n_rows <= MAX_ROWS; n_rows++) {
                votes_case(&m, n_rows, runs * 32, n_rows & 1);
                votes_case(&m, n_rows, runs * 32, ~n_rows & 1);
            }
        }
    }
    check_buffer_free(&m.x);
    check_buffer_free(&m.w);
    check_buffer_free(&m.bits);
    check_buffer_free(&m.expected_bits);
    check_buffer_free(&m.votes);
    check_buffer_free(&m.expected);
}

int check_predict(void) {
    return check_each_isa("predict", cases);
}
