/* A persistent thread pool: workers spin for a bounded time, then sleep.
 *
 * A job is a number of chunks. Threads take chunks until none is left, and the job is over when every
 * chunk is done, not when every thread has reported: a worker that the operating system holds back
 * delays nobody unless it holds a chunk. When that happens (a busy neighbour), the caller works alone
 * for a while. */
#ifndef ES_POOL_H
#define ES_POOL_H

#include <stdint.h>

typedef struct es_pool es_pool;

/* chunk < n_chunks; thread < n_threads and unique among the threads of a running job. */
typedef void es_chunk_fn(void *context, int32_t chunk, int32_t thread);

/* n_threads counts the caller. NULL when memory or threads cannot be had. */
es_pool *es_pool_create(int32_t n_threads);
void es_pool_destroy(es_pool *pool);
int32_t es_pool_threads(const es_pool *pool);

/* Keeps using the workers even when others want their processors: for tests of the pool itself. */
void es_pool_never_alone(es_pool *pool);

/* Runs all chunks; returns when all are done. The caller takes part as thread 0. */
void es_pool_run(es_pool *pool, es_chunk_fn *fn, void *context, int32_t n_chunks);

#endif
