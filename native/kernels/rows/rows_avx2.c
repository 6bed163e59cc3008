/* Products with single rows for AVX2 with F16C, eight rows at a time: their sums are turned into the
 * lanes of one register, where the steps meet them. Integer sums are exact in any order; the float line
 * per block is that of every other kernel. */
#include "kernels/rows/rows.h"

#include <immintrin.h>
#include <string.h>

/* Eight partial sums of a block. */
ES_INLINE __m256i block_sum(const uint8_t *codes, __m256i x0, __m256i x1, int format) {
    __m256i w0, w1;
    if (es_row_is_nibble(format)) {
        const __m256i both = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)codes));
        w0 = _mm256_and_si256(both, _mm256_set1_epi16(15));
        w1 = _mm256_srli_epi16(both, 4);
    } else {
        w0 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)codes));
        w1 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(codes + 16)));
    }
    return _mm256_add_epi32(_mm256_madd_epi16(w0, x0), _mm256_madd_epi16(w1, x1));
}

/* Lane r: the sum of the lanes of s[r]. */
ES_INLINE __m256i lane_sums(const __m256i s[ES_GROUP]) {
    const __m256i low =
        _mm256_hadd_epi32(_mm256_hadd_epi32(s[0], s[1]), _mm256_hadd_epi32(s[2], s[3]));
    const __m256i high =
        _mm256_hadd_epi32(_mm256_hadd_epi32(s[4], s[5]), _mm256_hadd_epi32(s[6], s[7]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20),
                            _mm256_permute2x128_si256(low, high, 0x31));
}

/* Halfs of eight rows at the same place. */
ES_INLINE __m256 halfs_at(const uint8_t *const rows[ES_GROUP], size_t offset) {
    uint16_t bits[ES_GROUP];
    for (int r = 0; r < ES_GROUP; r++) {
        memcpy(&bits[r], rows[r] + offset, sizeof bits[r]);
    }
    return _mm256_cvtph_ps(_mm_setr_epi16((short)bits[0], (short)bits[1], (short)bits[2],
                                          (short)bits[3], (short)bits[4], (short)bits[5],
                                          (short)bits[6], (short)bits[7]));
}

/* Eight rows; meanwhile others are asked for. */
ES_INLINE void row_group(float *y, const uint8_t *const rows[ES_GROUP], const es_asked_rows *asked,
                         const es_q16 *x, size_t n_blocks, int format) {
    const size_t code_bytes = es_row_code_bytes(format);
    __m256 total = _mm256_setzero_ps();
    for (size_t b = 0; b < n_blocks; b++) {
        const __m256i x0 = _mm256_loadu_si256((const __m256i *)(x->q + 32 * b));
        const __m256i x1 = _mm256_loadu_si256((const __m256i *)(x->q + 32 * b + 16));
        __m256i sums[ES_GROUP];
        if (b * code_bytes % 64 == 0) {
            es_ask_rows(asked, b * code_bytes);
        }
        for (int r = 0; r < ES_GROUP; r++) {
            sums[r] = block_sum(rows[r] + b * code_bytes, x0, x1, format);
        }
        __m256i sum = lane_sums(sums);
        if (format == ES_FORMAT_Q4R) {
            sum = _mm256_sub_epi32(sum, _mm256_set1_epi32(8 * x->sum[b]));
        }
        const size_t at = es_row_step(n_blocks, b, format);
        const __m256 step = _mm256_mul_ps(halfs_at(rows, at), _mm256_set1_ps(x->d[b]));
        total = _mm256_add_ps(total, _mm256_mul_ps(_mm256_cvtepi32_ps(sum), step));
        if (es_row_has_minimum(format)) {
            const __m256 m = halfs_at(rows, at + 2 * n_blocks);
            total = _mm256_add_ps(total, _mm256_mul_ps(m, _mm256_set1_ps(x->xsum[b])));
        }
    }
    _mm256_storeu_ps(y, total);
}

/* Eight rows of eight words become eight columns of them. */
ES_INLINE void turn_words(uint8_t *to, size_t stride, const __m128i v[8]) {
    __m128i a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm_unpacklo_epi16(v[2 * i], v[2 * i + 1]);
        a[2 * i + 1] = _mm_unpackhi_epi16(v[2 * i], v[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 2; j++) {
            b[4 * i + 2 * j] = _mm_unpacklo_epi32(a[4 * i + j], a[4 * i + 2 + j]);
            b[4 * i + 2 * j + 1] = _mm_unpackhi_epi32(a[4 * i + j], a[4 * i + 2 + j]);
        }
    }
    for (int i = 0; i < 4; i++) {
        const __m128i low = _mm_unpacklo_epi64(b[i], b[4 + i]);
        const __m128i high = _mm_unpackhi_epi64(b[i], b[4 + i]);
        _mm_storeu_si128((__m128i *)(to + (size_t)(2 * i) * stride), low);
        _mm_storeu_si128((__m128i *)(to + (size_t)(2 * i + 1) * stride), high);
    }
}

/* Eight words of each row, from `offset` on; rows that are not there are zeros. */
ES_INLINE void turn_at(uint8_t *to, size_t stride, const uint8_t *w, size_t row_bytes,
                       int32_t n_rows, size_t offset) {
    __m128i v[8];
    for (int r = 0; r < ES_GROUP; r++) {
        v[r] = r < n_rows ? _mm_loadu_si128((const __m128i *)(w + (size_t)r * row_bytes + offset))
                          : _mm_setzero_si128();
    }
    turn_words(to, stride, v);
}

#include "kernels/rows/rows_driver.h"

ES_ROW_FORMATS

void es_rows_avx2(es_kernels *table) {
    ES_ROWS_SET(table, "avx2");
}
