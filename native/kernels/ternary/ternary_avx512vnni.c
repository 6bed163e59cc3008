/* Ternary products with the 512-bit vpdpbusd; see ternary_vnni.h for the arithmetic.
 *
 * A vector holds two blocks, so `dot` wants field f of both blocks side by side: `arrange` brings the
 * activations into that order once per token, and the inner loop has no shuffle. */
#include "ternary.h"

#include <immintrin.h>

typedef __m512i es_vec;
typedef __m512i es_vec_i8;
typedef __m512i es_vec_i32;
typedef __m512i es_quad_acc;
enum { ES_LANES = 16, ES_VEC_BYTES = 64 };

/* Sixteen accumulators and one broadcast for two vpdpbusd: below two loads per cycle. */
#define ES_TILE_TOKENS 8
#define ES_PANEL_MIN_TOKENS 4

ES_INLINE es_vec es_zero(void) {
    return _mm512_setzero_si512();
}

ES_INLINE es_quad_acc es_quad_zero(void) {
    return es_zero();
}

ES_INLINE es_vec es_load(const void *p) {
    return _mm512_loadu_si512(p);
}

ES_INLINE es_vec es_load_block(const void *p) {
    return _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)p));
}

ES_INLINE void es_store(void *p, es_vec v) {
    _mm512_store_si512(p, v);
}

ES_INLINE es_vec es_broadcast4(const void *p) {
    return _mm512_broadcastd_epi32(_mm_loadu_si32(p));
}

ES_INLINE es_vec es_load_quarters(const uint8_t *const *rows, size_t offset) {
    const __m128i q0 = _mm_loadu_si128((const __m128i *)(rows[0] + offset));
    const __m128i q1 = _mm_loadu_si128((const __m128i *)(rows[4] + offset));
    const __m128i q2 = _mm_loadu_si128((const __m128i *)(rows[8] + offset));
    const __m128i q3 = _mm_loadu_si128((const __m128i *)(rows[12] + offset));
    __m512i v = _mm512_castsi128_si512(q0);
    v = _mm512_inserti32x4(v, q1, 1);
    v = _mm512_inserti32x4(v, q2, 2);
    return _mm512_inserti32x4(v, q3, 3);
}

ES_INLINE es_vec es_unpacklo32(es_vec a, es_vec b) {
    return _mm512_unpacklo_epi32(a, b);
}

ES_INLINE es_vec es_unpackhi32(es_vec a, es_vec b) {
    return _mm512_unpackhi_epi32(a, b);
}

ES_INLINE es_vec es_unpacklo64(es_vec a, es_vec b) {
    return _mm512_unpacklo_epi64(a, b);
}

ES_INLINE es_vec es_unpackhi64(es_vec a, es_vec b) {
    return _mm512_unpackhi_epi64(a, b);
}

ES_INLINE es_vec es_quad_dot(es_vec acc_i32, es_vec w_u8, es_vec x_i8) {
    acc_i32 = _mm512_dpbusd_epi32(acc_i32, w_u8, x_i8);
    ES_PIN("v", acc_i32);
    return acc_i32;
}

ES_INLINE es_vec es_quad_sums(es_vec acc_i32) {
    return acc_i32;
}

ES_INLINE es_vec es_and(es_vec a, es_vec b) {
    return _mm512_and_si512(a, b);
}

ES_INLINE es_vec es_set8(char v) {
    return _mm512_set1_epi8(v);
}

ES_INLINE es_vec es_add8(es_vec a, es_vec b) {
    return _mm512_add_epi8(a, b);
}

ES_INLINE es_vec es_add32(es_vec a, es_vec b) {
    return _mm512_add_epi32(a, b);
}

ES_INLINE es_vec es_sub32(es_vec a, es_vec b) {
    return _mm512_sub_epi32(a, b);
}

ES_INLINE es_vec es_sra32(es_vec v, unsigned n) {
    return _mm512_srai_epi32(v, n);
}

ES_INLINE void es_store_lanes(int32_t *p, es_vec v, size_t n, int accumulate) {
    const __mmask16 mask = (__mmask16)(0xFFFFu >> (ES_LANES - n));
    if (accumulate) {
        v = _mm512_add_epi32(v, _mm512_maskz_loadu_epi32(mask, p));
    }
    _mm512_mask_storeu_epi32(p, mask, v);
}

/* sums[r] = sum of the lanes of v[r]; rows is 1 or 4. */
ES_INLINE void es_store_sums(int32_t *sums, const es_vec_i32 *v, const int rows) {
    if (rows == 1) {
        sums[0] = _mm512_reduce_add_epi32(v[0]);
        return;
    }
    __m256i half[4];
    ES_UNROLL
    for (int r = 0; r < 4; r++) {
        half[r] =
            _mm256_add_epi32(_mm512_castsi512_si256(v[r]), _mm512_extracti64x4_epi64(v[r], 1));
    }
    const __m256i s =
        _mm256_hadd_epi32(_mm256_hadd_epi32(half[0], half[1]), _mm256_hadd_epi32(half[2], half[3]));
    _mm_storeu_si128((__m128i *)sums,
                     _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1)));
}

ES_INLINE void es_arrange(int8_t *a, const int8_t *q, size_t n_blocks, const size_t fields) {
    const size_t block = 32 * fields;
    for (size_t b = 0; b < n_blocks; b += 2, q += 2 * block) {
        for (size_t f = 0; f < fields; f++, a += 64) {
            const __m256i first = _mm256_load_si256((const __m256i *)(q + 32 * f));
            __m512i both = _mm512_zextsi256_si512(first);
            if (b + 1 < n_blocks) {
                const __m256i second = _mm256_load_si256((const __m256i *)(q + block + 32 * f));
                both = _mm512_inserti64x4(both, second, 1);
            }
            _mm512_store_si512(a, both);
        }
    }
}

static void t2_arrange(int8_t *a, const int8_t *q, size_t n_blocks) {
    es_arrange(a, q, n_blocks, ES_T2_FIELDS);
}

static void t5_arrange(int8_t *a, const int8_t *q, size_t n_blocks) {
    es_arrange(a, q, n_blocks, ES_T5_FIELDS);
}

/* Shifts act on 16-bit lanes; the masks remove what crossed a byte. */
ES_INLINE void t2_decode(es_vec *codes, es_vec packed) {
    const __m512i three = _mm512_set1_epi8(3);
    codes[0] = _mm512_and_si512(_mm512_srli_epi16(packed, 6), three);
    codes[1] = _mm512_and_si512(_mm512_srli_epi16(packed, 4), three);
    codes[2] = _mm512_and_si512(_mm512_srli_epi16(packed, 2), three);
    codes[3] = _mm512_and_si512(packed, three);
}

/* The leading digit of a fraction y is 1 from 86 on and 2 from 171 on. */
ES_INLINE void t5_decode(es_vec *codes, es_vec packed) {
    __m512i y = packed;
    ES_UNROLL
    for (int f = 0; f < ES_T5_FIELDS; f++) {
        const __mmask64 one = _mm512_cmpgt_epu8_mask(y, _mm512_set1_epi8(85));
        const __mmask64 two = _mm512_cmpgt_epu8_mask(y, _mm512_set1_epi8((char)170));
        codes[f] = _mm512_mask_mov_epi8(_mm512_maskz_mov_epi8(one, _mm512_set1_epi8(1)), two,
                                        _mm512_set1_epi8(2));
        y = _mm512_add_epi8(_mm512_add_epi8(y, y), y);
    }
}

#include "ternary_vnni.h"
#include "ternary_panel.h"

enum { t2_DOT_ROWS = 4, t5_DOT_ROWS = 4 };

#define ES_ARRANGED
#define ES_FORMAT t2
#include "ternary_dot.inc"
#define ES_FORMAT t2
#include "ternary_list.inc"
#define ES_FORMAT t5
#include "ternary_dot.inc"
#define ES_FORMAT t5
#include "ternary_list.inc"
#include "t2n_256.h"

#define ES_VARIANT avx512vnni
#define ES_T2_PANEL_BLOCKS 4
#define ES_T5_PANEL_BLOCKS 3
#include "ternary_table.inc"
