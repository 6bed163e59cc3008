/* Attention for AVX2 with F16C.
 *
 * Keys: eight positions at a time, so that their sums fold together instead of one by one. Values:
 * up to 64 elements of the result stay in registers over all positions. */
#include "kernels.h"
#include "kernels/half.h"
#include "kernels/prefetch.h"
#include "kernels/vector/vector_avx2.h"

#include <math.h>
#include <string.h>

/* Eight halfs of a row as floats; beyond the row's end zeros, and no byte is touched there. */
ES_INLINE_AVX2 __m256 load_row(const uint16_t *row, int32_t left) {
    if (left >= 8) {
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)row));
    }
    uint16_t part[8] = {0};
    if (left > 0) {
        memcpy(part, row, (size_t)left * sizeof *row);
    }
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)part));
}

/* The sixteen lanes of one dot product, folded once to eight. */
ES_INLINE_AVX2 __m256 dot_lanes(const float *q, const uint16_t *k, int32_t n) {
    __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256 k0 = load_row(k + i, 8), k1 = load_row(k + i + 8, 8);
        low = _mm256_add_ps(low, _mm256_mul_ps(_mm256_loadu_ps(q + i), k0));
        high = _mm256_add_ps(high, _mm256_mul_ps(_mm256_loadu_ps(q + i + 8), k1));
    }
    if (i < n) {
        const __m256 q0 = es_load_first(q + i, n - i);
        low = _mm256_add_ps(low, _mm256_mul_ps(q0, load_row(k + i, n - i)));
    }
    if (i + 8 < n) {
        const __m256 q1 = es_load_first(q + i + 8, n - i - 8);
        high = _mm256_add_ps(high, _mm256_mul_ps(q1, load_row(k + i + 8, n - i - 8)));
    }
    return _mm256_add_ps(low, high);
}

/* l[i] += l[i + 4] for two products: the first in the low half. */
ES_INLINE_AVX2 __m256 fold8(__m256 a, __m256 b) {
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

/* The fold's last two steps for four pairs of products; position order 0, 2, 4, 6, 1, 3, 5, 7. */
ES_INLINE_AVX2 __m256 fold4(__m256 p01, __m256 p23, __m256 p45, __m256 p67) {
    const __m256 a =
        _mm256_add_ps(_mm256_shuffle_ps(p01, p23, 0x44), _mm256_shuffle_ps(p01, p23, 0xee));
    const __m256 b =
        _mm256_add_ps(_mm256_shuffle_ps(p45, p67, 0x44), _mm256_shuffle_ps(p45, p67, 0xee));
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
}

/* s[j] = dot16(q, k_j) * scale for every position; returns the largest. */
ES_INLINE_AVX2 float scores(float *s, const float *q, const uint16_t *k, int32_t head_dim,
                            int32_t n_pos, float scale) {
    const size_t row = (size_t)head_dim;
    const __m256i ascending = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256 factor = _mm256_set1_ps(scale);
    __m256 largest = _mm256_set1_ps(-INFINITY);
    int32_t j = 0;
    for (; j + 8 <= n_pos; j += 8, k += 8 * row) {
        __m256 pair[4];
        for (size_t p = 0; p < 4; p++) {
            es_prefetch_ahead(k + 2 * p * row, 2 * row * sizeof *k);
            pair[p] = fold8(dot_lanes(q, k + 2 * p * row, head_dim),
                            dot_lanes(q, k + (2 * p + 1) * row, head_dim));
        }
        const __m256 sums = fold4(pair[0], pair[1], pair[2], pair[3]);
        const __m256 v = _mm256_mul_ps(_mm256_permutevar8x32_ps(sums, ascending), factor);
        largest = _mm256_max_ps(v, largest);
        _mm256_storeu_ps(s + j, v);
    }
    float top = es_max8_avx2(largest);
    for (; j < n_pos; j++, k += row) {
        s[j] = es_fold16_avx2(dot_lanes(q, k, head_dim), _mm256_setzero_ps()) * scale;
        top = s[j] > top ? s[j] : top;
    }
    return top;
}

/* s[j] = exp(s[j] - top); returns their sum over sixteen lanes. */
ES_INLINE_AVX2 float exponentials(float *s, int32_t n_pos, float top) {
    const __m256 shift = _mm256_set1_ps(top);
    __m256 lane[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int32_t j = 0; j < n_pos; j += 16) {
        for (int h = 0; h < 2; h++) {
            const int32_t left = n_pos - j - 8 * h;
            float *at = s + j + 8 * h;
            const __m256 e = es_exp_avx2(_mm256_sub_ps(es_load_first(at, left), shift));
            const __m256 kept = _mm256_and_ps(e, _mm256_castsi256_ps(es_first_lanes(left)));
            lane[h] = _mm256_add_ps(lane[h], kept);
            es_store_first(at, e, left);
        }
    }
    return es_fold16_avx2(lane[0], lane[1]);
}

/* Elements [0, 8 * n_registers) of the weighted sum of rows `row` halfs apart; `left` elements of
 * the rows exist from v on. */
ES_INLINE_AVX2 void values(float *out, const float *e, const uint16_t *v, size_t row, int32_t n_pos,
                           float inverse, const int n_registers, const int32_t left) {
    __m256 acc[8];
    for (int r = 0; r < n_registers; r++) {
        acc[r] = _mm256_setzero_ps();
    }
    for (int32_t j = 0; j < n_pos; j++, v += row) {
        const __m256 weight = _mm256_set1_ps(e[j]);
        es_prefetch_ahead(v, (size_t)n_registers * 16);
        for (int r = 0; r < n_registers; r++) {
            acc[r] =
                _mm256_add_ps(acc[r], _mm256_mul_ps(weight, load_row(v + 8 * r, left - 8 * r)));
        }
    }
    for (int r = 0; r < n_registers; r++) {
        const __m256 y = _mm256_mul_ps(acc[r], _mm256_set1_ps(inverse));
        es_store_first(out + 8 * r, y, left - 8 * r);
    }
}

static void attention(float *out, const float *q, const uint16_t *k, const uint16_t *v,
                      int32_t head_dim, int32_t n_pos, float scale, float *scratch) {
    const size_t row = (size_t)head_dim;
    const float top = head_dim == 64    ? scores(scratch, q, k, 64, n_pos, scale)
                      : head_dim == 128 ? scores(scratch, q, k, 128, n_pos, scale)
                                        : scores(scratch, q, k, head_dim, n_pos, scale);
    const float inverse = 1.0f / exponentials(scratch, n_pos, top);
    int32_t i = 0;
    for (; i + 64 <= head_dim; i += 64) {
        values(out + i, scratch, v + i, row, n_pos, inverse, 8, 64);
    }
    for (; i + 32 <= head_dim; i += 32) {
        values(out + i, scratch, v + i, row, n_pos, inverse, 4, 32);
    }
    for (; i + 8 <= head_dim; i += 8) {
        values(out + i, scratch, v + i, row, n_pos, inverse, 1, 8);
    }
    if (i < head_dim) {
        values(out + i, scratch, v + i, row, n_pos, inverse, 1, head_dim - i);
    }
}

void es_attention_avx2(es_kernels *table) {
    table->attention = attention;
    table->attention_variant = "avx2";
}
