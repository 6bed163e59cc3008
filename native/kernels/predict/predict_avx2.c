/* Sign planes in 256-bit registers: bits are counted by halves of a byte, looked up with vpshufb. */
#include "predict.h"

#include "kernels/prefetch.h"

#include <immintrin.h>
#include <string.h>

static void sign_bits(uint8_t *bits, size_t n_bytes, const float *x, int32_t n) {
    const __m256 zero = _mm256_setzero_ps();
    int32_t i = 0;
    memset(bits, 0, n_bytes);
    for (; i + 8 <= n; i += 8) {
        const __m256 below = _mm256_cmp_ps(_mm256_loadu_ps(x + i), zero, _CMP_LT_OQ);
        bits[i / 8] = (uint8_t)_mm256_movemask_ps(below);
    }
    for (; i < n; i++) {
        bits[i / 8] = (uint8_t)(bits[i / 8] | (x[i] < 0.0f) << i % 8);
    }
}

/* Set bits of every byte, 0 to 8. */
ES_INLINE __m256i byte_counts(__m256i v) {
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1,
                                           2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i right = _mm256_and_si256(v, low);
    const __m256i left = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
    return _mm256_add_epi8(_mm256_shuffle_epi8(table, right), _mm256_shuffle_epi8(table, left));
}

ES_INLINE int32_t count(const uint8_t *w, size_t plane_bytes, const uint8_t *x, const int masked) {
    __m256i sums = _mm256_setzero_si256();
    for (size_t b = 0; b < plane_bytes; b += ES_SIGN_RUN) {
        es_prefetch_ahead(w + b, ES_SIGN_RUN);
        __m256i v = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(w + b)),
                                     _mm256_loadu_si256((const __m256i *)(x + b)));
        if (masked) {
            es_prefetch_ahead(w + plane_bytes + b, ES_SIGN_RUN);
            v = _mm256_and_si256(v, _mm256_loadu_si256((const __m256i *)(w + plane_bytes + b)));
        }
        sums = _mm256_add_epi64(sums, _mm256_sad_epu8(byte_counts(v), _mm256_setzero_si256()));
    }
    const __m128i two =
        _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    return (int32_t)(_mm_cvtsi128_si64(two) + _mm_extract_epi64(two, 1));
}

static void sign_votes(int32_t *votes, const uint8_t *w, size_t plane_bytes, int32_t masked,
                       int32_t n_rows, const uint8_t *x) {
    for (int32_t r = 0; r < n_rows; r++) {
        if (masked) {
            votes[r] = count(w, plane_bytes, x, 1);
            w += 2 * plane_bytes;
        } else {
            votes[r] = count(w, plane_bytes, x, 0);
            w += plane_bytes;
        }
    }
}

void es_predict_avx2(es_kernels *table) {
    table->sign_bits = sign_bits;
    table->sign_votes = sign_votes;
    table->signs_variant = "avx2";
}
