/* How far ahead of a kernel's read position weights are asked for.
 *
 * One core's hardware prefetchers leave about half of its memory bandwidth unused in a
 * matrix-vector product; one request per cache line, some kilobytes ahead, recovers it. */
#ifndef ES_PREFETCH_H
#define ES_PREFETCH_H

#include <stddef.h>
#include <stdint.h>

/* Bytes ahead; other machines may like another distance: -DES_PREFETCH_BYTES=… at build time. */
#ifndef ES_PREFETCH_BYTES
#define ES_PREFETCH_BYTES 4096
#endif

enum { ES_CACHE_LINE = 64 };

/* Requests the lines of n_bytes that lie ES_PREFETCH_BYTES ahead of p; the address need not exist.
 * Consecutive calls over adjacent runs miss no line, whatever the alignment. */
static inline __attribute__((always_inline)) void es_prefetch_ahead(const void *p, size_t n_bytes) {
    const uintptr_t ahead = (uintptr_t)p + ES_PREFETCH_BYTES;
    for (size_t i = 0; i < n_bytes; i += ES_CACHE_LINE) {
        __builtin_prefetch((const void *)(ahead + i), 0, 3);
    }
}

#endif
