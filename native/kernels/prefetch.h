/* How far ahead of a kernel's read position weights are asked for.
 *
 * One core's hardware prefetchers leave up to half of its memory bandwidth unused in a
 * matrix-vector product; one request per cache line, some kilobytes ahead, recovers most of it. */
#ifndef ES_PREFETCH_H
#define ES_PREFETCH_H

#include <stddef.h>
#include <stdint.h>

/* Bytes ahead. Other machines may like another distance: -DES_PREFETCH_BYTES=... at build time. */
#ifndef ES_PREFETCH_BYTES
#define ES_PREFETCH_BYTES 2048
#endif

/* Bytes ahead at which lines are asked for a first time, into the second-level cache; 0: they are not.
 * The few buffers between core and first level are then held for a short way only. One thread of an Emerald
 * Rapids server, whose bare reads run at 16.5 GB/s, gets 16.0 of q8 instead of 13.4, 16.4 of f16 instead
 * of 13.7, 15.4 of q6 instead of 13.1; 12 and 16 KiB do as well. In the second-level cache q8 loses 3 %. */
#ifndef ES_PREFETCH_FAR
#ifdef __x86_64__
#define ES_PREFETCH_FAR 8192
#else
#define ES_PREFETCH_FAR 0
#endif
#endif

enum { ES_CACHE_LINE = 64 };

/* Requests the lines of n_bytes that lie ES_PREFETCH_BYTES ahead of p (and ES_PREFETCH_FAR); the address
 * need not exist. Consecutive calls over adjacent runs miss no line, whatever the alignment. */
static inline __attribute__((always_inline)) void es_prefetch_ahead(const void *p, size_t n_bytes) {
    const uintptr_t ahead = (uintptr_t)p + ES_PREFETCH_BYTES;
    const uintptr_t far = (uintptr_t)p + ES_PREFETCH_FAR;
    for (size_t i = 0; i < n_bytes; i += ES_CACHE_LINE) {
        if (ES_PREFETCH_FAR > 0) {
            __builtin_prefetch((const void *)(far + i), 0, 2);
        }
        __builtin_prefetch((const void *)(ahead + i), 0, 3);
    }
}

/* How far beyond the bytes in work lines are asked for, as one group of rows or several: far ahead into the
 * second-level cache and one group ahead into the first, or, where ES_PREFETCH_FAR is 0, once. */
typedef struct es_ahead {
    size_t far, near;
} es_ahead;

/* The rows of a group are read side by side, so the stream moves on group by group: asking for the same
 * place in a later group keeps every line at the full distance, however long the rows. */
static inline es_ahead es_groups_ahead(size_t group_bytes) {
    const size_t near = ES_PREFETCH_FAR > 0 ? 1 : ES_PREFETCH_BYTES;
    return (es_ahead){(ES_PREFETCH_FAR + group_bytes - 1) / group_bytes * group_bytes,
                      (near + group_bytes - 1) / group_bytes * group_bytes};
}

/* Requests the cache line at p in a later group, or in two; the address need not exist. */
static inline __attribute__((always_inline)) void es_prefetch_stages(const void *p,
                                                                     es_ahead ahead) {
    if (ES_PREFETCH_FAR > 0) {
        __builtin_prefetch((const void *)((uintptr_t)p + ahead.far), 0, 2);
    }
    __builtin_prefetch((const void *)((uintptr_t)p + ahead.near), 0, 3);
}

#endif
