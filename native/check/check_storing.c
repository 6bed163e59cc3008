/* Loading's kernels: numbers to block codes, codes to tiles, lanes to neurons. Scalar against the rules
 * and byte pictures, every other instruction set against scalar. */
#include "check/check_support.h"

#include <math.h>
#include <string.h>

enum { N_ROUNDS = 2100, MAX_BLOCKS = 7 };

typedef struct bench {
    uint64_t random;
    check_count *count;
    const es_kernels *table, *scalar;
    int truth; /* the table is scalar */
} bench;

/* Ordinary numbers, ties, zeros, subnormals, the largest finite ones, infinities and NaN. */
static float pick(uint64_t *state, int kind) {
    static const float odd[] = {0.0f,     -0.0f,           1e-45f,   -1e-40f, 6e-8f,
                                65504.0f, 3.402823466e38f, INFINITY, NAN,     -INFINITY};
    const uint32_t bits = check_random(state);
    if (kind > 0 && bits % 64 == 0) {
        return odd[check_random(state) % (kind == 1 ? 6 : 10)];
    }
    const float unit = (float)(int32_t)(bits >> 8) / 8388608.0f - 1.0f;
    return kind == 3 ? (float)(int32_t)(unit * 62.0f) * 0.5f : ldexpf(unit, (int)(bits & 7) - 4);
}

/* Whether a block has the codes and the step that its numbers and the largest code ask for. */
static int is_requantized(const int8_t *codes, uint16_t d, const float *values, float q_max) {
    float amax = 0.0f;
    for (int i = 0; i < 32; i++) {
        amax = fmaxf(amax, fabsf(values[i]));
    }
    /* Half a unit of a half's last place, or of the subnormal ones; and the division's rounding. */
    const double step = check_half(d), wanted = (double)amax / (double)q_max;
    int good = fabs(step - wanted) <= wanted * 0x1.01p-11 + 0x1.01p-25;
    for (int i = 0; i < 32; i++) {
        const double ratio = step > 0 ? (double)values[i] / step : 0;
        const double clamped = fmax(fmin(ratio, (double)q_max), -(double)q_max);
        good &= fabs(codes[i] - clamped) <= 0.5 + 1e-5;
    }
    return good;
}

/* The status of n_blocks blocks: all numbers, and all steps as halfs, are finite. */
static int32_t status_of(const float *values, size_t n_blocks, float q_max) {
    for (size_t i = 0; i < 32 * n_blocks; i++) {
        if (!isfinite(values[i]) || fabs((double)values[i]) / (double)q_max >= 65520.0) {
            return ES_E_VALUE;
        }
    }
    return ES_OK;
}

static void requantize_case(bench *m, int32_t round) {
    if (!check_wants((check_any_kernel *)m->table->requantize)) {
        return;
    }
    static const float q_max[] = {127.0f, 31.0f, 7.0f};
    const size_t n_blocks = 1 + check_random(&m->random) % MAX_BLOCKS;
    float *values = check_alloc(n_blocks * 32 * sizeof(float));
    for (size_t i = 0; i < n_blocks * 32; i++) {
        values[i] = pick(&m->random, round % 4);
    }
    int8_t *codes = check_alloc(n_blocks * 32), *expected = check_alloc(n_blocks * 32);
    uint16_t *d = check_alloc(2 * n_blocks), *expected_d = check_alloc(2 * n_blocks);
    for (size_t i = 0; i < 3; i++) {
        memset(codes, 0x55, n_blocks * 32);
        memset(expected, 0xaa, n_blocks * 32);
        memset(d, 0x55, 2 * n_blocks);
        memset(expected_d, 0xaa, 2 * n_blocks);
        const int32_t status = m->table->requantize(codes, d, values, n_blocks, q_max[i]);
        int good =
            status == m->scalar->requantize(expected, expected_d, values, n_blocks, q_max[i]);
        if (status == ES_OK) {
            good &= memcmp(codes, expected, n_blocks * 32) == 0 &&
                    memcmp(d, expected_d, 2 * n_blocks) == 0;
        }
        if (m->truth) {
            good &= status == status_of(values, n_blocks, q_max[i]);
            for (size_t b = 0; b < n_blocks && good && status == ES_OK; b++) {
                good = is_requantized(codes + 32 * b, d[b], values + 32 * b, q_max[i]);
            }
        }
        check_case(m->count, good, "requantize", round, (int64_t)n_blocks, (int64_t)q_max[i]);
    }
    check_free(values);
    check_free(codes);
    check_free(expected);
    check_free(d);
    check_free(expected_d);
}

/* The code of a row and column of a block of six-bit words (edgesparse/formats/README.md). */
static int woven_code(const uint8_t *block, size_t row, size_t column) {
    unsigned words[6];
    for (size_t i = 0; i < 6; i++) {
        const uint8_t *word = block + 32 * i + 4 * row + 2 * (column % 2);
        words[i] = word[0] + 256u * word[1];
    }
    if (column < 24) {
        return (int)(words[column / 2 % 6] >> (column < 12 ? 0 : 6) & 63) - 32;
    }
    const size_t last = (column - 24) / 2;
    const unsigned upper = words[4 + last / 2] >> (last % 2 ? 14 : 12) & 3;
    return (int)(words[last] >> 12 | upper << 4) - 32;
}

static void weave_case(bench *m, int32_t round) {
    if (!check_wants((check_any_kernel *)m->table->weave_six)) {
        return;
    }
    const size_t n_blocks = 1 + check_random(&m->random) % MAX_BLOCKS, stride = 208;
    const size_t n_bytes = (n_blocks - 1) * stride + 192;
    int8_t *codes = check_alloc(8 * n_blocks * 32);
    for (size_t i = 0; i < 8 * n_blocks * 32; i++) {
        codes[i] = (int8_t)check_range(&m->random, -32, 31);
    }
    uint8_t *out = check_alloc(n_bytes), *expected = check_alloc(n_bytes);
    memset(out, 0xee, n_bytes); /* what lies between blocks keeps it */
    memset(expected, 0xee, n_bytes);
    m->table->weave_six(out, codes, n_blocks, stride);
    m->scalar->weave_six(expected, codes, n_blocks, stride);
    int good = memcmp(out, expected, n_bytes) == 0;
    for (size_t i = 0; m->truth && i < 8 * n_blocks * 32; i++) {
        const size_t row = i / (n_blocks * 32), block = i / 32 % n_blocks;
        good &= woven_code(out + block * stride, row, i % 32) == codes[i];
    }
    check_case(m->count, good, "weave_six", round, (int64_t)n_blocks, 0);
    check_free(codes);
    check_free(out);
    check_free(expected);
}

static void turn_case(bench *m, int32_t round) {
    if (!check_wants((check_any_kernel *)m->table->turn_lanes)) {
        return;
    }
    const size_t k = 1 + check_random(&m->random) % 70;
    const size_t stride = 32 * (1 + check_random(&m->random) % 3);
    const size_t n_bytes = (k - 1) * stride + 32;
    uint8_t *lanes = check_alloc(32 * k);
    for (size_t i = 0; i < 32 * k; i++) {
        lanes[i] = (uint8_t)check_random(&m->random);
    }
    uint8_t *out = check_alloc(n_bytes), *expected = check_alloc(n_bytes);
    memset(out, 0xee, n_bytes); /* what lies between columns keeps it */
    memset(expected, 0xee, n_bytes);
    m->table->turn_lanes(out, stride, lanes, k);
    for (size_t i = 0; i < 32 * k; i++) {
        expected[i / 32 * stride + i % 32] = lanes[i % 32 * k + i / 32];
    }
    check_case(m->count, memcmp(out, expected, n_bytes) == 0, "turn_lanes", round, (int64_t)k,
               (int64_t)stride);
    check_free(lanes);
    check_free(out);
    check_free(expected);
}

static void cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                  int32_t isa) {
    bench m = {.random = 11, .count = count, .table = table, .scalar = scalar};
    m.truth = isa == ES_ISA_SCALAR;
    const int kept = table->requantize == scalar->requantize ||
                     table->weave_six == scalar->weave_six ||
                     table->turn_lanes == scalar->turn_lanes;
    check_case(count, m.truth || !kept, "level has kernels of its own", isa, 0, 0);
    for (int32_t round = 0; round < N_ROUNDS; round++) {
        if (!check_skips()) {
            requantize_case(&m, round);
            weave_case(&m, round);
            turn_case(&m, round);
        }
    }
}

int check_storing(void) {
    return check_each_isa("storing", cases);
}
