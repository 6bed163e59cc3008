/* Runs every family's check. Exit status: 0 all equal, 1 a difference or nothing run. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>

int check_report(const char *family, int32_t isa, int64_t n_cases, int64_t n_failures) {
    const int failed = n_failures != 0 || n_cases == 0;
    printf("%-10s %-11s %8lld cases %6lld failures%s\n", family, isa < 0 ? "-" : es_isa_name(isa),
           (long long)n_cases, (long long)n_failures, failed ? "  FAILED" : "");
    fflush(stdout);
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

int main(void) {
    static int (*const families[])(void) = {
        check_pool,    check_ternary, check_sparse,   check_predict, check_dense,
        check_columns, check_rows,    check_bitslice, check_vector,  check_attention,
        check_repack,  check_storing, check_proposal,
    };
    int failed = 0;
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        failed |= families[i]();
    }
    return failed != 0;
}
