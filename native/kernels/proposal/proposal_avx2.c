/* The rough first pass over a head for AVX2. A block's sums of 16 bits stay within 4 * 2 * 3 * 128. */
#include "kernels.h"

#include "kernels/prefetch.h"

#include <immintrin.h>

enum { ROWS = 4 };

static inline __attribute__((always_inline)) int32_t sum8(__m256i v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_unpackhi_epi64(s, s));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 1)));
}

static inline __attribute__((always_inline)) void rows(int32_t *sums, const uint8_t *w,
                                                       size_t row_bytes, const int8_t *q,
                                                       es_ahead ahead, const int n) {
    const __m256i three = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
    __m256i acc[ROWS];
    for (int r = 0; r < n; r++) {
        acc[r] = _mm256_setzero_si256();
    }
    for (size_t j = 0; j < row_bytes; j += 32, q += 128) {
        const __m256i *x = (const __m256i *)(const void *)q;
        for (int r = 0; r < n; r++) {
            const uint8_t *at = w + (size_t)r * row_bytes + j;
            if (j % ES_CACHE_LINE == 0) {
                es_prefetch_stages(at, ahead);
            }
            const __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)at);
            __m256i s = _mm256_setzero_si256();
            for (int f = 0; f < 4; f++) {
                const __m256i code = _mm256_and_si256(_mm256_srli_epi16(v, 6 - 2 * f), three);
                s = _mm256_add_epi16(s, _mm256_maddubs_epi16(code, _mm256_loadu_si256(x + f)));
            }
            acc[r] = _mm256_add_epi32(acc[r], _mm256_madd_epi16(s, ones));
        }
    }
    for (int r = 0; r < n; r++) {
        sums[r] = sum8(acc[r]);
    }
}

static void proposal_dot(int32_t *sums, const uint8_t *w, size_t row_bytes, int32_t n_rows,
                         const int8_t *q) {
    const es_ahead ahead = es_groups_ahead(ROWS * row_bytes);
    int32_t r = 0;
    for (; r + ROWS <= n_rows; r += ROWS) {
        rows(sums + r, w + (size_t)r * row_bytes, row_bytes, q, ahead, ROWS);
    }
    for (; r < n_rows; r++) {
        rows(sums + r, w + (size_t)r * row_bytes, row_bytes, q, ahead, 1);
    }
}

void es_proposal_avx2(es_kernels *table) {
    table->proposal_dot = proposal_dot;
}
