/* Rows of the q8_0 cache in plain C: everything but the rounding of the store is exact, so that a
 * compiler may vectorise it as it likes. */
#ifndef ES_CACHE_ROWS_H
#define ES_CACHE_ROWS_H

#include "kernels.h"
#include "kernels/half.h"
#include "kernels/prefetch.h"
#include "kernels/vector/vector.h"

#include <string.h>

/* Rows that a SIMD kernel works on: as they lie in the cache, or widened floats. */
typedef enum es_source_kind {
    ES_SOURCE_F32,
    ES_SOURCE_F16,
    ES_SOURCE_Q8_0,
    ES_SOURCE_PRUNED
} es_source_kind;

typedef struct es_source_rows {
    const uint8_t *data;
    size_t row_bytes;
    es_source_kind kind;
} es_source_rows;

/* Where element i of a row lies; for q8_0, its block. */
static inline __attribute__((always_inline)) size_t es_source_offset(es_source_kind kind,
                                                                     size_t i) {
    return kind == ES_SOURCE_F32   ? i * sizeof(float)
           : kind == ES_SOURCE_F16 ? i * sizeof(uint16_t)
                                   : i / ES_CACHE_BLOCK * ES_CACHE_BLOCK_BYTES;
}

/* Row r of n; beyond the last it is the last again. */
static inline __attribute__((always_inline)) const uint8_t *
es_source_row(const es_source_rows *rows, int32_t r, int32_t n) {
    return rows->data + (size_t)(r < n ? r : n - 1) * rows->row_bytes;
}

/* Asks for the lines of n_bytes at p; the address need not exist. */
static inline __attribute__((always_inline)) void es_prefetch_lines(const uint8_t *p,
                                                                    size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i += ES_CACHE_LINE) {
        __builtin_prefetch((const void *)((uintptr_t)p + i), 0, 3);
    }
}

/* Asks for what lies ahead of a row of the cache. */
static inline __attribute__((always_inline)) void es_prefetch_row(const uint8_t *row,
                                                                  const es_source_rows *rows) {
    if (rows->kind != ES_SOURCE_F32) {
        es_prefetch_ahead(row, rows->row_bytes);
    }
}

/* n elements as floats. A code has 8 bits and a step 11, so that no product is rounded. */
static inline __attribute__((always_inline)) void es_widen_q8_0(float *to, const uint8_t *from,
                                                                int32_t n) {
    for (; n > 0; n -= ES_CACHE_BLOCK, from += ES_CACHE_BLOCK_BYTES, to += ES_CACHE_BLOCK) {
        uint16_t half;
        int8_t codes[ES_CACHE_BLOCK];
        memcpy(&half, from, sizeof half);
        memcpy(codes, from + sizeof half, sizeof codes);
        const float step = es_half_to_float(half);
        if (n >= ES_CACHE_BLOCK) {
            for (int i = 0; i < ES_CACHE_BLOCK; i++) {
                to[i] = (float)codes[i] * step;
            }
        } else {
            for (int i = 0; i < n; i++) {
                to[i] = (float)codes[i] * step;
            }
        }
    }
}

/* Quantises n elements; the last block is filled with zeros. */
static inline void es_store_q8_0(uint8_t *to, const float *x, int32_t n) {
    for (; n > 0; n -= ES_CACHE_BLOCK, to += ES_CACHE_BLOCK_BYTES, x += ES_CACHE_BLOCK) {
        const int count = n < ES_CACHE_BLOCK ? n : ES_CACHE_BLOCK;
        float amax = 0.0f;
        for (int i = 0; i < count; i++) {
            const float magnitude = x[i] < 0.0f ? -x[i] : x[i];
            amax = magnitude > amax ? magnitude : amax;
        }
        const int live = amax >= 1e-30f;
        const float inverse = live ? 127.0f / amax : 0.0f;
        const uint16_t step = es_float_to_half(live ? amax / 127.0f : 0.0f);
        int8_t codes[ES_CACHE_BLOCK] = {0};
        for (int i = 0; i < count; i++) {
            codes[i] = (int8_t)(int32_t)es_round(es_clamp(x[i] * inverse, -127.0f, 127.0f));
        }
        memcpy(to, &step, sizeof step);
        memcpy(to + sizeof step, codes, sizeof codes);
    }
}

#endif
