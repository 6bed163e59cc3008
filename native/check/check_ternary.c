/* Ternary products: scalar against a loop that decodes the byte picture weight by weight, and every
 * other instruction set against scalar. Integers, so equal means equal. */
#include "check/check_support.h"

#include <stdlib.h>
#include <string.h>

typedef enum { CODES_RANDOM, CODES_ALL_0, CODES_ALL_1, CODES_ALL_2, CODES_KINDS } code_kind;
typedef enum { Q_RANDOM, Q_ALL_MIN, Q_ALL_MAX, Q_ALTERNATING, Q_KINDS } q_kind;
typedef enum { FORMAT_T2, FORMAT_T5 } ternary_format;

typedef struct ternary_case {
    ternary_format format;
    int32_t k, n_rows, n_tokens;
    code_kind codes;
    q_kind activations;
    uint64_t seed;
} ternary_case;

typedef struct ternary_data {
    uint8_t *codes;    /* [n_rows][k] */
    uint8_t *w;        /* [n_rows][row_bytes], exactly */
    int8_t *q;         /* [n_tokens][q_stride] */
    int32_t *sums;     /* [n_tokens][sums_stride] */
    int32_t *expected; /* the same */
    size_t row_bytes, q_stride, sums_stride, n_sums;
} ternary_data;

static size_t round_up(size_t n, size_t unit) {
    return (n + unit - 1) / unit * unit;
}

static int8_t activation(q_kind kind, int32_t i, uint64_t *state) {
    switch (kind) {
    case Q_ALL_MIN:
        return -128;
    case Q_ALL_MAX:
        return 127;
    case Q_ALTERNATING:
        return i & 1 ? -128 : 127;
    default:
        return (int8_t)((int32_t)(check_random(state) & 255) - 128);
    }
}

/* t2: padding gets random bits, code 3 among them. */
static void pack_t2(uint8_t *row, const uint8_t *codes, int32_t k, size_t row_bytes,
                    uint64_t *state) {
    for (size_t i = 0; i < row_bytes; i++) {
        row[i] = (uint8_t)check_random(state);
    }
    for (int32_t i = 0; i < k; i++) {
        uint8_t *byte = row + i / 128 * 32 + i % 32;
        const int32_t shift = 6 - 2 * (i % 128 / 32);
        *byte = (uint8_t)((*byte & ~(3 << shift)) | codes[i] << shift);
    }
}

/* t5: padding gets random digits. */
static void pack_t5(uint8_t *row, const uint8_t *codes, int32_t k, size_t row_bytes,
                    uint64_t *state) {
    for (size_t i = 0; i < row_bytes; i++) {
        uint32_t v = 0;
        for (size_t digit = 0; digit < 5; digit++) {
            const size_t column = i / 32 * 160 + digit * 32 + i % 32;
            v = 3 * v + (column < (size_t)k ? codes[column] : check_random(state) % 3);
        }
        row[i] = (uint8_t)((256 * v + 242) / 243);
    }
}

static ternary_data make_data(const ternary_case *c) {
    ternary_data d;
    uint64_t state = c->seed | 1;
    const size_t k = (size_t)c->k, rows = (size_t)c->n_rows, tokens = (size_t)c->n_tokens;
    const size_t block = c->format == FORMAT_T2 ? 128 : 160;
    d.row_bytes = round_up(k, block) / block * 32;
    const size_t width = round_up(k, 128) > round_up(k, 160) ? round_up(k, 128) : round_up(k, 160);
    d.q_stride = round_up(width, 64);
    d.sums_stride = rows + 3;
    d.n_sums = tokens * d.sums_stride;
    d.codes = check_alloc(rows * k);
    d.w = check_alloc(rows * d.row_bytes);
    d.q = check_alloc(tokens * d.q_stride);
    d.sums = check_alloc(d.n_sums * sizeof(int32_t));
    d.expected = check_alloc(d.n_sums * sizeof(int32_t));
    for (size_t r = 0; r < rows; r++) {
        uint8_t *codes = d.codes + r * k;
        for (size_t i = 0; i < k; i++) {
            codes[i] = c->codes == CODES_RANDOM ? (uint8_t)(check_random(&state) % 3)
                                                : (uint8_t)(c->codes - CODES_ALL_0);
        }
        (c->format == FORMAT_T2 ? pack_t2 : pack_t5)(d.w + r * d.row_bytes, codes, c->k,
                                                     d.row_bytes, &state);
    }
    memset(d.q, 0, tokens * d.q_stride);
    for (size_t t = 0; t < tokens; t++) {
        for (int32_t i = 0; i < c->k; i++) {
            d.q[t * d.q_stride + (size_t)i] = activation(c->activations, i, &state);
        }
    }
    /* Sums nobody owns keep this pattern. */
    memset(d.sums, 0x5A, d.n_sums * sizeof(int32_t));
    memset(d.expected, 0x5A, d.n_sums * sizeof(int32_t));
    return d;
}

static void free_data(ternary_data *d) {
    check_free(d->codes);
    check_free(d->w);
    check_free(d->q);
    check_free(d->sums);
    check_free(d->expected);
}

/* One weight, straight from the byte picture. */
static int32_t decode(const ternary_case *c, const uint8_t *row, int32_t i) {
    if (c->format == FORMAT_T2) {
        return row[i / 128 * 32 + i % 32] >> (6 - 2 * (i % 128 / 32)) & 3;
    }
    int32_t power = 1;
    for (int32_t digit = i % 160 / 32; digit > 0; digit--) {
        power *= 3;
    }
    return (row[i / 160 * 32 + i % 32] * power % 256 * 3) >> 8;
}

/* Whether the packed weights decode to the codes, and the expected sums from those. */
static int naive(const ternary_case *c, ternary_data *d) {
    int equal = 1;
    for (size_t r = 0; r < (size_t)c->n_rows; r++) {
        const uint8_t *codes = d->codes + r * (size_t)c->k;
        for (int32_t i = 0; i < c->k; i++) {
            equal &= decode(c, d->w + r * d->row_bytes, i) == codes[i];
        }
        for (size_t t = 0; t < (size_t)c->n_tokens; t++) {
            int32_t sum = 0;
            for (int32_t i = 0; i < c->k; i++) {
                sum += codes[i] * d->q[t * d->q_stride + (size_t)i];
            }
            d->expected[t * d->sums_stride + r] = sum;
        }
    }
    return equal;
}

static es_ternary_dot *kernel_of(const es_kernels *table, const ternary_case *c) {
    const int t2 = c->format == FORMAT_T2;
    es_ternary_dot *few = t2 ? table->t2_dot : table->t5_dot;
    es_ternary_dot *many = t2 ? table->t2_many : table->t5_many;
    return c->n_tokens >= table->many_tokens ? many : few;
}

static void multiply(es_ternary_dot *dot, const ternary_case *c, const ternary_data *d,
                     int32_t *sums) {
    dot(sums, d->sums_stride, d->w, d->row_bytes, c->n_rows, d->q, d->q_stride, c->n_tokens, c->k);
}

/* The scalar table gives the truth; it is held against plain loops itself. */
typedef struct bench {
    check_count *count;
    const es_kernels *table, *scalar;
    int truth; /* the table is scalar */
} bench;

static void try_case(bench *m, const ternary_case *c) {
    es_ternary_dot *dot = kernel_of(m->table, c);
    if (check_skips() || !check_wants((check_any_kernel *)dot)) {
        return;
    }
    ternary_data d = make_data(c);
    int equal = 1;
    if (m->truth) {
        equal = naive(c, &d);
    } else {
        multiply(kernel_of(m->scalar, c), c, &d, d.expected);
    }
    multiply(dot, c, &d, d.sums);
    equal &= memcmp(d.sums, d.expected, d.n_sums * sizeof(int32_t)) == 0;
    check_case(m->count, equal, "k, 1000 * rows + tokens, 10 * codes + activations", c->k,
               1000 * c->n_rows + c->n_tokens, 10 * (int)c->codes + (int)c->activations);
    free_data(&d);
}

static void sweep(bench *m, ternary_format format) {
    /* 33024 and 40960 need more than one segment of k. */
    static const int32_t ks[] = {1,   31,  32,   127,  128,  129,  159,  160,  161,   255,   256,
                                 320, 768, 1536, 2048, 2176, 2560, 4096, 6912, 14336, 33024, 40960};
    static const int32_t more_rows[] = {31, 32, 33, 64};
    static const int32_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 33};
    enum {
        N_KS = sizeof ks / sizeof ks[0],
        N_RANDOM_KS = 40,
        N_TOKENS = sizeof tokens / sizeof tokens[0]
    };
    uint64_t state = 0x9E3779B97F4A7C15ULL;
    ternary_case c = {.format = format};
    for (int32_t i = 0; i < N_KS + N_RANDOM_KS; i++) {
        c.k = i < N_KS ? ks[i] : 1 + (int32_t)(check_random(&state) % 3000);
        /* Extremes: every kind of code with every kind of activation, few rows, all paths. */
        for (int32_t kind = 0; kind < CODES_KINDS * Q_KINDS; kind++) {
            c.codes = (code_kind)(kind / Q_KINDS);
            c.activations = (q_kind)(kind % Q_KINDS);
            c.n_rows = 1 + (int32_t)(check_random(&state) % 5);
            c.n_tokens = kind & 1 ? tokens[check_random(&state) % N_TOKENS] % 10 : 1;
            c.seed = check_random(&state);
            try_case(m, &c);
        }
        /* Shapes: all rows 0 ... 17 and the edges of panels, with the token counts in turn. */
        c.codes = CODES_RANDOM;
        c.activations = Q_RANDOM;
        for (int32_t j = 0; j < 18 + 4; j++) {
            c.n_rows = j < 18 ? j : more_rows[j - 18];
            c.n_tokens = tokens[(i + j) % N_TOKENS];
            c.seed = check_random(&state);
            if (c.k > 4096 && c.n_tokens * c.n_rows > 64) {
                c.n_tokens = 1 + c.n_tokens % 6;
            }
            try_case(m, &c);
        }
    }
    /* Every row count with every token count once. */
    c.k = 416;
    for (int32_t rows = 0; rows <= 64; rows++) {
        for (int32_t j = 0; j < N_TOKENS; j++) {
            c.n_rows = rows;
            c.n_tokens = tokens[j];
            c.seed = check_random(&state);
            try_case(m, &c);
        }
    }
}

/* The kernel for many tokens, where the table has one: extremes, and whole and broken tiles. */
static void sweep_many(bench *m, ternary_format format) {
    static const int32_t ks[] = {1, 33, 128, 129, 160, 320, 480, 960, 1024, 1152, 2560, 6912};
    static const int32_t rows[] = {1, 15, 16, 17, 31, 32, 33, 63, 64};
    static const int32_t more_tokens[] = {0, 1, 15, 16, 17, 31, 32, 33, 48, 65};
    enum {
        N_KS = sizeof ks / sizeof ks[0],
        N_ROWS = sizeof rows / sizeof rows[0],
        N_TOKENS = sizeof more_tokens / sizeof more_tokens[0],
        N_ROUNDS = 21
    };
    uint64_t state = 0xD1B54A32D192ED03ULL;
    ternary_case c = {.format = format};
    for (int32_t i = 0; i < N_KS; i++) {
        c.k = ks[i];
        for (int32_t kind = 0; kind < CODES_KINDS * Q_KINDS; kind++) {
            c.codes = (code_kind)(kind / Q_KINDS);
            c.activations = (q_kind)(kind % Q_KINDS);
            c.n_rows = rows[kind % N_ROWS];
            c.n_tokens = m->table->many_tokens + more_tokens[kind % 3];
            c.seed = check_random(&state);
            try_case(m, &c);
        }
    }
    c.codes = CODES_RANDOM;
    c.activations = Q_RANDOM;
    for (int32_t i = 0; i < N_ROUNDS * N_ROWS * N_TOKENS; i++) {
        c.k = i % 7 == 0 ? 2200 : 1 + (int32_t)(check_random(&state) % 400);
        c.n_rows = rows[i / N_TOKENS % N_ROWS];
        c.n_tokens = m->table->many_tokens + more_tokens[i % N_TOKENS];
        c.seed = check_random(&state);
        try_case(m, &c);
    }
}

static void cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                  int32_t isa, ternary_format format) {
    bench m = {count, table, scalar, isa == ES_ISA_SCALAR};
    sweep(&m, format);
    if (table->many_tokens < INT32_MAX) {
        sweep_many(&m, format);
    }
}

static void t2_cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                     int32_t isa) {
    cases(count, table, scalar, isa, FORMAT_T2);
}

static void t5_cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                     int32_t isa) {
    cases(count, table, scalar, isa, FORMAT_T5);
}

int check_ternary(void) {
    return check_each_isa("t2", t2_cases) | check_each_isa("t5", t5_cases);
}
