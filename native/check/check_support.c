/* See check_support.h. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS, sysconf */

#include "check/check_support.h"

#include "check/check_kernels.h"
#include "edgesparse.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

check_buffer check_buffer_new(size_t n_bytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    check_buffer buffer = {NULL, (n_bytes + page - 1) / page * page};
    void *base = mmap(NULL, buffer.n_bytes + page, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect((uint8_t *)base + buffer.n_bytes, page, PROT_NONE) != 0) {
        fprintf(stderr, "es_check: no memory\n");
        exit(2);
    }
    buffer.base = base;
    return buffer;
}

void check_buffer_free(check_buffer *buffer) {
    munmap(buffer->base, buffer->n_bytes + (size_t)sysconf(_SC_PAGESIZE));
    buffer->base = NULL;
}

void *check_tail(const check_buffer *buffer, size_t n_bytes) {
    if (n_bytes > buffer->n_bytes) {
        fprintf(stderr, "es_check: a case needs %zu bytes of %zu\n", n_bytes, buffer->n_bytes);
        exit(2);
    }
    return buffer->base + (buffer->n_bytes - n_bytes);
}

int32_t check_range(uint64_t *random, int32_t low, int32_t high) {
    const uint32_t width = (uint32_t)(high - low) + 1;
    return low + (int32_t)(check_random(random) % width);
}

float check_uniform(uint64_t *random) {
    return (float)check_range(random, -0xffffff, 0xffffff) * 0x1p-24f;
}

double check_half(uint16_t half) {
    const int exponent = (half >> 10) & 31;
    const int fraction = half & 1023;
    const double magnitude = exponent == 0    ? ldexp(fraction, -24)
                             : exponent == 31 ? (double)INFINITY
                                              : ldexp(1024 + fraction, exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

void check_case(check_count *count, int passed, const char *what, int64_t a, int64_t b, int64_t c) {
    count->n_cases++;
    if (check_is_trial()) {
        check_trial_case(passed);
        return;
    }
    if (!passed && count->n_failed++ < 10) {
        fprintf(stderr, "FAILED %s: %s (%lld, %lld, %lld)\n", count->name, what, (long long)a,
                (long long)b, (long long)c);
    }
}

int check_each_isa(const char *family, void (*cases)(check_count *count, const es_kernels *table,
                                                     const es_kernels *scalar, int32_t isa)) {
    int failed = 0;
    for (int32_t isa = ES_ISA_SCALAR; isa < ES_ISA_COUNT; isa++) {
        if (!check_has(isa)) {
            continue;
        }
        check_count count = {.name = family};
        es_kernels table, scalar;
        check_fill(&table, isa);
        check_fill(&scalar, ES_ISA_SCALAR);
        cases(&count, &table, &scalar, isa);
        failed |= check_report(family, isa, count.n_cases, count.n_failed);
    }
    return failed;
}
