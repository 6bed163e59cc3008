/* Attention of one head. */
#include "check/check_support.h"

#include <math.h>
#include <string.h>

enum { MAX_DIM = 256, MAX_POSITIONS = 257 };
enum { UNIFORM, PEAKED, EQUAL, WILD, N_PATTERNS };

#define LENGTH(array) ((int)(sizeof(array) / sizeof((array)[0])))

typedef struct bench {
    check_buffer q, k, v, scratch, out, expected;
    uint64_t random;
} bench;

/* A half of magnitude below 2, or with `wild` any finite one. */
static uint16_t random_half(uint64_t *random, int wild) {
    const uint16_t bits = (uint16_t)check_random(random);
    if (wild) {
        return (bits & 0x7c00) == 0x7c00 ? (uint16_t)(bits & 0x83ff) : bits;
    }
    return (uint16_t)(bits & 0xbfff);
}

/* Whether `out` is softmax(scale * K q) V, in double precision, within float rounding. */
static int truth(const float *out, const float *q, const uint16_t *k, const uint16_t *v,
                 int32_t dim, int32_t n_pos, float scale) {
    static double weight[MAX_POSITIONS], total[MAX_DIM];
    double top = -INFINITY, sum = 0;
    for (int32_t j = 0; j < n_pos; j++) {
        weight[j] = 0;
        for (int32_t i = 0; i < dim; i++) {
            weight[j] += (double)q[i] * check_half(k[j * dim + i]);
        }
        weight[j] *= (double)scale;
        top = fmax(top, weight[j]);
    }
    memset(total, 0, sizeof total);
    for (int32_t j = 0; j < n_pos; j++) {
        const double e = exp(weight[j] - top);
        sum += e;
        for (int32_t i = 0; i < dim; i++) {
            total[i] += e * check_half(v[j * dim + i]);
        }
    }
    for (int32_t i = 0; i < dim; i++) {
        /* |v| < 2, and a score of some tens is off by some 1e-5. */
        if (!(fabs((double)out[i] - total[i] / sum) <= 2e-4)) {
            return 0;
        }
    }
    return 1;
}

static void one_case(bench *m, check_count *count, const es_kernels *table,
                     const es_kernels *scalar, int held_to_truth, int32_t dim, int32_t n_pos,
                     int pattern) {
    const size_t rows = (size_t)n_pos * (size_t)dim, out_bytes = (size_t)dim * sizeof(float);
    float *q = check_tail(&m->q, out_bytes);
    uint16_t *k = check_tail(&m->k, rows * 2), *v = check_tail(&m->v, rows * 2);
    float *out = check_tail(&m->out, out_bytes), *expected = check_tail(&m->expected, out_bytes);
    float *scratch = check_tail(&m->scratch, ((size_t)n_pos + 15) / 16 * 64 + 64);
    const float scale = (pattern == PEAKED ? 8.0f : 1.0f) / sqrtf((float)dim);
    for (int32_t i = 0; i < dim; i++) {
        q[i] = pattern == EQUAL ? 0.0f : 2.0f * check_uniform(&m->random);
    }
    for (size_t i = 0; i < rows; i++) {
        k[i] = random_half(&m->random, pattern == WILD);
        v[i] = random_half(&m->random, pattern == WILD);
    }
    table->attention(out, q, k, v, dim, n_pos, scale, scratch);
    scalar->attention(expected, q, k, v, dim, n_pos, scale, scratch);
    int passed = memcmp(out, expected, out_bytes) == 0;
    if (held_to_truth && pattern != WILD) {
        passed = passed && truth(out, q, k, v, dim, n_pos, scale);
    }
    check_case(count, passed, "head_dim, positions, pattern", dim, n_pos, pattern);
}

static void attention_cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                            int32_t isa) {
    static const int32_t dims[] = {1,  2,  7,  8,  9,  15, 16,  17,  24,  31,  32,  40,
                                   48, 63, 64, 72, 80, 96, 100, 112, 128, 160, 192, 256};
    static const int32_t long_runs[] = {33, 63, 64, 65, 100, 257};
    bench m = {.random = 1729};
    m.q = check_buffer_new(MAX_DIM * 4);
    m.k = check_buffer_new((size_t)MAX_DIM * MAX_POSITIONS * 2);
    m.v = check_buffer_new((size_t)MAX_DIM * MAX_POSITIONS * 2);
    m.scratch = check_buffer_new((MAX_POSITIONS + 32) * 4);
    m.out = check_buffer_new(MAX_DIM * 4);
    m.expected = check_buffer_new(MAX_DIM * 4);
#if defined(__x86_64__)
    check_case(count, isa == ES_ISA_SCALAR || table->attention != scalar->attention,
               "level has kernels of its own", isa, 0, 0);
#endif
    for (int pattern = 0; pattern < N_PATTERNS; pattern++) {
        for (int d = 0; d < LENGTH(dims); d++) {
            for (int32_t n = 1; n <= 20; n++) {
                one_case(&m, count, table, scalar, isa == ES_ISA_SCALAR, dims[d], n, pattern);
            }
            for (int n = 0; n < LENGTH(long_runs); n++) {
                one_case(&m, count, table, scalar, isa == ES_ISA_SCALAR, dims[d], long_runs[n],
                         pattern);
            }
        }
    }
    check_buffer *all[] = {&m.q, &m.k, &m.v, &m.scratch, &m.out, &m.expected};
    for (int i = 0; i < LENGTH(all); i++) {
        check_buffer_free(all[i]);
    }
}

int check_attention(void) {
    return check_each_isa("attention", attention_cases);
}
