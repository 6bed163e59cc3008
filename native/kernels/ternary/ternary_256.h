/* Vectors of 32 bytes, for the AVX2 and AVX-VNNI variants. The includer defines ES_TILE_TOKENS,
 * es_quad_dot and es_quad_sums after this and before ternary_panel.h. */
#ifndef ES_TERNARY_256_H
#define ES_TERNARY_256_H

#include "ternary.h"

#include <immintrin.h>

typedef __m256i es_vec;
typedef __m256i es_vec_i8;
typedef __m256i es_vec_i32;
typedef __m256i es_quad_acc;
enum { ES_LANES = 8, ES_VEC_BYTES = 32 };

ES_INLINE es_vec es_zero(void) {
    return _mm256_setzero_si256();
}

ES_INLINE es_quad_acc es_quad_zero(void) {
    return es_zero();
}

ES_INLINE es_vec es_load(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

ES_INLINE es_vec es_load_block(const void *p) {
    return es_load(p);
}

ES_INLINE void es_store(void *p, es_vec v) {
    _mm256_store_si256((__m256i *)p, v);
}

ES_INLINE es_vec es_broadcast4(const void *p) {
    return _mm256_broadcastd_epi32(_mm_loadu_si32(p));
}

ES_INLINE es_vec es_load_quarters(const uint8_t *const *rows, size_t offset) {
    const __m128i lo = _mm_loadu_si128((const __m128i *)(rows[0] + offset));
    const __m128i hi = _mm_loadu_si128((const __m128i *)(rows[4] + offset));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(lo), hi, 1);
}

ES_INLINE es_vec es_unpacklo32(es_vec a, es_vec b) {
    return _mm256_unpacklo_epi32(a, b);
}

ES_INLINE es_vec es_unpackhi32(es_vec a, es_vec b) {
    return _mm256_unpackhi_epi32(a, b);
}

ES_INLINE es_vec es_unpacklo64(es_vec a, es_vec b) {
    return _mm256_unpacklo_epi64(a, b);
}

ES_INLINE es_vec es_unpackhi64(es_vec a, es_vec b) {
    return _mm256_unpackhi_epi64(a, b);
}

ES_INLINE void es_store_lanes(int32_t *p, es_vec v, size_t n, int accumulate) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), index);
    if (accumulate) {
        v = _mm256_add_epi32(v, _mm256_maskload_epi32(p, mask));
    }
    _mm256_maskstore_epi32(p, mask, v);
}

/* sums[r] = sum of the lanes of v[r]; rows is 1, 2 or 4. */
ES_INLINE void es_store_sums(int32_t *sums, const es_vec_i32 *v, const int rows) {
    const __m256i a = _mm256_hadd_epi32(v[0], rows > 1 ? v[1] : v[0]);
    const __m256i b = rows > 2 ? _mm256_hadd_epi32(v[2], v[3]) : a;
    const __m256i c = _mm256_hadd_epi32(a, b);
    const __m128i s = _mm_add_epi32(_mm256_castsi256_si128(c), _mm256_extracti128_si256(c, 1));
    if (rows == 4) {
        _mm_storeu_si128((__m128i *)sums, s);
    } else if (rows == 2) {
        _mm_storel_epi64((__m128i *)sums, s);
    } else {
        sums[0] = _mm_cvtsi128_si32(s);
    }
}

/* Shifts act on 16-bit lanes; the masks remove what crossed a byte. */
ES_INLINE void t2_decode(es_vec *codes, es_vec packed) {
    const __m256i three = _mm256_set1_epi8(3);
    codes[0] = _mm256_and_si256(_mm256_srli_epi16(packed, 6), three);
    codes[1] = _mm256_and_si256(_mm256_srli_epi16(packed, 4), three);
    codes[2] = _mm256_and_si256(_mm256_srli_epi16(packed, 2), three);
    codes[3] = _mm256_and_si256(packed, three);
}

/* Minus the leading digit of fractions y stored as y - 128: two compares, y > 85 and y > 170. */
ES_INLINE __m256i t5_minus_digit(__m256i s) {
    return _mm256_add_epi8(_mm256_cmpgt_epi8(s, _mm256_set1_epi8(85 - 128)),
                           _mm256_cmpgt_epi8(s, _mm256_set1_epi8(170 - 128)));
}

/* 3 y mod 256; the same for y - 128, as 3 * 128 = 128 mod 256. */
ES_INLINE __m256i t5_triple(__m256i y) {
    return _mm256_add_epi8(_mm256_add_epi8(y, y), y);
}

ES_INLINE void t5_decode(es_vec *codes, es_vec packed) {
    __m256i s = _mm256_xor_si256(packed, _mm256_set1_epi8(-128));
    ES_UNROLL
    for (int f = 0; f < ES_T5_FIELDS; f++) {
        codes[f] = _mm256_abs_epi8(t5_minus_digit(s));
        s = t5_triple(s);
    }
}

#endif
