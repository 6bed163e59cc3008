/* Sequential read bandwidth: the ceiling that every decode speed is printed beside. */
#include "edgesparse.h"
#include "pool.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LINE = 64, AHEAD = 4096 };

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

static void read_chunk(void *context, int32_t chunk, int32_t thread) {
    reader *r = context;
    const uint64_t *p = r->data + (size_t)chunk * r->n_words;
    uint64_t lanes[8] = {0};
    for (size_t i = 0; i + 8 <= r->n_words; i += 8) {
        __builtin_prefetch((const char *)(p + i) + AHEAD, 0, 3);
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

double es_read_bandwidth(int32_t n_threads, size_t n_bytes, int32_t repeats) {
    const size_t n_words = n_bytes / LINE * (LINE / sizeof(uint64_t));
    const size_t total = n_words * sizeof(uint64_t) * (size_t)(n_threads > 0 ? n_threads : 0);
    void *memory = NULL;
    if (n_words == 0 || n_threads < 1 || n_threads > 1024 ||
        posix_memalign(&memory, 1u << 21, total) != 0) {
        return 0.0;
    }
    memset(memory, 1, total);
    es_pool *pool = es_pool_create(n_threads);
    double best = 0.0;
    reader r = {.data = memory, .n_words = n_words};
    for (int32_t i = 0; pool != NULL && i < repeats; i++) {
        const double start = now();
        es_pool_run(pool, read_chunk, &r, n_threads);
        const double speed = 1e-9 * (double)total / (now() - start);
        best = speed > best ? speed : best;
    }
    es_pool_destroy(pool);
    free(memory);
    return best;
}
