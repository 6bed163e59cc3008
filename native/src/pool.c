/* Every thread has a queue: a range of the job's chunks, which it takes from the front, one by one, so that
 * it walks through neighbouring chunks. A thread that has none left takes the last ones of other queues.
 *
 * Front and end are one 64-bit word, and every chunk is taken by a compare-and-swap on it. Whoever succeeds
 * owns a chunk of the job in progress, which cannot end without it; so only then it reads the job's function
 * and context, which lie in the queue's own cache line. The caller writes these first and the range last,
 * and needs nobody to take part: it may take every chunk itself. */
#include "pool.h"

#include "cpu.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    WORKER_SPINS = 4000, /* about 50–100 µs: longer than any gap inside a step */
    CALLER_SPINS = 4000
};

/* A worker that the operating system holds back while it has a chunk stalls everybody. The caller notices
 * (it waits far longer than a chunk takes) and works alone for a while, twice as long each time that it
 * finds the processors shared again; after a calm stretch it forgets. Times in nanoseconds. */
enum {
    STALL = 200000,   /* beyond any imbalance of a decode step */
    STALL_CHUNKS = 4, /* or this many of the caller's own chunks, for long prefill jobs */
    ALONE_LEAST = 2000000,
    ALONE_MOST = 500000000,
    CALM = 50000000
};

/* Two lines, since processors fetch neighbouring lines in pairs. */
typedef struct queue {
    _Alignas(128) _Atomic uint64_t range; /* first free chunk above, end below */
    _Atomic(es_chunk_fn *) fn;
    _Atomic(void *) context;
} queue;

typedef struct worker {
    es_pool *pool;
    int32_t thread;
    pthread_t handle;
} worker;

struct es_pool {
    _Alignas(
        128) _Atomic uint32_t n_done; /* chunks of all jobs that workers have run, modulo 2^32 */
    _Alignas(128) _Atomic int32_t n_sleeping; /* workers waiting on `work` */
    _Atomic int32_t caller_sleeps;            /* the caller waits on `finished` */
    _Atomic int32_t stop;
    pthread_mutex_t lock;
    pthread_cond_t work;
    pthread_cond_t finished;
    int32_t n_threads;
    int32_t n_workers;
    queue *queues; /* [n_threads] */
    worker *workers;
    uint32_t n_awaited;   /* the caller's own, as the next: n_done when the job is over */
    uint64_t alone_until; /* 0: not alone */
    uint64_t alone_for;
    int never_alone;
};

static uint64_t range_of(uint32_t first, uint32_t end) {
    return ((uint64_t)first << 32) | end;
}

static int is_empty(uint64_t range) {
    return (uint32_t)(range >> 32) >= (uint32_t)range;
}

/* Takes and runs one chunk of a queue, from its front or its end; 0 when there is none. */
static int run_one(queue *from, int at_front, int32_t thread) {
    uint64_t range = atomic_load_explicit(&from->range, memory_order_acquire);
    while (!is_empty(range)) {
        const uint32_t first = (uint32_t)(range >> 32), end = (uint32_t)range;
        const uint64_t rest = at_front ? range_of(first + 1, end) : range_of(first, end - 1);
        if (atomic_compare_exchange_weak_explicit(&from->range, &range, rest, memory_order_acq_rel,
                                                  memory_order_acquire)) {
            es_chunk_fn *fn = atomic_load_explicit(&from->fn, memory_order_relaxed);
            void *context = atomic_load_explicit(&from->context, memory_order_relaxed);
            fn(context, (int32_t)(at_front ? first : end - 1), thread);
            return 1;
        }
    }
    return 0;
}

/* Runs the chunks of the thread's own queue; returns how many. */
static uint32_t run_own(es_pool *pool, int32_t thread) {
    uint32_t n_run = 0;
    while (run_one(&pool->queues[thread], 1, thread)) {
        n_run++;
    }
    return n_run;
}

/* Runs chunks of other queues until none has one. */
static uint32_t run_others(es_pool *pool, int32_t thread) {
    uint32_t n_run = 0;
    for (int32_t i = 1; i < pool->n_threads; i++) {
        queue *other = &pool->queues[(thread + i) % pool->n_threads];
        while (run_one(other, 0, thread)) {
            n_run++;
        }
    }
    return n_run;
}

/* A worker's chunks count once it tells. */
static void tell(es_pool *pool, uint32_t n_run) {
    if (n_run == 0) {
        return;
    }
    atomic_fetch_add(&pool->n_done, n_run);
    if (atomic_load(&pool->caller_sleeps)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_signal(&pool->finished);
        pthread_mutex_unlock(&pool->lock);
    }
}

static int has_work(const es_pool *pool, int32_t thread) {
    return !is_empty(atomic_load_explicit(&pool->queues[thread].range, memory_order_acquire)) ||
           atomic_load_explicit(&pool->stop, memory_order_relaxed);
}

/* Returns when there is work, or the pool is to stop; sleeps after a bounded spin. */
static void wait_for_work(es_pool *pool, int32_t thread) {
    for (int32_t i = 0; i < WORKER_SPINS; i++) {
        if (has_work(pool, thread)) {
            return;
        }
        es_cpu_relax();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->n_sleeping, 1);
    while (!has_work(pool, thread)) {
        pthread_cond_wait(&pool->work, &pool->lock);
    }
    atomic_fetch_sub(&pool->n_sleeping, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void *work(void *argument) {
    const worker *self = argument;
    es_pool *pool = self->pool;
    while (!atomic_load_explicit(&pool->stop, memory_order_relaxed)) {
        wait_for_work(pool, self->thread);
        tell(pool, run_own(pool, self->thread)); /* before looking at lines of other threads */
        tell(pool, run_others(pool, self->thread));
    }
    return NULL;
}

es_pool *es_pool_create(int32_t n_threads) {
    es_pool *pool = NULL;
    if (n_threads < 1 || posix_memalign((void **)&pool, _Alignof(es_pool), sizeof *pool) != 0) {
        return NULL;
    }
    *pool = (es_pool){.n_threads = n_threads};
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->finished, NULL);
    pool->workers = calloc((size_t)n_threads, sizeof *pool->workers);
    const size_t n_bytes = (size_t)n_threads * sizeof *pool->queues;
    if (pool->workers == NULL ||
        posix_memalign((void **)&pool->queues, _Alignof(queue), n_bytes) != 0) {
        pool->queues = NULL;
        es_pool_destroy(pool);
        return NULL;
    }
    memset(pool->queues, 0, n_bytes);
    for (int32_t i = 0; i < n_threads - 1; i++) {
        pool->workers[i] = (worker){.pool = pool, .thread = i + 1};
        if (pthread_create(&pool->workers[i].handle, NULL, work, &pool->workers[i]) != 0) {
            es_pool_destroy(pool);
            return NULL;
        }
        pool->n_workers = i + 1;
    }
    return pool;
}

void es_pool_destroy(es_pool *pool) {
    if (pool == NULL) {
        return;
    }
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->stop, 1);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (int32_t i = 0; i < pool->n_workers; i++) {
        pthread_join(pool->workers[i].handle, NULL);
    }
    pthread_cond_destroy(&pool->finished);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    free(pool->queues);
    free(pool->workers);
    free(pool);
}

void es_pool_never_alone(es_pool *pool) {
    pool->never_alone = 1;
}

int32_t es_pool_threads(const es_pool *pool) {
    return pool->n_threads;
}

static int is_done(es_pool *pool) {
    return atomic_load_explicit(&pool->n_done, memory_order_acquire) == pool->n_awaited;
}

static void wait_until_done(es_pool *pool) {
    for (int32_t i = 0; i < CALLER_SPINS; i++) {
        if (is_done(pool)) {
            return;
        }
        es_cpu_relax();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->caller_sleeps, 1);
    while (atomic_load(&pool->n_done) != pool->n_awaited) {
        pthread_cond_wait(&pool->finished, &pool->lock);
    }
    atomic_store(&pool->caller_sleeps, 0);
    pthread_mutex_unlock(&pool->lock);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Decides after a job whether the next ones are better done alone. */
static void judge_wait(es_pool *pool, uint64_t start, uint64_t own_end, uint32_t n_run) {
    const uint64_t end = now_ns();
    if (n_run > 0 && end - own_end > STALL + STALL_CHUNKS * ((own_end - start) / n_run)) {
        const uint64_t twice = 2 * pool->alone_for;
        pool->alone_for = twice < ALONE_LEAST  ? ALONE_LEAST
                          : twice > ALONE_MOST ? ALONE_MOST
                                               : twice;
        pool->alone_until = end + pool->alone_for;
    } else if (end > pool->alone_until + CALM) {
        pool->alone_for = 0;
    }
}

/* The caller's queue opens first, and holds the larger part: workers take a moment to see theirs. */
static void open_queues(es_pool *pool, es_chunk_fn *fn, void *context, int32_t n_chunks) {
    const int32_t n_threads = pool->n_threads;
    int64_t first = 0;
    for (int32_t i = 0; i < n_threads && first < n_chunks; i++) {
        const int64_t end = ((int64_t)n_chunks * (i + 1) + n_threads - 1) / n_threads;
        queue *own = &pool->queues[i];
        atomic_store_explicit(&own->fn, fn, memory_order_relaxed);
        atomic_store_explicit(&own->context, context, memory_order_relaxed);
        atomic_store_explicit(&own->range, range_of((uint32_t)first, (uint32_t)end),
                              memory_order_release);
        first = end;
    }
}

void es_pool_run(es_pool *pool, es_chunk_fn *fn, void *context, int32_t n_chunks) {
    const uint64_t start = pool->n_workers > 0 ? now_ns() : 0;
    if (pool->n_workers == 0 || n_chunks < 2 || start < pool->alone_until) {
        for (int32_t chunk = 0; chunk < n_chunks; chunk++) {
            fn(context, chunk, 0);
        }
        return;
    }
    open_queues(pool, fn, context, n_chunks);
    /* A worker that falls asleep unseen here sleeps through a job that the caller can do. */
    if (atomic_load_explicit(&pool->n_sleeping, memory_order_relaxed) > 0) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->lock);
    }
    uint32_t n_run = run_own(pool, 0);
    n_run += run_others(pool, 0);
    pool->n_awaited += (uint32_t)n_chunks - n_run;
    if (is_done(pool)) {
        return;
    }
    const uint64_t own_end = now_ns();
    wait_until_done(pool);
    if (!pool->never_alone) {
        judge_wait(pool, start, own_end, n_run);
    }
}
