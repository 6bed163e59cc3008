/* The pool under a storm of small jobs: every chunk of every job runs exactly once, with its own
 * job's context. A lost wake-up shows as a hang, which the alarm turns into a failure. */
#include "check.h"

#include "pool.h"

#include <stdatomic.h>
#include <unistd.h>

enum { MAX_CHUNKS = 40, N_JOBS = 30000, LIMIT_S = 300 };

typedef struct storm {
    int32_t n_chunks;
    int32_t n_threads;
    _Atomic int32_t runs[MAX_CHUNKS];
    _Atomic int32_t strays; /* chunks or threads outside their range */
} storm;

static void run_chunk(void *context, int32_t chunk, int32_t thread) {
    storm *job = context;
    if (chunk < 0 || chunk >= job->n_chunks || thread < 0 || thread >= job->n_threads) {
        atomic_fetch_add(&job->strays, 1);
        return;
    }
    atomic_fetch_add(&job->runs[chunk], 1);
}

static int64_t failures_of(storm *job) {
    int64_t failures = atomic_exchange(&job->strays, 0);
    for (int32_t chunk = 0; chunk < MAX_CHUNKS; chunk++) {
        failures += atomic_exchange(&job->runs[chunk], 0) != (chunk < job->n_chunks);
    }
    return failures;
}

int check_pool(void) {
    int64_t n_cases = 0, n_failures = 0;
    uint64_t random = 7;
    alarm(LIMIT_S);
    for (int32_t n_threads = 1; n_threads <= 4; n_threads++) {
        es_pool *pool = es_pool_create(n_threads);
        if (pool == NULL) {
            n_failures++;
            continue;
        }
        es_pool_never_alone(pool);
        /* Two contexts in turn: a chunk of the wrong job lands in the wrong one. */
        storm jobs[2] = {{.n_threads = n_threads}, {.n_threads = n_threads}};
        for (int32_t i = 0; i < N_JOBS; i++) {
            if (check_skips()) {
                continue;
            }
            storm *job = &jobs[i & 1];
            job->n_chunks = (int32_t)(check_random(&random) % (MAX_CHUNKS + 1));
            es_pool_run(pool, run_chunk, job, job->n_chunks);
            n_failures += failures_of(job);
            n_cases++;
        }
        es_pool_destroy(pool);
    }
    alarm(0);
    return check_report("pool", -1, n_cases, n_failures);
}
