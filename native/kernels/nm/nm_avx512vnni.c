/* 2:4 in 512-bit registers: places are the indices with which vpermb (AVX-512 VBMI) takes the bytes of
 * inputs. With q = 256 h + l, l meets the codes as it is and h as h + 128: vpdpbusd wants one factor
 * without a sign. What that adds, 32768 times the sum of the codes, is taken away. */
#include "kernels/prefetch.h"

#include <immintrin.h>

#include "kernels/nm/nm.h"

#define VBMI __attribute__((target("avx512vbmi,avx512vbmi2")))

/* Codes of chunk s, a lane for every row. */
ES_INLINE VBMI __m512i codes_of(const uint8_t *block, int s, const int format) {
    if (format == ES_FORMAT_NM8) {
        return _mm512_loadu_si512(block + ES_NM_CODES + 64 * s);
    }
    const __m512i wide =
        _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(block + ES_NM_CODES + 32 * s)));
    const __m512i nibbles =
        _mm512_and_si512(_mm512_or_si512(wide, _mm512_slli_epi16(wide, 4)), _mm512_set1_epi8(15));
    return _mm512_sub_epi8(nibbles, _mm512_set1_epi8(ES_NM_NIBBLE_ZERO));
}

ES_INLINE VBMI void nm_dot(float *y, const uint8_t *w, int32_t n_tiles, const es_q16 *x,
                           const es_split *split, int32_t n_blocks, const int format) {
    const __m512i upper = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi8(-128), 1);
    for (int32_t tile = 0; tile < n_tiles; tile++, y += ES_BITMAP_ROWS) {
        __m512 acc = _mm512_setzero_ps();
        for (size_t b = 0; b < (size_t)n_blocks; b++, w += es_nm_block_bytes(format)) {
            es_prefetch_ahead(w, es_nm_block_bytes(format));
            /* l of 32 columns, then h + 128; and the other way round. */
            const __m512i low_high =
                _mm512_xor_si512(_mm512_loadu_si512(split->bytes + 64 * b), upper);
            const __m512i high_low = _mm512_shuffle_i64x2(low_high, low_high, 0x4e);
            const __m512i places = _mm512_loadu_si512(w + ES_NM_PLACES);
            __m512i low = _mm512_setzero_si512(), high = low, surplus = low;
#pragma GCC unroll 4
            for (int s = 0; s < ES_NM_CHUNKS; s++) {
                /* Lower bytes: columns of group s, upper ones: of group s + 4. */
                const __m512i at = _mm512_ternarylogic_epi32(
                    _mm512_srli_epi16(places, 2 * s), _mm512_set1_epi8(3),
                    _mm512_set1_epi16((int16_t)(0x1000 + 0x0404 * s)), 0xea); /* (a & b) | c */
                const __m512i codes = codes_of(w, s, format);
                low = _mm512_dpbusd_epi32(low, _mm512_permutexvar_epi8(at, low_high), codes);
                high = _mm512_dpbusd_epi32(high, _mm512_permutexvar_epi8(at, high_low), codes);
                surplus = _mm512_dpbusd_epi32(surplus, _mm512_set1_epi8(1), codes);
            }
            const __m512i sum = _mm512_add_epi32(
                low, _mm512_sub_epi32(_mm512_slli_epi32(high, 8), _mm512_slli_epi32(surplus, 15)));
            const __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)w));
            const __m512 step = _mm512_mul_ps(d, _mm512_set1_ps(x->d[b]));
            acc = _mm512_add_ps(acc, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), step));
        }
        _mm512_storeu_ps(y, acc);
    }
}

ES_SPARSE_DOT(VBMI, nm8_dot, nm_dot, ES_FORMAT_NM8)
ES_SPARSE_DOT(VBMI, nm4_dot, nm_dot, ES_FORMAT_NM4)

void es_nm_avx512vnni(es_kernels *table) {
    /* Both: inputs are taken apart where bitmaps want it, which is with VBMI2. */
    if (__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2")) {
        table->nm8_dot = nm8_dot;
        table->nm4_dot = nm4_dot;
        table->nm_variant = "avx512vbmi2";
    }
}
