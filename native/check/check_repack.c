/* Repacking: half precision against its definition, every pair of types whole and in pieces, and jobs
 * that must be refused. Sources and storages lie in exact allocations, so the address sanitizer sees
 * any step beyond them; the digest of all bytes written shows whether another machine writes others. */
#include "check.h"
#include "cpu.h"
#include "repack/repack.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LAST_SOURCE = ES_SRC_HF_T2, N_PAIRS = 68 };

/* FNV-1a over storage and scales of all pairs, taken on x86-64. */
#define DIGEST UINT64_C(0xffce714cab7741d9)

typedef struct tally {
    int64_t n_cases, n_failures;
    uint64_t digest;
    int32_t n_pairs;
} tally;

static void expect(tally *t, int ok, const char *what, int32_t src_type, int32_t format) {
    t->n_cases++;
    if (!ok) {
        t->n_failures++;
        printf("repack: %s, source %d, format %d\n", what, src_type, format);
    }
}

static void digest(tally *t, const void *data, size_t n) {
    const uint8_t *bytes = data;
    for (size_t i = 0; i < n; i++) {
        t->digest = (t->digest ^ bytes[i]) * UINT64_C(0x100000001b3);
    }
}

/* ---- half precision ---- */

/* By definition: sign, 5 exponent bits, 10 fraction bits. */
static double half_value(uint16_t half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    const double magnitude =
        exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return half & 0x8000 ? -magnitude : magnitude;
}

static void check_halves(tally *t) {
    for (int32_t i = 0; i < 0x7c00; i++) {
        for (int32_t sign = 0; sign <= 0x8000; sign += 0x8000) {
            const uint16_t half = (uint16_t)(i | sign);
            const float value = es_half_to_float(half);
            int ok = (double)value == half_value(half) && es_float_to_half(value) == half;
            /* The middle of the gap above (to 2^16 at the end) belongs to the even neighbour. */
            const float unit = sign ? -1.0f : 1.0f;
            const double next = i == 0x7bff ? 65536.0 : fabs(half_value((uint16_t)(i + 1)));
            const float middle = unit * (float)((fabs(half_value(half)) + next) / 2);
            ok &= es_float_to_half(middle) == (uint16_t)(half + (i & 1));
            ok &= es_float_to_half(nextafterf(middle, 0.0f)) == half;
            ok &= es_float_to_half(nextafterf(middle, unit * INFINITY)) == (uint16_t)(half + 1);
            expect(t, ok, "half", half, 0);
        }
    }
    expect(t,
           es_float_to_half(1e30f) == 0x7c00 && es_float_to_half(-INFINITY) == 0xfc00 &&
               !es_half_is_finite(es_float_to_half(NAN)) && isnan(es_half_to_float(0x7e00)) &&
               isinf(es_half_to_float(0xfc00)),
           "half: infinities", 0, 0);
}

/* ---- all pairs ---- */

static int32_t job_isa; /* of all jobs */

static int has_scales(int32_t format) {
    return format <= ES_FORMAT_T5 || format == ES_FORMAT_BST;
}

static es_repack_job new_job(int32_t src_type, int32_t format, int32_t n_rows, int32_t k) {
    es_repack_job job = {.src_type = src_type, .dst_format = format, .n_rows = n_rows, .k = k};
    job.row_end = n_rows;
    job.src_scale = 0.375f;
    job.isa = job_isa;
    job.src_bytes = (size_t)es_source_bytes(es_source_of(src_type), &job);
    job.dst_bytes = (size_t)es_storage_bytes(format, n_rows, k);
    job.src = check_alloc(job.src_bytes);
    job.dst = check_alloc(job.dst_bytes);
    memset(job.dst, 0xee, job.dst_bytes);
    if (has_scales(format)) {
        job.scales = check_alloc((size_t)n_rows * sizeof(float));
    }
    return job;
}

static void free_job(es_repack_job *job) {
    check_free((void *)(uintptr_t)job->src);
    check_free(job->dst);
    check_free(job->scales);
}

/* Random bytes that are no infinity in any field and hold no ternary code 3; for a ternary storage
 * with one scale in all blocks. */
static void fill_tame(const es_repack_job *job, uint64_t *state) {
    const es_source *source = es_source_of(job->src_type);
    uint8_t *src = (uint8_t *)(uintptr_t)job->src;
    for (size_t i = 0; i < job->src_bytes; i++) {
        const unsigned byte = check_random(state) & 0xbf;
        src[i] = (uint8_t)(byte & ~(byte & byte >> 1 & 0x55));
    }
    if (source->scale_offset < 0 || !has_scales(job->dst_format)) {
        return;
    }
    for (size_t at = (size_t)source->scale_offset; at < job->src_bytes;
         at += (size_t)source->block_bytes) {
        src[at] = 0x00;
        src[at + 1] = 0x36;
    }
}

/* Rows [0, 8), [8, 16), … by jobs of their own, from copies of exactly those bytes. */
static int32_t repack_in_pieces(const es_repack_job *whole) {
    const int planar = whole->src_type == ES_SRC_HF_T2;
    const es_source *source = es_source_of(whole->src_type);
    const uint8_t *src = whole->src;
    int32_t status = ES_OK;
    for (int32_t row = 0; row < whole->n_rows && status == ES_OK; row += 8) {
        es_repack_job job = *whole;
        job.row_begin = row;
        job.row_end = row + 8 < whole->n_rows ? row + 8 : whole->n_rows;
        job.src_bytes = (size_t)es_source_bytes(source, &job);
        uint8_t *copy = check_alloc(job.src_bytes);
        memcpy(copy, src, job.src_bytes);
        src += planar ? 0 : job.src_bytes;
        job.src = copy;
        status = es_repack(&job);
        check_free(copy);
    }
    return status;
}

static void check_pair(tally *t, int32_t src_type, int32_t format, int32_t n_rows, int32_t k) {
    uint64_t state = (uint64_t)(1000 * src_type + 10 * format + n_rows);
    es_repack_job job = new_job(src_type, format, n_rows, k);
    fill_tame(&job, &state);
    const int32_t status = es_repack(&job);
    if (status != ES_E_UNSUPPORTED) {
        t->n_pairs++;
        expect(t, status == ES_OK, "a tame job fails", src_type, format);
        const size_t scale_bytes = job.scales ? (size_t)n_rows * sizeof(float) : 0;
        uint8_t *first = check_alloc(job.dst_bytes + scale_bytes);
        memcpy(first, job.dst, job.dst_bytes);
        if (job.scales) {
            memcpy(first + job.dst_bytes, job.scales, scale_bytes);
            memset(job.scales, 0xee, scale_bytes);
        }
        digest(t, first, job.dst_bytes + scale_bytes);
        memset(job.dst, 0x11, job.dst_bytes);
        const int same =
            repack_in_pieces(&job) == ES_OK && memcmp(first, job.dst, job.dst_bytes) == 0 &&
            (!job.scales || memcmp(first + job.dst_bytes, job.scales, scale_bytes) == 0);
        expect(t, same, "pieces differ from the whole", src_type, format);
        check_free(first);
    }
    free_job(&job);
}

/* ---- what must be refused, and bytes that may be anything ---- */

static void check_refusals(tally *t, int32_t src_type, int32_t format) {
    es_repack_job good = new_job(src_type, format, 24, 512);
    uint64_t state = 7;
    fill_tame(&good, &state);
    if (es_repack(&good) == ES_E_UNSUPPORTED) {
        free_job(&good);
        return;
    }
    es_repack_job bad[14];
    for (int i = 0; i < 14; i++) {
        bad[i] = good;
    }
    bad[0].src_bytes--;
    bad[1].src_bytes++;
    bad[2].dst_bytes--;
    bad[3].dst_bytes++;
    bad[4].n_rows = 0;
    bad[5].k = 0;
    bad[6].k = -512;
    bad[7].row_begin = -8;
    bad[8].row_end = 32;
    bad[9].row_end = 0;
    bad[10].src = NULL;
    bad[11].dst = NULL;
    bad[12].k = INT32_MAX - 511;
    bad[13].n_rows = INT32_MAX;
    for (int i = 0; i < 14; i++) {
        expect(t, es_repack(&bad[i]) == ES_E_ARGUMENT, "a wrong job is taken", src_type, format);
    }
    if (has_scales(format)) {
        good.scales = (check_free(good.scales), NULL);
        expect(t, es_repack(&good) == ES_E_ARGUMENT, "no room for scales", src_type, format);
    } else {
        good.row_begin = 4;
        expect(t, es_repack(&good) == ES_E_ARGUMENT, "half a tile", src_type, format);
    }
    free_job(&good);
}

static void check_wild(tally *t, int32_t src_type, int32_t format, uint64_t seed) {
    es_repack_job job = new_job(src_type, format, 12, 512);
    uint64_t state = seed;
    uint8_t *src = (uint8_t *)(uintptr_t)job.src;
    for (size_t i = 0; i < job.src_bytes; i++) {
        src[i] = (uint8_t)check_random(&state);
    }
    const int32_t status = es_repack(&job);
    expect(t,
           status == ES_OK || status == ES_E_VALUE || status == ES_E_NOT_UNIFORM ||
               status == ES_E_UNSUPPORTED,
           "wild bytes", src_type, format);
    free_job(&job);
}

static int check_with(int32_t isa) {
    tally t = {.digest = UINT64_C(0xcbf29ce484222325)};
    job_isa = isa;
    check_halves(&t);
    for (int32_t src_type = 1; src_type <= LAST_SOURCE; src_type++) {
        for (int32_t format = ES_FORMAT_T2; format <= ES_FORMAT_F32; format++) {
            check_pair(&t, src_type, format, 20, 768);
            check_refusals(&t, src_type, format);
            for (uint64_t seed = 1; seed <= 8; seed++) {
                check_wild(&t, src_type, format, seed);
            }
        }
    }
    for (int32_t src_type = 1; src_type <= LAST_SOURCE; src_type++) {
        for (int32_t i = 0; i < 9; i++) { /* by columns, then by rows, and ternary planes */
            const int32_t format = i == 8  ? ES_FORMAT_BST
                                   : i < 4 ? ES_FORMAT_Q8N + i
                                           : ES_FORMAT_Q8R + i - 4;
            check_refusals(&t, src_type, format);
            for (uint64_t seed = 1; seed <= 4; seed++) {
                check_wild(&t, src_type, format, seed);
            }
        }
    }
    expect(&t, t.n_pairs == N_PAIRS, "number of pairs", t.n_pairs, 0);
    if (t.digest != DIGEST) {
        printf("repack: digest 0x%016llx\n", (unsigned long long)t.digest);
    }
    expect(&t, t.digest == DIGEST, "the digest of all bytes differs", 0, 0);
    const es_repack_job unknown = {
        .src_type = LAST_SOURCE + 1, .src = (const uint8_t *)&t, .dst = (uint8_t *)&t};
    expect(&t, es_repack(&unknown) == ES_E_UNSUPPORTED, "an unknown type", LAST_SOURCE + 1, 0);
    expect(&t, es_repack(NULL) == ES_E_ARGUMENT, "no job", 0, 0);
    es_repack_job stranger = new_job(ES_SRC_F16, ES_FORMAT_Q8, 8, 32);
    stranger.isa = ES_ISA_COUNT;
    expect(&t, es_repack(&stranger) == ES_E_ARGUMENT, "an unknown instruction set", 0, 0);
    free_job(&stranger);
    return check_report("repack", isa, t.n_cases, t.n_failures);
}

int check_repack(void) {
    int failed = 0;
    for (int32_t isa = ES_ISA_SCALAR; isa < ES_ISA_COUNT; isa++) {
        if (es_cpu_has(isa)) {
            failed |= check_with(isa);
        }
    }
    return failed;
}
