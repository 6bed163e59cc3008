/* Loading's kernels for AVX2: the same bytes as storing_scalar.c. */
#include "kernels.h"

#include "kernels/vector/vector_avx2.h"

#include <string.h>

/* ---- numbers to block codes ---- */

static int32_t requantize(int8_t *codes, uint16_t *d, const float *values, size_t n_blocks,
                          float q_max) {
    const __m256 high = _mm256_set1_ps(q_max), low = _mm256_set1_ps(-q_max);
    const __m256 largest = _mm256_set1_ps(3.402823466e38f);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (size_t b = 0; b < n_blocks; b++, values += 32, codes += 32) {
        __m256 x[4], amax = _mm256_setzero_ps(), broken = _mm256_setzero_ps();
        for (int i = 0; i < 4; i++) {
            x[i] = _mm256_loadu_ps(values + 8 * i);
            const __m256 magnitude = es_abs_avx2(x[i]);
            broken = _mm256_or_ps(broken, _mm256_cmp_ps(magnitude, largest, _CMP_NLE_UQ));
            amax = _mm256_max_ps(amax, magnitude);
        }
        const __m128i half = _mm_cvtps_ph(_mm_set_ss(es_max8_avx2(amax) / q_max), 0);
        d[b] = (uint16_t)_mm_extract_epi16(half, 0);
        if (_mm256_movemask_ps(broken) != 0 || (d[b] & 0x7c00) == 0x7c00) {
            return ES_E_VALUE;
        }
        const __m256 step = _mm256_broadcastss_ps(_mm_cvtph_ps(half));
        const __m256 live = _mm256_cmp_ps(step, _mm256_setzero_ps(), _CMP_GT_OQ);
        __m256i code[4];
        for (int i = 0; i < 4; i++) {
            const __m256 ratio = _mm256_and_ps(_mm256_div_ps(x[i], step), live);
            code[i] = _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(ratio, high), low));
        }
        const __m256i mixed = _mm256_packs_epi16(_mm256_packs_epi32(code[0], code[1]),
                                                 _mm256_packs_epi32(code[2], code[3]));
        _mm256_storeu_si256((__m256i *)(void *)codes, _mm256_permutevar8x32_epi32(mixed, order));
    }
    return ES_OK;
}

/* ---- codes of eight rows into one tile ---- */

/* Eight rows of eight 32-bit lanes, turned. */
static inline __attribute__((always_inline)) void turn_8x8(__m256i v[8]) {
    __m256i t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        v[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2x128_si256(v[i], v[i + 4], 0x20);
        t[i + 4] = _mm256_permute2x128_si256(v[i], v[i + 4], 0x31);
    }
    memcpy(v, t, sizeof t);
}

/* The twelve words of one row's block, both columns of a pair in one lane; lanes 6 and 7 are surplus. */
static inline __attribute__((always_inline)) __m256i six_bit_words(const int8_t *codes) {
    const __m256i bytes =
        _mm256_and_si256(_mm256_add_epi8(_mm256_loadu_si256((const __m256i *)(const void *)codes),
                                         _mm256_set1_epi8(32)),
                         _mm256_set1_epi8(63));
    /* Lanes: column pairs 0 to 7, and 8 to 15. */
    const __m256i a = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(bytes));
    const __m256i b = _mm256_cvtepu8_epi16(_mm256_extracti128_si256(bytes, 1));
    const __m256i pair6 = _mm256_permutevar8x32_epi32(_mm256_blend_epi32(a, b, 0x0f),
                                                      _mm256_setr_epi32(6, 7, 0, 1, 2, 3, 0, 0));
    const __m256i even = _mm256_permutevar8x32_epi32(b, _mm256_setr_epi32(4, 5, 6, 7, 4, 6, 0, 0));
    const __m256i odd = _mm256_permutevar8x32_epi32(b, _mm256_setr_epi32(0, 0, 0, 0, 5, 7, 0, 0));
    const __m256i low = _mm256_slli_epi16(_mm256_and_si256(even, _mm256_set1_epi16(15)), 12);
    const __m256i high = _mm256_or_si256(_mm256_slli_epi16(_mm256_srli_epi16(even, 4), 12),
                                         _mm256_slli_epi16(_mm256_srli_epi16(odd, 4), 14));
    const __m256i whole = _mm256_or_si256(a, _mm256_slli_epi16(pair6, 6));
    return _mm256_or_si256(whole, _mm256_blend_epi32(low, high, 0x30));
}

static void weave_six(uint8_t *dst, const int8_t *codes, size_t n_blocks, size_t dst_stride) {
    for (size_t block = 0; block < n_blocks; block++, dst += dst_stride) {
        __m256i rows[8];
        for (size_t r = 0; r < 8; r++) {
            rows[r] = six_bit_words(codes + (r * n_blocks + block) * 32);
        }
        turn_8x8(rows);
        for (int i = 0; i < 6; i++) {
            _mm256_storeu_si256((__m256i *)(void *)(dst + 32 * i), rows[i]);
        }
    }
}

/* ---- lanes into neurons ---- */

/* Sixteen rows of sixteen bytes, turned. */
static inline __attribute__((always_inline)) void turn_16x16(__m128i v[16]) {
    __m128i t[16];
    for (int pass = 0; pass < 4; pass++) {
        for (int i = 0; i < 8; i++) {
            t[2 * i] = _mm_unpacklo_epi8(v[i], v[i + 8]);
            t[2 * i + 1] = _mm_unpackhi_epi8(v[i], v[i + 8]);
        }
        memcpy(v, t, sizeof t);
    }
}

static void turn_lanes(uint8_t *dst, size_t dst_stride, const uint8_t *lanes, size_t k) {
    size_t c = 0;
    for (; c + 16 <= k; c += 16) {
        for (size_t half = 0; half < 32; half += 16) {
            __m128i v[16];
            for (size_t l = 0; l < 16; l++) {
                v[l] = _mm_loadu_si128((const __m128i *)(const void *)(lanes + (half + l) * k + c));
            }
            turn_16x16(v);
            for (size_t i = 0; i < 16; i++) {
                _mm_storeu_si128((__m128i *)(void *)(dst + (c + i) * dst_stride + half), v[i]);
            }
        }
    }
    for (; c < k; c++) {
        for (size_t l = 0; l < 32; l++) {
            dst[c * dst_stride + l] = lanes[l * k + c];
        }
    }
}

void es_storing_avx2(es_kernels *table) {
    table->requantize = requantize;
    table->weave_six = weave_six;
    table->turn_lanes = turn_lanes;
}
