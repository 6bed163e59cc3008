/* The building blocks of edgesparse/ops/README.md for AVX2.
 *
 * Sixteen lanes are two registers. Where values run out, a masked load puts zeros: a lane that
 * starts at +0 and is only added to is never -0, so adding +0 leaves its bits alone. */
#ifndef ES_VECTOR_AVX2_H
#define ES_VECTOR_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#define ES_INLINE_AVX2 static inline __attribute__((always_inline))

/* Ones in the first n lanes; n of 8 and more is all of them, below 1 none. */
ES_INLINE_AVX2 __m256i es_first_lanes(int32_t n) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lanes);
}

/* The first n of eight floats, then zeros; touches no byte beyond them. */
ES_INLINE_AVX2 __m256 es_load_first(const float *p, int32_t n) {
    return _mm256_maskload_ps(p, es_first_lanes(n));
}

ES_INLINE_AVX2 void es_store_first(float *p, __m256 v, int32_t n) {
    _mm256_maskstore_ps(p, es_first_lanes(n), v);
}

/* Folds four lanes: l[i] += l[i + 2], then l[0] + l[1]. */
ES_INLINE_AVX2 float es_fold4_avx2(__m128 l) {
    l = _mm_add_ps(l, _mm_movehl_ps(l, l));
    return _mm_cvtss_f32(_mm_add_ss(l, _mm_movehdup_ps(l)));
}

/* Folds sixteen lanes: `low` holds 0 to 7, `high` 8 to 15. */
ES_INLINE_AVX2 float es_fold16_avx2(__m256 low, __m256 high) {
    const __m256 l = _mm256_add_ps(low, high);
    return es_fold4_avx2(_mm_add_ps(_mm256_castps256_ps128(l), _mm256_extractf128_ps(l, 1)));
}

ES_INLINE_AVX2 float es_max8_avx2(__m256 v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

ES_INLINE_AVX2 __m256 es_abs_avx2(__m256 v) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
}

/* See es_exp in vector.h. */
ES_INLINE_AVX2 __m256 es_exp_avx2(__m256 x) {
    x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-87.0f)), _mm256_set1_ps(88.0f));
    const __m256i n = _mm256_cvtps_epi32(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)));
    const __m256 nf = _mm256_cvtepi32_ps(n);
    const __m256 r =
        _mm256_sub_ps(_mm256_sub_ps(x, _mm256_mul_ps(nf, _mm256_set1_ps(0.693359375f))),
                      _mm256_mul_ps(nf, _mm256_set1_ps(-2.12194440e-4f)));
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(5.0000001201e-1f));
    const __m256 e = _mm256_add_ps(_mm256_add_ps(_mm256_mul_ps(p, _mm256_mul_ps(r, r)), r),
                                   _mm256_set1_ps(1.0f));
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(e, _mm256_castsi256_ps(power));
}

#endif
