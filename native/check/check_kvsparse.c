/* Pruned rows of the cache: what is kept against a plain selection, expansion against what was kept. */
#include "check/check_support.h"

#include <string.h>

enum { MAX_DIM = 320, MAX_ROWS = 40, N_SHAPES = 400 /* random ones of each pattern */ };
enum { RANDOM, TIES, EQUAL, ZEROS, N_PATTERNS };

typedef struct bench {
    check_buffer halfs, rows, wide, narrow;
    uint64_t random;
} bench;

static uint16_t pattern_half(bench *m, int pattern) {
    const uint16_t bits = (uint16_t)check_random(&m->random);
    switch (pattern) {
    case TIES: /* few magnitudes, both signs */
        return (uint16_t)((bits & 0x8000) | (0x3c00 + bits % 3));
    case EQUAL:
        return 0x3c00;
    case ZEROS:
        return bits & 0x8000;
    default: /* any number, infinities and NaN among them: selection is by bits */
        return bits;
    }
}

/* Element i is dropped when fewer than n_dropped are smaller, or equal and before it. */
static int is_kept(const uint16_t *halfs, int32_t n, int32_t i, int32_t n_kept) {
    const int32_t mine = halfs[i] & 0x7fff;
    int32_t before = 0;
    for (int32_t j = 0; j < n; j++) {
        const int32_t other = halfs[j] & 0x7fff;
        before += other < mine || (other == mine && j < i);
    }
    return before >= n - n_kept;
}

/* n_rows rows pruned one by one, then all expanded: from what should have been kept, whatever was. */
static void one_case(bench *m, check_count *count, const es_kernels *table, int32_t n,
                     int32_t n_kept, int32_t n_rows, int pattern) {
    if (check_skips()) {
        return;
    }
    const size_t dim = (size_t)n, row_bytes = es_sparse_row_bytes(n, n_kept);
    const size_t bitmap = es_sparse_bitmap_bytes(n);
    uint16_t *halfs = check_tail(&m->halfs, (size_t)n_rows * dim * sizeof *halfs);
    uint16_t *wide = check_tail(&m->wide, (size_t)n_rows * dim * sizeof *wide);
    uint8_t *rows = check_tail(&m->rows, (size_t)n_rows * row_bytes);
    int passed = 1;
    for (int32_t r = 0; r < n_rows; r++) {
        uint16_t *row = halfs + (size_t)r * dim;
        uint8_t *to = rows + (size_t)r * row_bytes, *kept = to + bitmap;
        memset(to, 0, bitmap);
        for (int32_t i = 0; i < n; i++) {
            row[i] = pattern_half(m, pattern);
        }
        for (int32_t i = 0; i < n; i++) {
            if (is_kept(row, n, i, n_kept)) {
                to[i / 8] = (uint8_t)(to[i / 8] | 1 << i % 8);
                memcpy(kept, &row[i], sizeof row[i]);
                kept += sizeof row[i];
            }
        }
        /* At the end of memory, so that nothing beyond a row is written. */
        uint8_t *alone = check_tail(&m->narrow, row_bytes);
        memset(alone, 0xa5, row_bytes);
        table->prune_row(alone, row, n, n_kept);
        passed = passed && kept == to + row_bytes && memcmp(alone, to, row_bytes) == 0;
    }
    check_case(count, passed, "prune: head_dim, kept, rows", n, n_kept, n_rows);
    memset(wide, 0x5a, (size_t)n_rows * dim * sizeof *wide);
    table->expand_rows(wide, rows, row_bytes, n_rows, n);
    passed = 1;
    for (int32_t r = 0; r < n_rows && passed; r++) {
        for (int32_t i = 0; i < n; i++) {
            const size_t at = (size_t)r * dim + (size_t)i;
            const int set = rows[(size_t)r * row_bytes + (size_t)i / 8] >> i % 8 & 1;
            passed = passed && wide[at] == (set ? halfs[at] : 0);
        }
    }
    check_case(count, passed, "expand: head_dim, kept, rows", n, n_kept, n_rows);
}

static void kvsparse_cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                           int32_t isa) {
    static const int32_t dims[] = {2,  3,  7,  8,  9,  15, 16,  17,  24,  31,  32,  33,
                                   48, 63, 64, 65, 80, 96, 100, 112, 128, 130, 256, 320};
    bench m = {.random = 1729};
    m.halfs = check_buffer_new(MAX_ROWS * MAX_DIM * sizeof(uint16_t));
    m.wide = check_buffer_new(MAX_ROWS * MAX_DIM * sizeof(uint16_t));
    m.rows = check_buffer_new(MAX_ROWS * es_sparse_row_bytes(MAX_DIM, MAX_DIM));
    m.narrow = check_buffer_new(es_sparse_row_bytes(MAX_DIM, MAX_DIM));
    check_case(count,
               isa == ES_ISA_SCALAR ||
                   (table->prune_row != scalar->prune_row &&
                    (table->attention_reads_pruned || table->expand_rows != scalar->expand_rows)),
               "level has kernels of its own", isa, 0, 0);
    for (int pattern = 0; pattern < N_PATTERNS; pattern++) {
        for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++) {
            const int32_t n = dims[d];
            const int32_t kept[] = {1, n - 1, n - n / 2, n - n * 7 / 10, n - n / 4, n};
            for (size_t k = 0; k < sizeof kept / sizeof kept[0]; k++) {
                one_case(&m, count, table, n, kept[k], check_range(&m.random, 1, 5), pattern);
            }
            one_case(&m, count, table, n, n - n / 2, MAX_ROWS, pattern);
        }
        for (int i = 0; i < N_SHAPES; i++) {
            const int32_t n = check_range(&m.random, 2, i % 8 == 0 ? MAX_DIM : 140);
            const int32_t n_kept = check_range(&m.random, 1, n);
            one_case(&m, count, table, n, n_kept, check_range(&m.random, 1, 5), pattern);
        }
    }
    check_buffer_free(&m.halfs);
    check_buffer_free(&m.wide);
    check_buffer_free(&m.rows);
    check_buffer_free(&m.narrow);
}

int check_kvsparse(void) {
    return check_each_isa("kvsparse", kvsparse_cases);
}
