/* A chunk of listed inputs of a neuron-major matrix: their packed rows and activations, ready for a
 * pass over all outputs. Shared by the SIMD variants of t2n_sums. */
#ifndef ES_SPARSE_CHUNK_H
#define ES_SPARSE_CHUNK_H

#include "kernels.h"
#include "kernels/prefetch.h"

#define ES_INLINE static inline __attribute__((always_inline))
enum { ES_CHUNK_INPUTS = 32 };

typedef struct es_chunk {
    const uint8_t *rows[ES_CHUNK_INPUTS];
    _Alignas(4) int8_t q[ES_CHUNK_INPUTS];
    int32_t n; /* inputs, rounded up to a multiple of `group`: the surplus ones have q = 0 */
} es_chunk;

ES_INLINE void es_chunk_fill(es_chunk *chunk, const uint8_t *w, size_t row_bytes,
                             const int32_t *inputs, int32_t n, const int8_t *q, int32_t group) {
    chunk->n = (n + group - 1) / group * group;
    /* All rows point somewhere: a longer chunk before this one asks for as many as it has itself. */
    for (int32_t i = 0; i < ES_CHUNK_INPUTS; i++) {
        const int32_t input = inputs[i < n ? i : n - 1];
        chunk->rows[i] = w + (size_t)input * row_bytes;
        chunk->q[i] = i < n ? q[input] : 0;
    }
}

ES_INLINE void es_chunk_prefetch(const es_chunk *chunk, size_t row_bytes) {
    for (int32_t i = 0; i < chunk->n; i++) {
        for (size_t b = 0; b < row_bytes; b += ES_CACHE_LINE) {
            __builtin_prefetch(chunk->rows[i] + b, 0, 3);
        }
    }
}

/* Calls pass(sums, row_bytes, now, next) for every chunk of the list; `next` is what to ask the memory
 * for meanwhile, and `now` itself at the end. */
ES_INLINE void es_chunks(int32_t *sums, const uint8_t *w, size_t row_bytes, const int32_t *inputs,
                         int32_t n_inputs, const int8_t *q, const int32_t group,
                         void (*pass)(int32_t *sums, size_t row_bytes, const es_chunk *now,
                                      const es_chunk *next)) {
    es_chunk chunks[2];
    if (n_inputs <= 0) {
        return;
    }
    int32_t n = n_inputs < ES_CHUNK_INPUTS ? n_inputs : ES_CHUNK_INPUTS;
    es_chunk_fill(&chunks[0], w, row_bytes, inputs, n, q, group);
    es_chunk_prefetch(&chunks[0], row_bytes);
    for (int32_t begin = 0, turn = 0; begin < n_inputs; turn ^= 1) {
        const es_chunk *now = &chunks[turn], *next = now;
        begin += n;
        if (begin < n_inputs) {
            n = n_inputs - begin < ES_CHUNK_INPUTS ? n_inputs - begin : ES_CHUNK_INPUTS;
            es_chunk_fill(&chunks[turn ^ 1], w, row_bytes, inputs + begin, n, q, group);
            next = &chunks[turn ^ 1];
        }
        pass(sums, row_bytes, now, next);
    }
}

#endif
