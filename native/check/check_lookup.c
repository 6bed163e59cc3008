/* Ternary products that are looked up, t2 and t2n, against a loop over the weights; on every
 * instruction set that has such kernels. */
#include "check/check_support.h"

#include <string.h>

typedef enum {
    RANDOM,
    LOW,
    HIGH,
    N_PATTERNS
} pattern; /* LOW: all codes 0 and q -128, HIGH: 2, 127 */

typedef struct shape {
    int32_t n_rows, k, n_tokens;
    pattern pattern;
    int neuron_major;
} shape;

static size_t padded(int32_t n, size_t unit) {
    return ((size_t)n + unit - 1) / unit * unit;
}

static int32_t code_at(const uint8_t *w, size_t row_bytes, int32_t line, int32_t i) {
    const uint8_t byte = w[(size_t)line * row_bytes + (size_t)(i / 128 * 32 + i % 32)];
    return byte >> (6 - 2 * (i % 128 / 32)) & 3;
}

/* Lines of n codes each; padding may hold any bits. */
static uint8_t *make_lines(uint64_t *random, int32_t n_lines, int32_t n, size_t row_bytes,
                           pattern kind) {
    uint8_t *w = check_alloc((size_t)n_lines * row_bytes);
    for (size_t i = 0; i < (size_t)n_lines * row_bytes; i++) {
        w[i] = (uint8_t)check_random(random);
    }
    for (int32_t line = 0; line < n_lines; line++) {
        for (int32_t i = 0; i < n; i++) {
            uint8_t *byte = w + (size_t)line * row_bytes + i / 128 * 32 + i % 32;
            const int shift = 6 - 2 * (i % 128 / 32);
            const int32_t code = kind == RANDOM ? check_range(random, 0, 2) : kind == LOW ? 0 : 2;
            *byte = (uint8_t)((*byte & ~(3 << shift)) | code << shift);
        }
    }
    return w;
}

static void run_case(check_count *count, const es_kernels *table, uint64_t *random,
                     const shape *s) {
    if (check_skips()) {
        return;
    }
    const int32_t n_lines = s->neuron_major ? s->k : s->n_rows;
    const int32_t n = s->neuron_major ? s->n_rows : s->k;
    const size_t row_bytes = padded(n, 128) / 4, q_stride = padded(s->k, 128);
    const size_t rows = es_lookup_rows(s->n_rows), sums_stride = padded(s->n_rows, 8) + 3;
    uint8_t *w = make_lines(random, n_lines, n, row_bytes, s->pattern);
    int8_t *q = check_alloc((size_t)s->n_tokens * q_stride);
    memset(q, 0, (size_t)s->n_tokens * q_stride);
    for (int32_t t = 0; t < s->n_tokens; t++) {
        for (int32_t i = 0; i < s->k; i++) {
            q[(size_t)t * q_stride + (size_t)i] =
                (int8_t)(s->pattern == RANDOM ? check_range(random, -128, 127)
                         : s->pattern == LOW  ? -128
                                              : 127);
        }
    }
    uint8_t *index = check_alloc(es_lookup_bytes(s->n_rows, s->k));
    int32_t *wide = check_alloc(rows * ES_LOOKUP_TOKENS * sizeof *wide);
    int16_t *narrow = check_alloc(rows * ES_LOOKUP_TOKENS * sizeof *narrow);
    memset(wide, 0x5A, rows * ES_LOOKUP_TOKENS * sizeof *wide);
    int32_t *sums = check_alloc((size_t)s->n_tokens * sums_stride * sizeof *sums);
    memset(sums, 0x5A, (size_t)s->n_tokens * sums_stride * sizeof *sums);
    for (size_t i = 0; i < es_lookup_bytes(s->n_rows, s->k); i++) {
        index[i] = (uint8_t)(i % 81); /* numbers that may stand there, but are wrong ones */
    }
    (s->neuron_major ? table->t2n_index : table->t2_index)(index, w, row_bytes, s->n_rows, s->k);
    (s->neuron_major ? table->t2n_lookup : table->t2_lookup)(wide, narrow, index, s->n_rows, q,
                                                             q_stride, s->n_tokens, s->k);
    table->turn_sums(sums, sums_stride, wide, (s->n_rows + 7) & ~7, s->n_tokens);
    int equal = 1;
    for (int32_t r = 0; r < s->n_rows; r++) {
        for (int32_t t = 0; t < s->n_tokens; t++) {
            int32_t sum = 0;
            for (int32_t i = 0; i < s->k; i++) {
                const int32_t code =
                    s->neuron_major ? code_at(w, row_bytes, i, r) : code_at(w, row_bytes, r, i);
                sum += (code - 1) * q[(size_t)t * q_stride + (size_t)i];
            }
            equal &= sums[(size_t)t * sums_stride + (size_t)r] == sum;
        }
    }
    check_case(count, equal, s->neuron_major ? "t2n" : "t2", s->n_rows, s->k, s->n_tokens);
    check_free(w);
    check_free(q);
    check_free(index);
    check_free(wide);
    check_free(narrow);
    check_free(sums);
}

static void cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                  int32_t isa) {
    static const int32_t ks[] = {1,   3,   4,   31,  32,  33,  127, 128,  129,  223,
                                 224, 225, 448, 449, 896, 897, 960, 1792, 2560, 6912};
    enum { N_KS = sizeof ks / sizeof ks[0], N_RANDOM = 4000 };
    const int n_found = (table->t2_index != NULL) + (table->t2n_index != NULL) +
                        (table->t2_lookup != NULL) + (table->t2n_lookup != NULL) +
                        (table->turn_sums != NULL);
    check_case(count, n_found == 0 || n_found == 5, "level has all kernels or none", isa, n_found,
               0);
    check_case(count, scalar->t2_lookup == NULL, "plain C does not look up", isa, 0, 0);
    if (n_found == 0) {
        return;
    }
    uint64_t random = 0x9E3779B97F4A7C15ULL;
    for (int32_t i = 0; i < 2 * N_KS * N_PATTERNS * 4 + N_RANDOM; i++) {
        const int by_list = i < 2 * N_KS * N_PATTERNS * 4;
        const shape s = {
            .neuron_major = i & 1,
            .pattern = (pattern)(i / 2 % N_PATTERNS),
            .k = by_list ? ks[i / 2 / N_PATTERNS % N_KS] : check_range(&random, 1, 600),
            .n_rows = check_range(&random, 1, by_list && i % 7 == 0 ? 300 : 40),
            .n_tokens = i % 5 == 0 ? ES_LOOKUP_TOKENS : check_range(&random, 1, ES_LOOKUP_TOKENS)};
        run_case(count, table, &random, &s);
    }
}

int check_lookup(void) {
    return check_each_isa("lookup", cases);
}
