/* Sequential read bandwidth: the ceiling that every decode speed is printed beside.
 *
 * Memory is read as weights are: in huge pages where they can be had, with requests ahead of the
 * reading. Two ways of asking take turns, since processors differ in which is faster. */
#include "edgesparse.h"
#include "pool.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

enum { LINE = 64, AHEAD = 4096, FAR = 8192, NEAR = 1024 };

typedef struct reader {
    const uint64_t *data;
    size_t n_words;
    uint64_t sums[64]; /* keeps the reads alive; one line apart would not matter: written once */
} reader;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline __attribute__((always_inline)) void read_part(reader *r, int32_t chunk,
                                                            int32_t thread, const int staged) {
    const uint64_t *p = r->data + (size_t)chunk * r->n_words;
    uint64_t lanes[8] = {0};
    for (size_t i = 0; i + 8 <= r->n_words; i += 8) {
        const uintptr_t at = (uintptr_t)(p + i);
        if (staged) {
            __builtin_prefetch((const void *)(at + FAR), 0, 2);
        }
        __builtin_prefetch((const void *)(at + (staged ? NEAR : AHEAD)), 0, 3);
        for (int j = 0; j < 8; j++) {
            lanes[j] ^= p[i + (size_t)j];
        }
    }
    uint64_t sum = 0;
    for (int j = 0; j < 8; j++) {
        sum ^= lanes[j];
    }
    r->sums[thread & 63] = sum;
}

static void read_chunk(void *context, int32_t chunk, int32_t thread) {
    read_part(context, chunk, thread, 0);
}

static void read_chunk_staged(void *context, int32_t chunk, int32_t thread) {
    read_part(context, chunk, thread, 1);
}

double es_read_bandwidth(int32_t n_threads, size_t n_bytes, int32_t repeats) {
    const size_t n_words = n_bytes / LINE * (LINE / sizeof(uint64_t));
    const size_t total = n_words * sizeof(uint64_t) * (size_t)(n_threads > 0 ? n_threads : 0);
    void *memory = NULL;
    if (n_words == 0 || n_threads < 1 || n_threads > 1024 ||
        posix_memalign(&memory, 1u << 21, total) != 0) {
        return 0.0;
    }
#ifdef MADV_HUGEPAGE
    (void)madvise(memory, total, MADV_HUGEPAGE); /* advice only */
#endif
    memset(memory, 1, total);
    es_pool *pool = es_pool_create(n_threads);
    double best = 0.0;
    reader r = {.data = memory, .n_words = n_words};
    for (int32_t i = 0; pool != NULL && i < 2 * repeats; i++) {
        const double start = now();
        es_pool_run(pool, i % 2 ? read_chunk_staged : read_chunk, &r, n_threads);
        const double speed = 1e-9 * (double)total / (now() - start);
        best = speed > best ? speed : best;
    }
    es_pool_destroy(pool);
    free(memory);
    return best;
}
