/* What a phase costs when it has no work: the floor under every op, times the phases of a token. */
#include "edgesparse.h"
#include "pool.h"

#include <stdint.h>
#include <stdlib.h>
#include <time.h>

enum { BATCHES = 21, CHUNKS_PER_THREAD = 4 }; /* as many chunks as a small product has */

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static void no_work(void *context, int32_t chunk, int32_t thread) {
    (void)context;
    (void)chunk;
    (void)thread;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Medians of batches: one interruption spoils one batch, not the result. */
double es_barrier_ns(int32_t n_threads, int32_t n_phases) {
    if (n_threads < 1 || n_threads > 1024 || n_phases < 1) {
        return -1.0;
    }
    es_pool *pool = es_pool_create(n_threads);
    if (pool == NULL) {
        return -1.0;
    }
    es_pool_never_alone(pool); /* working alone would hide the cost */
    double per_phase[BATCHES];
    const int32_t per_batch = (n_phases + BATCHES - 1) / BATCHES;
    for (int32_t batch = 0; batch < BATCHES; batch++) {
        const double start = now_ns();
        for (int32_t i = 0; i < per_batch; i++) {
            es_pool_run(pool, no_work, NULL, n_threads * CHUNKS_PER_THREAD);
        }
        per_phase[batch] = (now_ns() - start) / per_batch;
    }
    es_pool_destroy(pool);
    qsort(per_phase, BATCHES, sizeof *per_phase, ascending);
    return per_phase[BATCHES / 2];
}
