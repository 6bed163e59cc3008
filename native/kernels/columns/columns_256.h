/* The 256-bit operations of columns_simd.h; the including file defines v_madd. */
#ifndef ES_COLUMNS_256_H
#define ES_COLUMNS_256_H

#include "kernels/columns/columns.h"

#include <immintrin.h>

typedef __m256i vec;
typedef __m256 vecf;
typedef vec vacc;

#define VEC_BYTES 32
#define LIST_PARTS 2
#define v_zero() _mm256_setzero_si256()
#define v_none() v_zero()
#define v_total(acc) (acc)
#define v_load(p) _mm256_loadu_si256((const __m256i *)(p))
#define v_unpacklo8(a, b) _mm256_unpacklo_epi8(a, b)
#define v_unpackhi8(a, b) _mm256_unpackhi_epi8(a, b)
#define v_set32(i) _mm256_set1_epi32(i)
#define v_set16(i) _mm256_set1_epi16(i)
#define v_and(a, b) _mm256_and_si256(a, b)
#define v_sub32(a, b) _mm256_sub_epi32(a, b)
#define v_shiftright32(a, n) _mm256_srai_epi32(a, n)
#define v_shiftright16(a, n) _mm256_srli_epi16(a, n)
#define v_tofloat(a) _mm256_cvtepi32_ps(a)
#define v_halfs(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define v_setf(f) _mm256_set1_ps(f)
#define v_mulf(a, b) _mm256_mul_ps(a, b)
#define v_addf(a, b) _mm256_add_ps(a, b)
#define v_loadf(p) _mm256_loadu_ps(p)
#define v_storef(p, a) _mm256_storeu_ps(p, a)

#endif
