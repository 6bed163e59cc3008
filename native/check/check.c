/* Runs every family's check. Exit status: 0 all equal, 1 a difference or nothing run, 2 no check.
 *
 *   es_check [--quick | --kernels] [--expect ISA]
 *
 * --quick tries every seventh case; --kernels tries the checks instead, by taking every kernel away in
 * turn; --expect fails unless ISA is the one that this CPU gets. */
#include "check.h"
#include "check_kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

/* A number that has no factor in common with the loops that make cases. */
enum { QUICK_STEP = 7 };

static int quick;
static int64_t n_met, n_all_cases, n_all_failures;

int check_skips(void) {
    return (quick && n_met++ % QUICK_STEP != 0) || (check_is_trial() && check_trial_is_over());
}

int check_report(const char *family, int32_t isa, int64_t n_cases, int64_t n_failures) {
    if (check_is_trial()) {
        return 0;
    }
    const int failed = n_failures != 0 || n_cases == 0;
    printf("%-10s %-11s %8lld cases %6lld failures%s\n", family, isa < 0 ? "-" : es_isa_name(isa),
           (long long)n_cases, (long long)n_failures, failed ? "  FAILED" : "");
    fflush(stdout);
    n_met = 0;
    n_all_cases += n_cases;
    n_all_failures += n_failures;
    return failed;
}

void *check_alloc(size_t n_bytes) {
    void *p = NULL;
    if (posix_memalign(&p, 64, n_bytes == 0 ? 1 : n_bytes) != 0) {
        fprintf(stderr, "es_check: no memory for %zu bytes\n", n_bytes);
        exit(2);
    }
    return p;
}

void check_free(void *p) {
    free(p);
}

/* What the CPU offers: the instruction set that will be used, and what no kernel asks for yet. */
static int print_cpu(const char *expected) {
    const char *best = es_isa_name(es_isa_best());
#if defined(__aarch64__) && defined(__linux__)
    const unsigned long i8mm = getauxval(AT_HWCAP2) >> 13 & 1;
    printf("instruction set %s; i8mm %s\n", best, i8mm ? "there, not used" : "not there");
#else
    printf("instruction set %s\n", best);
#endif
    if (expected != NULL && strcmp(best, expected) != 0) {
        printf("FAILED: expected %s\n", expected);
        return 1;
    }
    return 0;
}

int main(int argc, char **argv) {
    const char *expected = NULL;
    int kernels = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0) {
            quick = 1;
        } else if (strcmp(argv[i], "--kernels") == 0) {
            kernels = 1;
        } else if (strcmp(argv[i], "--expect") == 0 && i + 1 < argc) {
            expected = argv[++i];
        } else {
            fprintf(stderr, "usage: es_check [--quick | --kernels] [--expect ISA]\n");
            return 2;
        }
    }
    if (quick && kernels) {
        fprintf(stderr, "es_check: --kernels needs all cases, --quick leaves most out\n");
        return 2;
    }
    static int (*const families[])(void) = {
        check_pool,          check_ternary,  check_lookup,    check_sparse, check_predict,
        check_dense,         check_columns,  check_rows,      check_bitmap, check_bitslice,
        check_slice_columns, check_vector,   check_attention, check_repack, check_storing,
        check_proposal,      check_kvsparse,
    };
    int failed = print_cpu(expected);
    if (kernels) {
        return failed | check_kernels();
    }
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        failed |= families[i]();
    }
    printf("%lld cases, %lld failures\n", (long long)n_all_cases, (long long)n_all_failures);
    return failed != 0;
}
