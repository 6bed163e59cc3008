/* 2:4 in 256-bit registers: the places of two groups are the indices with which pshufb takes the lower
 * and the upper bytes of their inputs. */
#include "kernels/prefetch.h"

#include <immintrin.h>

#include "kernels/nm/nm.h"

/* Codes of chunk s of eight rows, byte 4r + 2j + h. */
ES_INLINE __m256i codes_of(const uint8_t *block, int s, int half, const int format) {
    if (format == ES_FORMAT_NM8) {
        return _mm256_loadu_si256((const __m256i *)(block + ES_NM_CODES + 64 * s + 32 * half));
    }
    const __m128i both =
        _mm_loadu_si128((const __m128i *)(block + ES_NM_CODES + 32 * s + 16 * half));
    const __m256i wide = _mm256_cvtepu8_epi16(both);
    const __m256i nibbles =
        _mm256_and_si256(_mm256_or_si256(wide, _mm256_slli_epi16(wide, 4)), _mm256_set1_epi8(15));
    return _mm256_sub_epi8(nibbles, _mm256_set1_epi8(ES_NM_NIBBLE_ZERO));
}

/* Bytes of the inputs of groups s and s + 4: eight lower, then eight upper ones. */
ES_INLINE __m256i inputs_of(const int16_t *q, int s) {
    const __m128i split = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m128i both = _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)(q + 4 * s)),
                                            _mm_loadl_epi64((const __m128i *)(q + 4 * s + 16)));
    return _mm256_broadcastsi128_si256(_mm_shuffle_epi8(both, split));
}

ES_INLINE void nm_dot(float *y, const uint8_t *w, int32_t n_tiles, const es_q16 *x,
                      const es_split *split, int32_t n_blocks, const int format) {
    (void)split;
    const __m256i zero = _mm256_setzero_si256();
    for (int32_t tile = 0; tile < n_tiles; tile++, y += ES_BITMAP_ROWS) {
        __m256 acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        for (size_t b = 0; b < (size_t)n_blocks; b++, w += es_nm_block_bytes(format)) {
            es_prefetch_ahead(w, es_nm_block_bytes(format));
            const int16_t *q = x->q + 32 * b;
            __m256i sums[2][2] = {{zero, zero}, {zero, zero}};
#pragma GCC unroll 4
            for (int s = 0; s < ES_NM_CHUNKS; s++) {
                const __m256i inputs = inputs_of(q, s);
#pragma GCC unroll 2
                for (int half = 0; half < 2; half++) {
                    const __m256i places =
                        _mm256_loadu_si256((const __m256i *)(w + ES_NM_PLACES + 32 * half));
                    /* Lower bytes are places in group s, upper ones in group s + 4. */
                    const __m256i at = _mm256_or_si256(
                        _mm256_and_si256(_mm256_srli_epi16(places, 2 * s), _mm256_set1_epi8(3)),
                        _mm256_set1_epi16(0x0400));
                    const __m256i low = _mm256_shuffle_epi8(inputs, at);
                    const __m256i high =
                        _mm256_shuffle_epi8(inputs, _mm256_or_si256(at, _mm256_set1_epi8(8)));
                    const __m256i codes = codes_of(w, s, half, format);
                    const __m256i c0 = _mm256_srai_epi16(_mm256_unpacklo_epi8(codes, codes), 8);
                    const __m256i c1 = _mm256_srai_epi16(_mm256_unpackhi_epi8(codes, codes), 8);
                    sums[half][0] = _mm256_add_epi32(
                        sums[half][0], _mm256_madd_epi16(c0, _mm256_unpacklo_epi8(low, high)));
                    sums[half][1] = _mm256_add_epi32(
                        sums[half][1], _mm256_madd_epi16(c1, _mm256_unpackhi_epi8(low, high)));
                }
            }
            const __m256 dx = _mm256_set1_ps(x->d[b]);
            for (int half = 0; half < 2; half++) {
                const __m256i sum = _mm256_hadd_epi32(sums[half][0], sums[half][1]);
                const __m256 d = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(w + 16 * half)));
                acc[half] = _mm256_add_ps(
                    acc[half], _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(d, dx)));
            }
        }
        _mm256_storeu_ps(y, acc[0]);
        _mm256_storeu_ps(y + 8, acc[1]);
    }
}

ES_SPARSE_DOT(, nm8_dot, nm_dot, ES_FORMAT_NM8)
ES_SPARSE_DOT(, nm4_dot, nm_dot, ES_FORMAT_NM4)
ES_SPARSE_EXPAND(, nm8_expand, es_nm_expand_block, ES_FORMAT_NM8)
ES_SPARSE_EXPAND(, nm4_expand, es_nm_expand_block, ES_FORMAT_NM4)

void es_nm_avx2(es_kernels *table) {
    table->nm8_dot = nm8_dot;
    table->nm4_dot = nm4_dot;
    table->nm8_expand = nm8_expand;
    table->nm4_expand = nm4_expand;
    table->nm_variant = "avx2";
}
