/* Attention for AVX2 with F16C: the sixteen lanes of dot16 are two registers. */
#include "kernels.h"
#include "kernels/attention/cache_rows.h"
#include "kernels/vector/vector_avx2.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

ES_INLINE_AVX2 void widen_row(float *to, const uint16_t *from, int32_t n) {
    int32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_store_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
    }
    const __m256 zero = _mm256_setzero_ps();
    if (i < n) {
        uint16_t part[8] = {0};
        memcpy(part, from + i, (size_t)(n - i) * sizeof *part);
        _mm256_store_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)part)));
        i += 8;
    }
    if (i % 16 != 0) {
        _mm256_store_ps(to + i, zero);
    }
}

/* Blocks of 32 codes behind their half step; a ragged last block takes the plain way. */
ES_INLINE_AVX2 void widen_q8_row(float *to, const uint8_t *row, int32_t n) {
    for (; n >= ES_CACHE_BLOCK; n -= ES_CACHE_BLOCK, to += ES_CACHE_BLOCK) {
        uint16_t half;
        memcpy(&half, row, sizeof half);
        const __m256 step = _mm256_set1_ps(es_half_to_float(half));
        for (int i = 0; i < ES_CACHE_BLOCK; i += 8) {
            const __m128i codes = _mm_loadl_epi64((const __m128i *)(const void *)(row + 2 + i));
            const __m256 wide = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
            _mm256_storeu_ps(to + i, _mm256_mul_ps(wide, step));
        }
        row += ES_CACHE_BLOCK_BYTES;
    }
    es_widen_q8_0(to, row, n);
}

/* Two rows of a tile: one in each half, its sixteen lanes folded to four. */
ES_INLINE_AVX2 __m256 dot_pair(const float *q, const float *a, const float *b, const size_t width) {
    const __m256 q0 = _mm256_load_ps(q), q1 = _mm256_load_ps(q + 8);
    __m256 a0 = _mm256_mul_ps(q0, _mm256_load_ps(a));
    __m256 a1 = _mm256_mul_ps(q1, _mm256_load_ps(a + 8));
    __m256 b0 = _mm256_mul_ps(q0, _mm256_load_ps(b));
    __m256 b1 = _mm256_mul_ps(q1, _mm256_load_ps(b + 8));
    for (size_t i = 16; i < width; i += 16) {
        const __m256 low = _mm256_load_ps(q + i), high = _mm256_load_ps(q + i + 8);
        a0 = _mm256_add_ps(a0, _mm256_mul_ps(low, _mm256_load_ps(a + i)));
        a1 = _mm256_add_ps(a1, _mm256_mul_ps(high, _mm256_load_ps(a + i + 8)));
        b0 = _mm256_add_ps(b0, _mm256_mul_ps(low, _mm256_load_ps(b + i)));
        b1 = _mm256_add_ps(b1, _mm256_mul_ps(high, _mm256_load_ps(b + i + 8)));
    }
    a0 = _mm256_add_ps(a0, a1);
    b0 = _mm256_add_ps(b0, b1);
    return _mm256_add_ps(_mm256_permute2f128_ps(a0, b0, 0x20),
                         _mm256_permute2f128_ps(a0, b0, 0x31));
}

/* l[i] += l[i + 2] within the halves of both. */
ES_INLINE_AVX2 __m256 fold4(__m256 a, __m256 b) {
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
}

/* Eight rows: row r with row r + 4, so that the sums come out in ascending order. */
ES_INLINE_AVX2 __m256 dot_eight(const float *q, const float *tile, const size_t width) {
    __m256 pair[4];
    for (size_t r = 0; r < 4; r++) {
        pair[r] = dot_pair(q, tile + r * width, tile + (r + 4) * width, width);
    }
    const __m256 a = fold4(pair[0], pair[1]), b = fold4(pair[2], pair[3]);
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
}

ES_INLINE_AVX2 void score_tile(float *s, const float *q, const float *tile, const size_t width,
                               float scale) {
    const __m256 factor = _mm256_set1_ps(scale);
    _mm256_storeu_ps(s, _mm256_mul_ps(dot_eight(q, tile, width), factor));
    _mm256_storeu_ps(s + 8, _mm256_mul_ps(dot_eight(q, tile + 8 * width, width), factor));
}

/* The scores' room reaches beyond n: a ragged end is made whole with scores that weigh nothing. */
ES_INLINE_AVX2 float weigh(float *s, int32_t n) {
    const __m256 nothing = _mm256_set1_ps(-INFINITY);
    const int32_t padded = (n + 15) & ~15;
    for (int32_t j = n; j < padded; j++) {
        s[j] = -INFINITY;
    }
    __m256 m0 = nothing, m1 = nothing;
    for (int32_t j = 0; j < padded; j += 16) {
        m0 = _mm256_max_ps(_mm256_load_ps(s + j), m0);
        m1 = _mm256_max_ps(_mm256_load_ps(s + j + 8), m1);
    }
    const __m256 top = _mm256_set1_ps(es_max8_avx2(_mm256_max_ps(m0, m1)));
    __m256 lane[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int32_t j = 0; j < padded; j += 16) {
        for (int h = 0; h < 2; h++) {
            const __m256 score = _mm256_load_ps(s + j + 8 * h);
            const __m256 kept = _mm256_cmp_ps(score, nothing, _CMP_NEQ_UQ);
            const __m256 e = _mm256_and_ps(es_exp_avx2(_mm256_sub_ps(score, top)), kept);
            lane[h] = _mm256_add_ps(lane[h], e);
            _mm256_store_ps(s + j + 8 * h, e);
        }
    }
    return 1.0f / es_fold16_avx2(lane[0], lane[1]);
}

/* Columns [0, 8 * n_registers) of n_heads results. */
ES_INLINE_AVX2 void add_columns(float *acc, const float *e, size_t stride, const float *tile,
                                int32_t n, const size_t width, const size_t n_heads,
                                const size_t n_registers) {
    __m256 sum[2][8];
    for (size_t h = 0; h < n_heads; h++) {
        for (size_t r = 0; r < n_registers; r++) {
            sum[h][r] = _mm256_load_ps(acc + h * width + 8 * r);
        }
    }
    for (int32_t j = 0; j < n; j++, tile += width) {
        for (size_t h = 0; h < n_heads; h++) {
            const __m256 weight = _mm256_set1_ps(e[h * stride + (size_t)j]);
            for (size_t r = 0; r < n_registers; r++) {
                const __m256 value = _mm256_load_ps(tile + 8 * r);
                sum[h][r] = _mm256_add_ps(sum[h][r], _mm256_mul_ps(weight, value));
            }
        }
    }
    for (size_t h = 0; h < n_heads; h++) {
        for (size_t r = 0; r < n_registers; r++) {
            _mm256_store_ps(acc + h * width + 8 * r, sum[h][r]);
        }
    }
}

/* Two heads share a row's load; sixteen registers hold no more than eight sums at once. */
ES_INLINE_AVX2 void add_values(float *acc, const float *e, size_t stride, const float *tile,
                               int32_t n, const size_t width, int32_t n_heads) {
    for (; n_heads >= 2; n_heads -= 2, acc += 2 * width, e += 2 * stride) {
        size_t i = 0;
        for (; i + 32 <= width; i += 32) {
            add_columns(acc + i, e, stride, tile + i, n, width, 2, 4);
        }
        for (; i < width; i += 16) {
            add_columns(acc + i, e, stride, tile + i, n, width, 2, 2);
        }
    }
    if (n_heads == 1) {
        size_t i = 0;
        for (; i + 64 <= width; i += 64) {
            add_columns(acc + i, e, stride, tile + i, n, width, 1, 8);
        }
        for (; i < width; i += 16) {
            add_columns(acc + i, e, stride, tile + i, n, width, 1, 2);
        }
    }
}

ES_INLINE_AVX2 void scale_row(float *out, const float *acc, int32_t n, float factor) {
    const __m256 by = _mm256_set1_ps(factor);
    int32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_load_ps(acc + i), by));
    }
    if (i < n) {
        es_store_first(out + i, _mm256_mul_ps(_mm256_load_ps(acc + i), by), n - i);
    }
}

#include "kernels/attention/attention_driver.h"

void es_attention_avx2(es_kernels *table) {
    es_attention_fill(table, "avx2");
}
