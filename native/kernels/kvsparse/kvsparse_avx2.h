/* Pruned rows of the cache, eight elements at a time, for kernels of AVX2. */
#ifndef ES_KVSPARSE_AVX2_H
#define ES_KVSPARSE_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

/* [b] puts the first popcount(b) halfs of a register where the bits of b are set, zeros elsewhere. */
extern uint8_t es_half_places[256][16];

/* Eight elements whose bits are `bits`; moves `kept` behind them, and reads 16 bytes from there. */
static inline __attribute__((always_inline)) __m128i es_next_halfs(const uint8_t **kept,
                                                                   size_t bits) {
    const __m128i packed = _mm_loadu_si128((const __m128i *)(const void *)*kept);
    const __m128i order = _mm_load_si128((const __m128i *)(const void *)es_half_places[bits]);
    *kept += 2 * (size_t)(unsigned)__builtin_popcountll(bits);
    return _mm_shuffle_epi8(packed, order);
}

#endif
