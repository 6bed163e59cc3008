/* Bit slices by columns with vectors of 32 bytes: what the AVX2, AVX-VNNI and AVX-512 variants share. */
#ifndef ES_SLICE_COLUMNS256_H
#define ES_SLICE_COLUMNS256_H

#include "kernels/bitslice/slice_256.h"

/* panel[quad][row][column in the quad] */
ES_INLINE void unpack_columns(uint8_t *panel, const uint8_t *codes, size_t column, size_t half,
                              const int planes) {
    const __m256i mask = _mm256_set1_epi8(planes == 2 ? 3 : 15);
    for (int quad = 0; quad < 8; quad++, codes += 4 * column) {
        for (size_t i = 0; i < 2; i++) {
            /* Two bits: 32 rows of each of two places in a byte; else: 32 bytes of the line. */
            const size_t at = planes == 2 ? 0 : 32 * i;
            const __m128i shift =
                _mm_cvtsi32_si128((int)(planes == 2 ? 4 * half + 2 * i : 4 * half));
            __m256i c[4];
            for (size_t n = 0; n < 4; n++) {
                c[n] = _mm256_loadu_si256((const __m256i *)(codes + n * column + at));
                c[n] = _mm256_and_si256(_mm256_srl_epi16(c[n], shift), mask);
            }
            const __m256i a = _mm256_unpacklo_epi8(c[0], c[1]),
                          b = _mm256_unpacklo_epi8(c[2], c[3]);
            const __m256i d = _mm256_unpackhi_epi8(c[0], c[1]),
                          e = _mm256_unpackhi_epi8(c[2], c[3]);
            /* 8 rows each, that many apart. */
            const size_t first = planes == 2 ? 32 * i : 8 * i, apart = planes == 2 ? 8 : 16;
            __m256i *to = (__m256i *)(panel + (size_t)quad * 4 * ES_SLICE_ROWS + 4 * first);
            _mm256_store_si256(to, _mm256_unpacklo_epi16(a, b));
            _mm256_store_si256(to + apart / 8, _mm256_unpackhi_epi16(a, b));
            _mm256_store_si256(to + 2 * apart / 8, _mm256_unpacklo_epi16(d, e));
            _mm256_store_si256(to + 3 * apart / 8, _mm256_unpackhi_epi16(d, e));
        }
    }
}

/* Bit i of the result: q[i] != 0, for 32 inputs. */
ES_INLINE uint32_t live_bytes(const int8_t *q) {
    const __m256i x = _mm256_loadu_si256((const __m256i *)q);
    return ~(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(x, _mm256_setzero_si256()));
}

#endif
