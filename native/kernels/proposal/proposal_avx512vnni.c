/* The rough first pass over a head for AVX-512 VNNI: two blocks of 128 codes to a register.
 *
 * Two fields of every byte are left where they are, four times too large; they add up apart. That is
 * exact for k up to 2^20: a lane gains 4 * 12 * 128 per block at most. */
#include "kernels.h"

#include "kernels/prefetch.h"

#include <immintrin.h>

enum { ROWS = 8 };

/* Field f of two blocks' activations, or of one and zeros. */
static inline __attribute__((always_inline)) __m512i field(const int8_t *q, int f, int is_pair) {
    const __m256i *x = (const __m256i *)(const void *)(q + 32 * f);
    const __m512i low = _mm512_zextsi256_si512(_mm256_loadu_si256(x));
    return is_pair ? _mm512_inserti64x4(low, _mm256_loadu_si256(x + 4), 1) : low;
}

static inline __attribute__((always_inline)) void step(__m512i *one, __m512i *four,
                                                       const uint8_t *w, size_t row_bytes,
                                                       const int8_t *q, es_ahead ahead,
                                                       const int is_pair, const int n) {
    const __m512i low = _mm512_set1_epi8(3), high = _mm512_set1_epi8(12);
    const __m512i x0 = field(q, 0, is_pair), x1 = field(q, 1, is_pair);
    const __m512i x2 = field(q, 2, is_pair), x3 = field(q, 3, is_pair);
    for (int r = 0; r < n; r++) {
        const uint8_t *at = w + (size_t)r * row_bytes;
        es_prefetch_stages(at, ahead);
        const __m512i v =
            is_pair ? _mm512_loadu_si512(at)
                    : _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)at));
        const __m512i u = _mm512_srli_epi16(v, 4);
        one[r] = _mm512_dpbusd_epi32(one[r], _mm512_and_si512(u, low), x1);
        four[r] = _mm512_dpbusd_epi32(four[r], _mm512_and_si512(u, high), x0);
        one[r] = _mm512_dpbusd_epi32(one[r], _mm512_and_si512(v, low), x3);
        four[r] = _mm512_dpbusd_epi32(four[r], _mm512_and_si512(v, high), x2);
    }
}

static inline __attribute__((always_inline)) void
rows(int32_t *sums, const uint8_t *w, size_t row_bytes, const int8_t *q, const int n) {
    __m512i one[ROWS], four[ROWS];
    for (int r = 0; r < n; r++) {
        one[r] = four[r] = _mm512_setzero_si512();
    }
    const es_ahead ahead = es_groups_ahead((size_t)n * row_bytes);
    size_t j = 0;
    for (; j + 64 <= row_bytes; j += 64, q += 256) {
        step(one, four, w + j, row_bytes, q, ahead, 1, n);
    }
    if (j < row_bytes) {
        step(one, four, w + j, row_bytes, q, ahead, 0, n);
    }
    for (int r = 0; r < n; r++) {
        sums[r] = _mm512_reduce_add_epi32(_mm512_add_epi32(one[r], _mm512_srai_epi32(four[r], 2)));
    }
}

static void proposal_dot(int32_t *sums, const uint8_t *w, size_t row_bytes, int32_t n_rows,
                         const int8_t *q) {
    int32_t r = 0;
    for (; r + ROWS <= n_rows; r += ROWS) {
        rows(sums + r, w + (size_t)r * row_bytes, row_bytes, q, ROWS);
    }
    for (; r < n_rows; r++) {
        rows(sums + r, w + (size_t)r * row_bytes, row_bytes, q, 1);
    }
}

void es_proposal_avx512vnni(es_kernels *table) {
    table->proposal_dot = proposal_dot;
}
