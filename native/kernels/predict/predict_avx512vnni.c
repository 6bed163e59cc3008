/* Sign planes in 512-bit registers, counted by vpopcntq.
 *
 * The first processors of this level have no vpopcntq (AVX512_VPOPCNTDQ); there the 256-bit kernels
 * stay in the table. */
#include "predict.h"

#include "kernels/prefetch.h"

#include <immintrin.h>

#define POPCNT __attribute__((target("avx512vpopcntdq")))

ES_INLINE POPCNT __m512i differ(__mmask8 lanes, const uint8_t *w, size_t plane_bytes,
                                const uint8_t *x, const int masked) {
    __m512i v =
        _mm512_xor_si512(_mm512_maskz_loadu_epi64(lanes, w), _mm512_maskz_loadu_epi64(lanes, x));
    if (masked) {
        v = _mm512_and_si512(v, _mm512_maskz_loadu_epi64(lanes, w + plane_bytes));
    }
    return _mm512_popcnt_epi64(v);
}

ES_INLINE POPCNT int32_t count(const uint8_t *w, size_t plane_bytes, const uint8_t *x,
                               const int masked) {
    __m512i sums = _mm512_setzero_si512();
    size_t b = 0;
    for (; b + 64 <= plane_bytes; b += 64) {
        es_prefetch_ahead(w + b, 64);
        if (masked) {
            es_prefetch_ahead(w + plane_bytes + b, 64);
        }
        sums = _mm512_add_epi64(sums, differ(0xFF, w + b, plane_bytes, x + b, masked));
    }
    if (b < plane_bytes) {
        sums = _mm512_add_epi64(sums, differ(0x0F, w + b, plane_bytes, x + b, masked));
    }
    return (int32_t)_mm512_reduce_add_epi64(sums);
}

static POPCNT void sign_votes(int32_t *votes, const uint8_t *w, size_t plane_bytes, int32_t masked,
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

void es_predict_avx512vnni(es_kernels *table) {
    if (__builtin_cpu_supports("avx512vpopcntdq")) {
        table->sign_votes = sign_votes;
        table->signs_variant = "avx512vpopcnt";
    }
}
