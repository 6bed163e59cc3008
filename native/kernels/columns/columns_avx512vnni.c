/* Products with column formats for AVX-512 VNNI: a column of a tile is one register. */
#include "kernels/columns/columns.h"

#include <immintrin.h>

typedef __m512i vec;
typedef __m512 vecf;
typedef vec vacc;

#define VEC_BYTES 64
#define LIST_PARTS 1
#define v_zero() _mm512_setzero_si512()
#define v_none() v_zero()
#define v_total(acc) (acc)
#define v_load(p) _mm512_loadu_si512(p)
#define v_unpacklo8(a, b) _mm512_unpacklo_epi8(a, b)
#define v_unpackhi8(a, b) _mm512_unpackhi_epi8(a, b)
#define v_set32(i) _mm512_set1_epi32(i)
#define v_set16(i) _mm512_set1_epi16(i)
#define v_and(a, b) _mm512_and_si512(a, b)
#define v_sub32(a, b) _mm512_sub_epi32(a, b)
#define v_shiftright32(a, n) _mm512_srai_epi32(a, n)
#define v_shiftright16(a, n) _mm512_srli_epi16(a, n)
#define v_madd(acc, a, b) _mm512_dpwssd_epi32(acc, a, b)
#define v_tofloat(a) _mm512_cvtepi32_ps(a)
#define v_halfs(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define v_setf(f) _mm512_set1_ps(f)
#define v_mulf(a, b) _mm512_mul_ps(a, b)
#define v_addf(a, b) _mm512_add_ps(a, b)
#define v_loadf(p) _mm512_loadu_ps(p)
#define v_storef(p, a) _mm512_storeu_ps(p, a)

#include "kernels/columns/columns_simd.h"

void es_columns_avx512vnni(es_kernels *table) {
    ES_COLUMNS_SET(table, "avx512vnni");
}
