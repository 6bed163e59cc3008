/* Lists of live neurons and the products over them: scalar against plain loops over unpacked codes,
 * every other instruction set against scalar. Integers and lists, so equal means equal. */
#include "check/check_support.h"

#include <string.h>

enum { MAX_K = 1200, MAX_ROWS = 700, MAX_TOKENS = 40 };
enum { RANDOM, EXTREME, N_PATTERNS };

typedef struct bench {
    check_buffer w, q, list, sums, expected;
    int32_t *wide; /* 64-byte aligned sums */
    int32_t *wide_expected;
    uint64_t random;
    check_count *count;
    const es_kernels *table, *scalar;
    int truth; /* the table is scalar: hold it against plain loops */
    int pattern;
} bench;

static size_t padded(int32_t n, int32_t unit) {
    return (size_t)((n + unit - 1) / unit * unit);
}

/* Packed t2 bytes; with EXTREME all codes are 2. */
static uint8_t *fill_bytes(bench *m, size_t n_bytes) {
    uint8_t *w = check_tail(&m->w, n_bytes);
    for (size_t i = 0; i < n_bytes; i++) {
        uint8_t byte = 0;
        for (int f = 0; f < 4; f++) {
            const uint32_t code = m->pattern == EXTREME ? 2 : check_random(&m->random) % 3;
            byte = (uint8_t)((uint32_t)byte << 2 | code);
        }
        w[i] = byte;
    }
    return w;
}

static int8_t activation(bench *m, int sign) {
    if (m->pattern == EXTREME) {
        return sign ? -128 : 127;
    }
    return check_random(&m->random) % 3 == 0 ? (int8_t)check_range(&m->random, -128, 127) : 0;
}

/* n_tokens rows of k activations, zero up to q_stride. */
static int8_t *fill_q(bench *m, int32_t k, size_t q_stride, int32_t n_tokens) {
    int8_t *q = check_tail(&m->q, (size_t)n_tokens * q_stride);
    memset(q, 0, (size_t)n_tokens * q_stride);
    const int sign = (int)(check_random(&m->random) & 1);
    for (int32_t t = 0; t < n_tokens; t++) {
        for (int32_t i = 0; i < k; i++) {
            q[(size_t)t * q_stride + (size_t)i] = activation(m, sign);
        }
    }
    return q;
}

/* A random ascending list of numbers below n; `share` of 8. */
static int32_t fill_list(bench *m, int32_t *list, int32_t n, uint32_t share) {
    int32_t n_listed = 0;
    for (int32_t i = 0; i < n; i++) {
        if (check_random(&m->random) % 8 < share) {
            list[n_listed++] = i;
        }
    }
    return n_listed;
}

static void list_case(bench *m, int32_t n) {
    if (check_skips() || !(check_wants((check_any_kernel *)m->table->list_positive) ||
                           check_wants((check_any_kernel *)m->table->list_nonzero))) {
        return;
    }
    const size_t room = ((size_t)n + ES_LIST_SLACK) * sizeof(int32_t);
    int32_t *list = check_tail(&m->sums, room), *expected = check_tail(&m->expected, room);
    float *x = check_tail(&m->w, (size_t)n * sizeof(float));
    int8_t *q = check_tail(&m->q, (size_t)n);
    static const float special[] = {0.0f, -0.0f, 1e-40f, -1e-40f};
    for (int32_t i = 0; i < n; i++) {
        const uint32_t kind = check_random(&m->random) % 8;
        x[i] = kind < 4 ? special[kind] : check_uniform(&m->random);
        q[i] = activation(m, i & 1);
    }
    memset(list, 0x5A, room);
    int32_t n_expected = 0;
    for (int32_t i = 0; i < n; i++) {
        if (x[i] > 0.0f) {
            expected[n_expected++] = i;
        }
    }
    int32_t n_listed = m->table->list_positive(list, x, n);
    check_case(m->count,
               n_listed == n_expected &&
                   memcmp(list, expected, (size_t)n_listed * sizeof *list) == 0,
               "list_positive", n, n_listed, n_expected);
    n_expected = 0;
    for (int32_t i = 0; i < n; i++) {
        if (q[i] != 0) {
            expected[n_expected++] = i;
        }
    }
    n_listed = m->table->list_nonzero(list, q, n);
    check_case(m->count,
               n_listed == n_expected &&
                   memcmp(list, expected, (size_t)n_listed * sizeof *list) == 0,
               "list_nonzero", n, n_listed, n_expected);
}

/* The rows of a list against the dense product of the same table entry's scalar twin. */
static void rows_case(bench *m, int t5, int32_t n_rows, int32_t k, uint32_t share) {
    es_ternary_list *dot = t5 ? m->table->t5_list : m->table->t2_list;
    if (check_skips() || !check_wants((check_any_kernel *)dot)) {
        return;
    }
    const int32_t block = t5 ? 160 : 128;
    const size_t row_bytes = padded(k, block) / (size_t)block * 32;
    const uint8_t *w = fill_bytes(m, (size_t)n_rows * row_bytes);
    const int8_t *q = fill_q(m, k, padded(k, 640), 1);
    int32_t *list = check_tail(&m->list, (size_t)n_rows * sizeof *list);
    const int32_t n = fill_list(m, list, n_rows, share);
    int32_t *sums = check_tail(&m->sums, (size_t)n * sizeof *sums);
    memset(sums, 0x5A, (size_t)n * sizeof *sums);
    dot(sums, w, row_bytes, list, n, q, k);
    int equal = 1;
    for (int32_t i = 0; i < n; i++) {
        int32_t one = 0;
        (t5 ? m->scalar->t5_dot : m->scalar->t2_dot)(&one, 1, w + (size_t)list[i] * row_bytes,
                                                     row_bytes, 1, q, 0, 1, k);
        equal &= one == sums[i];
    }
    check_case(m->count, equal, t5 ? "t5_list" : "t2_list", n_rows, k, n);
}

static int32_t code_of(const uint8_t *w, size_t row_bytes, int32_t output, int32_t input) {
    const uint8_t byte = w[(size_t)input * row_bytes + (size_t)(output / 128 * 32 + output % 32)];
    return byte >> (6 - 2 * (output % 128 / 32)) & 3;
}

static void neurons_case(bench *m, int32_t n_rows, int32_t k, uint32_t share) {
    if (check_skips() || !check_wants((check_any_kernel *)m->table->t2n_sums)) {
        return;
    }
    const size_t row_bytes = padded(n_rows, 128) / 4, n_sums = row_bytes * 4;
    const uint8_t *w = fill_bytes(m, (size_t)k * row_bytes);
    const int8_t *q = fill_q(m, k, (size_t)k, 1);
    int32_t *list = check_tail(&m->list, (size_t)k * sizeof *list);
    const int32_t n = fill_list(m, list, k, share);
    for (size_t i = 0; i < n_sums; i++) {
        m->wide[i] = m->wide_expected[i] = (int32_t)i - 7; /* they are added to */
    }
    m->table->t2n_sums(m->wide, w, row_bytes, list, n, q);
    if (m->truth) {
        for (size_t r = 0; r < n_sums; r++) {
            for (int32_t i = 0; i < n; i++) {
                m->wide_expected[r] += code_of(w, row_bytes, (int32_t)r, list[i]) * q[list[i]];
            }
        }
    } else {
        m->scalar->t2n_sums(m->wide_expected, w, row_bytes, list, n, q);
    }
    check_case(m->count, memcmp(m->wide, m->wide_expected, n_sums * sizeof *m->wide) == 0,
               "t2n_sums", n_rows, k, n);
}

static void neuron_dot_case(bench *m, int32_t n_rows, int32_t k, int32_t n_tokens) {
    es_ternary_dot *dot =
        n_tokens >= m->table->many_tokens ? m->table->t2n_many : m->table->t2n_dot;
    if (check_skips() || !check_wants((check_any_kernel *)dot)) {
        return;
    }
    const size_t row_bytes = padded(n_rows, 128) / 4, q_stride = padded(k, 64);
    const size_t stride = (size_t)n_rows + 3, bytes = (size_t)n_tokens * stride * sizeof(int32_t);
    const uint8_t *w = fill_bytes(m, (size_t)k * row_bytes);
    const int8_t *q = fill_q(m, k, q_stride, n_tokens);
    int32_t *sums = check_tail(&m->sums, bytes), *expected = check_tail(&m->expected, bytes);
    memset(sums, 0x5A, bytes); /* sums nobody owns keep this pattern */
    memset(expected, 0x5A, bytes);
    dot(sums, stride, w, row_bytes, n_rows, q, q_stride, n_tokens, k);
    for (int32_t t = 0; t < n_tokens; t++) {
        for (int32_t r = 0; r < n_rows; r++) {
            int32_t sum = 0;
            for (int32_t i = 0; i < k; i++) {
                sum += code_of(w, row_bytes, r, i) * q[(size_t)t * q_stride + (size_t)i];
            }
            expected[(size_t)t * stride + (size_t)r] = sum;
        }
    }
    check_case(m->count, memcmp(sums, expected, bytes) == 0, "t2n_dot", n_rows, k, n_tokens);
}

static void cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                  int32_t isa) {
    bench m = {.random = 0x9E3779B97F4A7C15ULL, .count = count, .table = table, .scalar = scalar};
    m.truth = isa == ES_ISA_SCALAR;
    m.w = check_buffer_new((size_t)MAX_K * MAX_ROWS);
    m.q = check_buffer_new((size_t)MAX_TOKENS * (MAX_K + 640));
    m.list = check_buffer_new((MAX_K + MAX_ROWS) * sizeof(int32_t));
    m.sums = check_buffer_new((size_t)MAX_TOKENS * (MAX_K + MAX_ROWS) * sizeof(int32_t));
    m.expected = check_buffer_new((size_t)MAX_TOKENS * (MAX_K + MAX_ROWS) * sizeof(int32_t));
    m.wide = check_alloc((MAX_ROWS + 128) * sizeof(int32_t));
    m.wide_expected = check_alloc((MAX_ROWS + 128) * sizeof(int32_t));
    for (m.pattern = RANDOM; m.pattern < N_PATTERNS; m.pattern++) {
        for (int32_t n = 0; n <= 1100; n++) {
            list_case(&m, n);
        }
        for (int32_t i = 0; i < 2600; i++) {
            const int32_t n_rows = check_range(&m.random, 1, i % 4 == 0 ? MAX_ROWS : 60);
            const int32_t k = check_range(&m.random, 1, i % 4 == 1 ? MAX_K : 400);
            const uint32_t share = (uint32_t)check_range(&m.random, 0, 8);
            rows_case(&m, i & 1, n_rows, k, share);
            neurons_case(&m, n_rows, k, share);
            if (i % 2 == 0) {
                neuron_dot_case(&m, check_range(&m.random, 1, 300), check_range(&m.random, 1, 300),
                                check_range(&m.random, 1, i % 16 == 0 ? MAX_TOKENS : 9));
            }
            if (i % 50 == 0) { /* several panels of inputs */
                neuron_dot_case(&m, check_range(&m.random, 1, 140),
                                check_range(&m.random, 513, MAX_K),
                                check_range(&m.random, 16, MAX_TOKENS));
            }
        }
        for (int32_t i = 0; i < 1100 && table->many_tokens <= MAX_TOKENS; i++) {
            neuron_dot_case(&m, check_range(&m.random, 1, 300), check_range(&m.random, 1, 300),
                            check_range(&m.random, table->many_tokens, MAX_TOKENS));
        }
        /* Around the chunks of inputs and the folds of int16 sums: full lists, every length. */
        for (int32_t k = 1; k <= 132; k++) {
            neurons_case(&m, 128 + k, k, 8);
        }
    }
    check_buffer_free(&m.w);
    check_buffer_free(&m.q);
    check_buffer_free(&m.list);
    check_buffer_free(&m.sums);
    check_buffer_free(&m.expected);
    check_free(m.wide);
    check_free(m.wide_expected);
}

int check_sparse(void) {
    return check_each_isa("sparse", cases);
}
