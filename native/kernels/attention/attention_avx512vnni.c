/* Attention for AVX-512 F and DQ: the sixteen lanes of dot16 are one register. */
#include "kernels.h"
#include "kernels/attention/cache_rows.h"

#include <immintrin.h>
#include <math.h>
#include <stddef.h>

#define ES_INLINE_512 static inline __attribute__((always_inline))

/* The first n of sixteen lanes; n of 16 and more is all of them. */
ES_INLINE_512 __mmask16 first_lanes(int32_t n) {
    return (__mmask16)(n >= 16 ? 0xffffu : (1u << n) - 1u);
}

ES_INLINE_512 void widen_row(float *to, const uint16_t *from, int32_t n) {
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        _mm512_store_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(from + i))));
    }
    if (i < n) {
        const __m256i part = _mm256_maskz_loadu_epi16(first_lanes(n - i), from + i);
        _mm512_store_ps(to + i, _mm512_cvtph_ps(part));
    }
}

/* Blocks of 32 codes behind their half step; a ragged last block takes the plain way. */
ES_INLINE_512 void widen_q8_row(float *to, const uint8_t *row, int32_t n) {
    for (; n >= ES_CACHE_BLOCK; n -= ES_CACHE_BLOCK, to += ES_CACHE_BLOCK) {
        uint16_t half;
        memcpy(&half, row, sizeof half);
        const __m512 step = _mm512_set1_ps(es_half_to_float(half));
        for (int i = 0; i < ES_CACHE_BLOCK; i += 16) {
            const __m128i codes = _mm_loadu_si128((const __m128i *)(const void *)(row + 2 + i));
            const __m512 wide = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
            _mm512_storeu_ps(to + i, _mm512_mul_ps(wide, step));
        }
        row += ES_CACHE_BLOCK_BYTES;
    }
    es_widen_q8_0(to, row, n);
}

/* Rows 0, 4, 8 and 12 of a tile: one in each 128-bit quarter, its sixteen lanes folded to four. */
ES_INLINE_512 __m512 dot_quad(const float *q, const float *tile, const size_t width) {
    __m512 lane[4];
    for (size_t r = 0; r < 4; r++) {
        lane[r] = _mm512_mul_ps(_mm512_load_ps(q), _mm512_load_ps(tile + 4 * r * width));
    }
    for (size_t i = 16; i < width; i += 16) {
        const __m512 factor = _mm512_load_ps(q + i);
        for (size_t r = 0; r < 4; r++) {
            const __m512 row = _mm512_load_ps(tile + 4 * r * width + i);
            lane[r] = _mm512_add_ps(lane[r], _mm512_mul_ps(factor, row));
        }
    }
    const __m512 a = _mm512_add_ps(_mm512_shuffle_f32x4(lane[0], lane[1], 0x44),
                                   _mm512_shuffle_f32x4(lane[0], lane[1], 0xee));
    const __m512 b = _mm512_add_ps(_mm512_shuffle_f32x4(lane[2], lane[3], 0x44),
                                   _mm512_shuffle_f32x4(lane[2], lane[3], 0xee));
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

/* l[i] += l[i + 2] within the quarters of both. */
ES_INLINE_512 __m512 fold4(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
}

ES_INLINE_512 void score_tile(float *s, const float *q, const float *tile, const size_t width,
                              float scale) {
    const __m512 even = fold4(dot_quad(q, tile, width), dot_quad(q, tile + width, width));
    const __m512 odd =
        fold4(dot_quad(q, tile + 2 * width, width), dot_quad(q, tile + 3 * width, width));
    const __m512 sums =
        _mm512_add_ps(_mm512_shuffle_ps(even, odd, 0x88), _mm512_shuffle_ps(even, odd, 0xdd));
    _mm512_storeu_ps(s, _mm512_mul_ps(sums, _mm512_set1_ps(scale)));
}

/* See es_exp in kernels/vector/vector.h. */
ES_INLINE_512 __m512 exponential(__m512 x) {
    x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.0f)), _mm512_set1_ps(88.0f));
    const __m512i n = _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)));
    const __m512 nf = _mm512_cvtepi32_ps(n);
    const __m512 r =
        _mm512_sub_ps(_mm512_sub_ps(x, _mm512_mul_ps(nf, _mm512_set1_ps(0.693359375f))),
                      _mm512_mul_ps(nf, _mm512_set1_ps(-2.12194440e-4f)));
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_add_ps(_mm512_mul_ps(p, r), _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_add_ps(_mm512_mul_ps(p, r), _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_add_ps(_mm512_mul_ps(p, r), _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_add_ps(_mm512_mul_ps(p, r), _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_add_ps(_mm512_mul_ps(p, r), _mm512_set1_ps(5.0000001201e-1f));
    const __m512 e = _mm512_add_ps(_mm512_add_ps(_mm512_mul_ps(p, _mm512_mul_ps(r, r)), r),
                                   _mm512_set1_ps(1.0f));
    const __m512i power = _mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23);
    return _mm512_mul_ps(e, _mm512_castsi512_ps(power));
}

/* Folds sixteen lanes in the order of es_fold16. */
ES_INLINE_512 float fold16(__m512 l) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(l), _mm512_extractf32x8_ps(l, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

ES_INLINE_512 float weigh(float *s, int32_t n) {
    const int32_t whole = n & ~15;
    const __mmask16 rest = first_lanes(n - whole);
    const __m512 last = _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), rest, s + whole);
    __m512 largest = last;
    for (int32_t j = 0; j < whole; j += 16) {
        largest = _mm512_max_ps(_mm512_load_ps(s + j), largest);
    }
    const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    __m512 sum = _mm512_setzero_ps();
    for (int32_t j = 0; j < whole; j += 16) {
        const __m512 e = exponential(_mm512_sub_ps(_mm512_load_ps(s + j), top));
        sum = _mm512_add_ps(sum, e);
        _mm512_store_ps(s + j, e);
    }
    const __m512 e = _mm512_maskz_mov_ps(rest, exponential(_mm512_sub_ps(last, top)));
    _mm512_store_ps(s + whole, e);
    return 1.0f / fold16(_mm512_add_ps(sum, e));
}

/* Columns [0, 16 * n_registers) of n_heads results. */
ES_INLINE_512 void add_columns(float *acc, const float *e, size_t stride, const float *tile,
                               int32_t n, const size_t width, const size_t n_heads,
                               const size_t n_registers) {
    __m512 sum[4][4];
    for (size_t h = 0; h < n_heads; h++) {
        for (size_t r = 0; r < n_registers; r++) {
            sum[h][r] = _mm512_load_ps(acc + h * width + 16 * r);
        }
    }
    for (int32_t j = 0; j < n; j++, tile += width) {
        for (size_t h = 0; h < n_heads; h++) {
            const __m512 weight = _mm512_set1_ps(e[h * stride + (size_t)j]);
            for (size_t r = 0; r < n_registers; r++) {
                const __m512 value = _mm512_load_ps(tile + 16 * r);
                sum[h][r] = _mm512_add_ps(sum[h][r], _mm512_mul_ps(weight, value));
            }
        }
    }
    for (size_t h = 0; h < n_heads; h++) {
        for (size_t r = 0; r < n_registers; r++) {
            _mm512_store_ps(acc + h * width + 16 * r, sum[h][r]);
        }
    }
}

ES_INLINE_512 void add_heads(float *acc, const float *e, size_t stride, const float *tile,
                             int32_t n, const size_t width, const size_t n_heads) {
    size_t i = 0;
    for (; i + 64 <= width; i += 64) {
        add_columns(acc + i, e, stride, tile + i, n, width, n_heads, 4);
    }
    for (; i < width; i += 16) {
        add_columns(acc + i, e, stride, tile + i, n, width, n_heads, 1);
    }
}

ES_INLINE_512 void add_values(float *acc, const float *e, size_t stride, const float *tile,
                              int32_t n, const size_t width, int32_t n_heads) {
    for (; n_heads >= 4; n_heads -= 4, acc += 4 * width, e += 4 * stride) {
        add_heads(acc, e, stride, tile, n, width, 4);
    }
    if (n_heads == 3) {
        add_heads(acc, e, stride, tile, n, width, 3);
    } else if (n_heads == 2) {
        add_heads(acc, e, stride, tile, n, width, 2);
    } else if (n_heads == 1) {
        add_heads(acc, e, stride, tile, n, width, 1);
    }
}

ES_INLINE_512 void scale_row(float *out, const float *acc, int32_t n, float factor) {
    for (int32_t i = 0; i < n; i += 16) {
        const __m512 y = _mm512_mul_ps(_mm512_load_ps(acc + i), _mm512_set1_ps(factor));
        _mm512_mask_storeu_ps(out + i, first_lanes(n - i), y);
    }
}

#include "kernels/attention/attention_driver.h"

void es_attention_avx512vnni(es_kernels *table) {
    es_attention_fill(table, "avx512");
}
