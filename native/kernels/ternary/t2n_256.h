/* Neuron-major panels in 256-bit registers, for the x86 variants. */
#ifndef ES_T2N_256_H
#define ES_T2N_256_H

#include "ternary_panel.h"

#include <immintrin.h>

typedef __m256i t2n_vec;
enum { T2N_LANES = 8 };

ES_INLINE void t2n_interleave(__m256i out[4], const uint8_t *const w[4]) {
    __m256i row[4];
    ES_UNROLL
    for (int r = 0; r < 4; r++) {
        row[r] = _mm256_loadu_si256((const __m256i *)w[r]);
    }
    const __m256i lo01 = _mm256_unpacklo_epi8(row[0], row[1]);
    const __m256i hi01 = _mm256_unpackhi_epi8(row[0], row[1]);
    const __m256i lo23 = _mm256_unpacklo_epi8(row[2], row[3]);
    const __m256i hi23 = _mm256_unpackhi_epi8(row[2], row[3]);
    const __m256i v0 = _mm256_unpacklo_epi16(lo01, lo23), v1 = _mm256_unpackhi_epi16(lo01, lo23);
    const __m256i v2 = _mm256_unpacklo_epi16(hi01, hi23), v3 = _mm256_unpackhi_epi16(hi01, hi23);
    out[0] = _mm256_permute2x128_si256(v0, v1, 0x20);
    out[1] = _mm256_permute2x128_si256(v2, v3, 0x20);
    out[2] = _mm256_permute2x128_si256(v0, v1, 0x31);
    out[3] = _mm256_permute2x128_si256(v2, v3, 0x31);
}

ES_INLINE __m256i t2n_codes(__m256i packed, const int shift) {
    return _mm256_and_si256(_mm256_srli_epi16(packed, shift), _mm256_set1_epi8(3));
}

ES_INLINE void t2n_store(uint8_t *p, __m256i v) {
    _mm256_store_si256((__m256i *)p, v);
}

#include "t2n_panel.h"

#endif
