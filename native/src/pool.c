/* The pool's state is one 64-bit ticket: a generation above, the next free chunk below. A worker takes a
 * chunk with a compare-and-swap on the whole ticket, so one that wakes up late can never take a chunk of a
 * newer job with an older function: its ticket no longer matches.
 *
 * A job's fields may only change while no ticket admits a chunk. So the caller first closes the ticket (next
 * generation, no chunk free), then writes the fields, then opens the one after. Without the closing step a
 * late worker could read the finished job's ticket together with the new job's larger number of chunks. */
#include "pool.h"

#include "cpu.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define CLOSED 0xffffffffu /* a chunk number that no job has */

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

typedef struct worker {
    es_pool *pool;
    int32_t thread;
    pthread_t handle;
} worker;

struct es_pool {
    _Alignas(64) _Atomic uint64_t ticket;
    _Alignas(64) _Atomic int32_t n_done;
    _Alignas(64) _Atomic(es_chunk_fn *) fn;
    _Atomic(void *) context;
    _Atomic int32_t n_chunks;
    _Atomic int32_t n_sleeping;    /* workers waiting on `work` */
    _Atomic int32_t caller_sleeps; /* the caller waits on `finished` */
    _Atomic int32_t stop;
    pthread_mutex_t lock;
    pthread_cond_t work;
    pthread_cond_t finished;
    int32_t n_threads;
    int32_t n_workers;
    worker *workers;
    uint64_t alone_until; /* the caller's own, as the next */
    uint64_t alone_for;
    int never_alone;
};

static uint32_t job_of(uint64_t ticket) {
    return (uint32_t)(ticket >> 32);
}

/* Takes chunks of one generation until none is left. The fields are valid whenever the swap succeeds: a
 * worker that saw a newer field (acquire) also sees the ticket that was closed before it was written. */
static int32_t take_chunks(es_pool *pool, uint32_t job, int32_t thread) {
    int32_t taken = 0;
    uint64_t ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    while (job_of(ticket) == job) {
        const uint32_t chunk = (uint32_t)ticket;
        const int32_t n_chunks = atomic_load_explicit(&pool->n_chunks, memory_order_acquire);
        es_chunk_fn *fn = atomic_load_explicit(&pool->fn, memory_order_acquire);
        void *context = atomic_load_explicit(&pool->context, memory_order_acquire);
        if (chunk >= (uint32_t)n_chunks) {
            break;
        }
        if (!atomic_compare_exchange_weak_explicit(&pool->ticket, &ticket, ticket + 1,
                                                   memory_order_acq_rel, memory_order_acquire)) {
            continue;
        }
        fn(context, (int32_t)chunk, thread);
        taken++;
        const int32_t done = atomic_fetch_add(&pool->n_done, 1) + 1;
        if (done == n_chunks && thread != 0 && atomic_load(&pool->caller_sleeps)) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->finished);
            pthread_mutex_unlock(&pool->lock);
        }
        ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    }
    return taken;
}

/* Returns the number of a job other than `seen`; sleeps after a bounded spin. */
static uint32_t wait_for_job(es_pool *pool, uint32_t seen) {
    for (int32_t i = 0; i < WORKER_SPINS; i++) {
        const uint32_t job = job_of(atomic_load_explicit(&pool->ticket, memory_order_acquire));
        if (job != seen || atomic_load_explicit(&pool->stop, memory_order_relaxed)) {
            return job;
        }
        es_cpu_relax();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->n_sleeping, 1);
    while (job_of(atomic_load(&pool->ticket)) == seen && !atomic_load(&pool->stop)) {
        pthread_cond_wait(&pool->work, &pool->lock);
    }
    atomic_fetch_sub(&pool->n_sleeping, 1);
    pthread_mutex_unlock(&pool->lock);
    return job_of(atomic_load_explicit(&pool->ticket, memory_order_acquire));
}

static void *work(void *argument) {
    const worker *self = argument;
    es_pool *pool = self->pool;
    uint32_t seen = 0;
    while (!atomic_load_explicit(&pool->stop, memory_order_relaxed)) {
        seen = wait_for_job(pool, seen);
        take_chunks(pool, seen, self->thread);
    }
    return NULL;
}

es_pool *es_pool_create(int32_t n_threads) {
    es_pool *pool = NULL;
    if (n_threads < 1 || posix_memalign((void **)&pool, 64, sizeof *pool) != 0) {
        return NULL;
    }
    *pool = (es_pool){.n_threads = n_threads};
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->finished, NULL);
    pool->workers = calloc((size_t)n_threads, sizeof *pool->workers);
    if (pool->workers == NULL) {
        es_pool_destroy(pool);
        return NULL;
    }
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
    free(pool->workers);
    free(pool);
}

void es_pool_never_alone(es_pool *pool) {
    pool->never_alone = 1;
}

int32_t es_pool_threads(const es_pool *pool) {
    return pool->n_threads;
}

static void wait_until_done(es_pool *pool, int32_t n_chunks) {
    for (int32_t i = 0; i < CALLER_SPINS; i++) {
        if (atomic_load_explicit(&pool->n_done, memory_order_acquire) == n_chunks) {
            return;
        }
        es_cpu_relax();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->caller_sleeps, 1);
    while (atomic_load(&pool->n_done) != n_chunks) {
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
static void judge_wait(es_pool *pool, uint64_t start, uint64_t own_end, int32_t taken) {
    const uint64_t end = now_ns();
    const uint64_t chunk = taken > 0 ? (own_end - start) / (uint64_t)taken : 0;
    if (pool->never_alone) {
        return;
    }
    if (taken > 0 && end - own_end > STALL + STALL_CHUNKS * chunk) {
        pool->alone_for *= 2;
        pool->alone_for = pool->alone_for < ALONE_LEAST ? ALONE_LEAST : pool->alone_for;
        pool->alone_for = pool->alone_for > ALONE_MOST ? ALONE_MOST : pool->alone_for;
        pool->alone_until = end + pool->alone_for;
    } else if (end > pool->alone_until + CALM) {
        pool->alone_for = 0;
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
    /* Only the caller moves generations. Generation 0 is what idle workers have seen at the start. */
    uint32_t job = job_of(atomic_load_explicit(&pool->ticket, memory_order_relaxed)) + 1;
    atomic_store(&pool->ticket, ((uint64_t)job << 32) | CLOSED);
    atomic_store_explicit(&pool->fn, fn, memory_order_release);
    atomic_store_explicit(&pool->context, context, memory_order_release);
    atomic_store_explicit(&pool->n_chunks, n_chunks, memory_order_release);
    atomic_store_explicit(&pool->n_done, 0, memory_order_release);
    job++;
    atomic_store(&pool->ticket, (uint64_t)job << 32);
    if (atomic_load(&pool->n_sleeping) > 0) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->lock);
    }
    const int32_t taken = take_chunks(pool, job, 0);
    const uint64_t own_end = now_ns();
    wait_until_done(pool, n_chunks);
    judge_wait(pool, start, own_end, taken);
}
