/* Loading's kernels: numbers to block codes, codes to tiles, lanes to neurons, each against scalar. */
#include "check.h"

#include "cpu.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { N_ROUNDS = 2000, MAX_BLOCKS = 7 };

typedef struct tally {
    int64_t n_cases, n_failures;
} tally;

static void expect(tally *t, int ok, const char *what, int64_t which) {
    t->n_cases++;
    if (!ok) {
        t->n_failures++;
        printf("storing: %s, case %lld\n", what, (long long)which);
    }
}

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

static void check_requantize(tally *t, const es_kernels *plain, const es_kernels *table,
                             uint64_t *state, int64_t round) {
    static const float q_max[] = {127.0f, 31.0f, 7.0f};
    const size_t n_blocks = 1 + check_random(state) % MAX_BLOCKS;
    float *values = check_alloc(n_blocks * 32 * sizeof(float));
    for (size_t i = 0; i < n_blocks * 32; i++) {
        values[i] = pick(state, (int)(round % 4));
    }
    int8_t *codes[2] = {check_alloc(n_blocks * 32), check_alloc(n_blocks * 32)};
    uint16_t *d[2] = {check_alloc(2 * n_blocks), check_alloc(2 * n_blocks)};
    for (size_t i = 0; i < 3; i++) {
        const int32_t a = plain->requantize(codes[0], d[0], values, n_blocks, q_max[i]);
        const int32_t b = table->requantize(codes[1], d[1], values, n_blocks, q_max[i]);
        expect(t,
               a == b && (a != ES_OK || (memcmp(codes[0], codes[1], n_blocks * 32) == 0 &&
                                         memcmp(d[0], d[1], 2 * n_blocks) == 0)),
               "requantize", round);
    }
    check_free(values);
    for (int i = 0; i < 2; i++) {
        check_free(codes[i]);
        check_free(d[i]);
    }
}

static void check_weave(tally *t, const es_kernels *plain, const es_kernels *table, uint64_t *state,
                        int64_t round) {
    const size_t n_blocks = 1 + check_random(state) % MAX_BLOCKS, stride = 208;
    const size_t n_bytes = (n_blocks - 1) * stride + 192;
    int8_t *codes = check_alloc(8 * n_blocks * 32);
    for (size_t i = 0; i < 8 * n_blocks * 32; i++) {
        codes[i] = (int8_t)((int)(check_random(state) % 64) - 32);
    }
    uint8_t *out[2] = {check_alloc(n_bytes), check_alloc(n_bytes)};
    memset(out[0], 0xee, n_bytes);
    memset(out[1], 0xee, n_bytes);
    plain->weave_six(out[0], codes, n_blocks, stride);
    table->weave_six(out[1], codes, n_blocks, stride);
    expect(t, memcmp(out[0], out[1], n_bytes) == 0, "weave_six", round);
    check_free(codes);
    check_free(out[0]);
    check_free(out[1]);
}

static void check_turn(tally *t, const es_kernels *plain, const es_kernels *table, uint64_t *state,
                       int64_t round) {
    const size_t k = 1 + check_random(state) % 70, stride = 32 * (1 + check_random(state) % 3);
    const size_t n_bytes = (k - 1) * stride + 32;
    uint8_t *lanes = check_alloc(32 * k);
    for (size_t i = 0; i < 32 * k; i++) {
        lanes[i] = (uint8_t)check_random(state);
    }
    uint8_t *out[2] = {check_alloc(n_bytes), check_alloc(n_bytes)};
    memset(out[0], 0xee, n_bytes);
    memset(out[1], 0xee, n_bytes);
    plain->turn_lanes(out[0], stride, lanes, k);
    table->turn_lanes(out[1], stride, lanes, k);
    expect(t, memcmp(out[0], out[1], n_bytes) == 0, "turn_lanes", round);
    check_free(lanes);
    check_free(out[0]);
    check_free(out[1]);
}

int check_storing(void) {
    es_kernels plain;
    es_kernels_fill(&plain, ES_ISA_SCALAR);
    int failed = 0;
    for (int32_t isa = ES_ISA_SCALAR + 1; isa < ES_ISA_COUNT; isa++) {
        if (!es_cpu_has(isa)) {
            continue;
        }
        es_kernels table;
        es_kernels_fill(&table, isa);
        tally t = {0, 0};
        uint64_t state = 11;
        for (int64_t round = 0; round < N_ROUNDS; round++) {
            check_requantize(&t, &plain, &table, &state, round);
            check_weave(&t, &plain, &table, &state, round);
            check_turn(&t, &plain, &table, &state, round);
        }
        const int kept = table.requantize == plain.requantize ||
                         table.weave_six == plain.weave_six || table.turn_lanes == plain.turn_lanes;
        expect(&t, !kept, "level has kernels of its own", isa);
        expect(&t, t.n_cases == 5 * N_ROUNDS + 1, "number of cases", t.n_cases);
        failed |= check_report("storing", isa, t.n_cases, t.n_failures);
    }
    return failed;
}
