/* Attention for AVX2 with F16C: the sixteen lanes of dot16 are two registers. */
#include "kernels.h"
#include "kernels/attention/cache_rows.h"
#include "kernels/kvsparse/kvsparse_avx2.h"
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

/* Eight elements of a pruned row as floats. */
ES_INLINE_AVX2 __m256 next_eight(const uint8_t **kept, size_t bits) {
    return _mm256_cvtph_ps(es_next_halfs(kept, bits));
}

ES_INLINE_AVX2 void widen_pruned_row(float *to, const uint8_t *row, int32_t n) {
    const uint8_t *kept = row + es_sparse_bitmap_bytes(n);
    for (size_t i = 0; i < es_attention_width((size_t)n); i += 8) {
        _mm256_store_ps(to + i, next_eight(&kept, row[i / 8]));
    }
}

/* The step of the q8_0 block of element i. */
ES_INLINE_AVX2 __m256 load_step(const uint8_t *row, size_t i) {
    int16_t half;
    memcpy(&half, row + es_source_offset(ES_SOURCE_Q8_0, i), sizeof half);
    return _mm256_cvtph_ps(_mm_set1_epi16(half));
}

/* Elements [i, i + 8) of a row; `step` is that of their block and of no matter to other kinds. */
ES_INLINE_AVX2 __m256 load_eight(const uint8_t *row, size_t i, const es_source_kind kind,
                                 __m256 step) {
    const uint8_t *at = row + es_source_offset(kind, i);
    if (kind == ES_SOURCE_F32) {
        return _mm256_load_ps((const float *)(const void *)at);
    }
    if (kind == ES_SOURCE_F16) {
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)at));
    }
    const __m128i codes =
        _mm_loadl_epi64((const __m128i *)(const void *)(at + 2 + i % ES_CACHE_BLOCK));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)), step);
}

/* Lanes 0 to 7 and 8 to 15 of the products of a row with n_queries queries. */
ES_INLINE_AVX2 void multiply_row(__m256 *low, __m256 *high, const float *q, const size_t n_queries,
                                 const size_t width, const uint8_t *row,
                                 const es_source_kind kind) {
    __m256 step = kind == ES_SOURCE_Q8_0 ? load_step(row, 0) : _mm256_setzero_ps();
    const __m256 first = load_eight(row, 0, kind, step), second = load_eight(row, 8, kind, step);
    for (size_t h = 0; h < n_queries; h++) {
        low[h] = _mm256_mul_ps(_mm256_load_ps(q + h * width), first);
        high[h] = _mm256_mul_ps(_mm256_load_ps(q + h * width + 8), second);
    }
    for (size_t i = 16; i < width; i += 16) {
        if (kind == ES_SOURCE_Q8_0 && i % ES_CACHE_BLOCK == 0) {
            step = load_step(row, i);
        }
        const __m256 a = load_eight(row, i, kind, step), b = load_eight(row, i + 8, kind, step);
        for (size_t h = 0; h < n_queries; h++) {
            const float *to = q + h * width + i;
            low[h] = _mm256_add_ps(low[h], _mm256_mul_ps(_mm256_load_ps(to), a));
            high[h] = _mm256_add_ps(high[h], _mm256_mul_ps(_mm256_load_ps(to + 8), b));
        }
    }
}

/* The same for a pruned row. */
ES_INLINE_AVX2 void multiply_pruned_row(__m256 *low, __m256 *high, const float *q,
                                        const size_t n_queries, const size_t width,
                                        const uint8_t *row) {
    const uint8_t *kept = row + es_sparse_bitmap_bytes((int32_t)width);
    const __m256 first = next_eight(&kept, row[0]), second = next_eight(&kept, row[1]);
    for (size_t h = 0; h < n_queries; h++) {
        low[h] = _mm256_mul_ps(_mm256_load_ps(q + h * width), first);
        high[h] = _mm256_mul_ps(_mm256_load_ps(q + h * width + 8), second);
    }
#pragma GCC unroll 8
    for (size_t i = 16; i < width; i += 16) {
        const __m256 a = next_eight(&kept, row[i / 8]), b = next_eight(&kept, row[i / 8 + 1]);
        for (size_t h = 0; h < n_queries; h++) {
            const float *to = q + h * width + i;
            low[h] = _mm256_add_ps(low[h], _mm256_mul_ps(_mm256_load_ps(to), a));
            high[h] = _mm256_add_ps(high[h], _mm256_mul_ps(_mm256_load_ps(to + 8), b));
        }
    }
}

/* Four sums of eight lanes, folded. */
ES_INLINE_AVX2 __m128 fold_four(const __m256 *eight) {
    const __m256 a = _mm256_add_ps(_mm256_permute2f128_ps(eight[0], eight[2], 0x20),
                                   _mm256_permute2f128_ps(eight[0], eight[2], 0x31));
    const __m256 b = _mm256_add_ps(_mm256_permute2f128_ps(eight[1], eight[3], 0x20),
                                   _mm256_permute2f128_ps(eight[1], eight[3], 0x31));
    /* Sums 0 and 1 in the lower half, 2 and 3 in the upper, two lanes each. */
    const __m256 two = _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
    const __m128 c = _mm256_castps256_ps128(two), d = _mm256_extractf128_ps(two, 1);
    return _mm_add_ps(_mm_shuffle_ps(c, d, 0x88), _mm_shuffle_ps(c, d, 0xdd));
}

/* A row is read once for all queries. Four rows are folded together, so that the next ones need not wait. */
ES_INLINE_AVX2 void score_rows(float *s, size_t stride, const float *q, const size_t n_queries,
                               const es_source_rows *rows, int32_t n, const size_t width,
                               float scale) {
    for (int32_t r = 0; r < n; r += 4) {
        __m256 sums[4][4];
        for (int k = 0; k < 4; k++) {
            __m256 low[4], high[4];
            const uint8_t *row = es_source_row(rows, r + k, n);
            es_prefetch_row(row, rows);
            if (rows->kind == ES_SOURCE_PRUNED) {
                multiply_pruned_row(low, high, q, n_queries, width, row);
            } else {
                multiply_row(low, high, q, n_queries, width, row, rows->kind);
            }
            for (size_t h = 0; h < n_queries; h++) {
                sums[h][k] = _mm256_add_ps(low[h], high[h]);
            }
        }
        for (size_t h = 0; h < n_queries; h++) {
            _mm_storeu_ps(s + h * stride + r, _mm_mul_ps(fold_four(sums[h]), _mm_set1_ps(scale)));
        }
    }
}

ES_INLINE_AVX2 void weigh(float *s, int32_t low, int32_t high, float *part) {
    const __m256 nothing = _mm256_set1_ps(-INFINITY);
    __m256 m0 = nothing, m1 = nothing;
    for (int32_t j = low; j < high; j += 16) {
        m0 = _mm256_max_ps(_mm256_load_ps(s + j), m0);
        m1 = _mm256_max_ps(_mm256_load_ps(s + j + 8), m1);
    }
    part[ES_PART_TOP] = es_max8_avx2(_mm256_max_ps(m0, m1));
    const __m256 top = _mm256_set1_ps(part[ES_PART_TOP]);
    __m256 lane[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int32_t j = low; j < high; j += 16) {
        for (int h = 0; h < 2; h++) {
            const __m256 score = _mm256_load_ps(s + j + 8 * h);
            const __m256 kept = _mm256_cmp_ps(score, nothing, _CMP_NEQ_UQ);
            const __m256 e = _mm256_and_ps(es_exp_avx2(_mm256_sub_ps(score, top)), kept);
            lane[h] = _mm256_add_ps(lane[h], e);
            _mm256_store_ps(s + j + 8 * h, e);
        }
    }
    part[ES_PART_SUM] = es_fold16_avx2(lane[0], lane[1]);
}

/* Columns [column, column + 8 * n_registers) of n_queries results. */
ES_INLINE_AVX2 void add_columns(float *const *acc, const size_t width, size_t column,
                                const float *e, size_t stride, const size_t n_queries,
                                const es_source_rows *rows, int32_t n, const size_t n_registers) {
    __m256 sum[4][8];
    for (size_t h = 0; h < n_queries; h++) {
        for (size_t r = 0; r < n_registers; r++) {
            sum[h][r] = _mm256_load_ps(acc[h] + column + 8 * r);
        }
    }
    const uint8_t *row = rows->data;
    /* Every strip asks for its share of the rows behind these. */
    const size_t n_ahead = rows->kind == ES_SOURCE_F16 ? 8 * n_registers * sizeof(uint16_t)
                                                       : rows->row_bytes * 8 * n_registers / width;
    const uint8_t *ahead =
        row + (size_t)n * (rows->row_bytes + n_ahead * (column / 8 / n_registers));
    for (int32_t j = 0; j < n; j++, row += rows->row_bytes) {
        if (rows->kind != ES_SOURCE_F32) {
            es_prefetch_lines(ahead + (size_t)j * n_ahead, n_ahead);
        }
        __m256 step = _mm256_setzero_ps();
        for (size_t r = 0; r < n_registers; r++) {
            if (rows->kind == ES_SOURCE_Q8_0 &&
                (r == 0 || (column + 8 * r) % ES_CACHE_BLOCK == 0)) {
                step = load_step(row, column + 8 * r);
            }
            const __m256 value = load_eight(row, column + 8 * r, rows->kind, step);
            for (size_t h = 0; h < n_queries; h++) {
                const __m256 weight = _mm256_broadcast_ss(e + h * stride + (size_t)j);
                sum[h][r] = _mm256_add_ps(sum[h][r], _mm256_mul_ps(weight, value));
            }
        }
    }
    for (size_t h = 0; h < n_queries; h++) {
        for (size_t r = 0; r < n_registers; r++) {
            _mm256_store_ps(acc[h] + column + 8 * r, sum[h][r]);
        }
    }
}

/* Sixteen registers hold no more than eight sums at once. */
ES_INLINE_AVX2 void add_rows(float *const *acc, const float *e, size_t stride,
                             const size_t n_queries, const es_source_rows *rows, int32_t n,
                             const size_t width) {
    const size_t n_registers = n_queries >= 3 ? 2 : n_queries == 2 ? 4 : 8;
    size_t i = 0;
    for (; i + 8 * n_registers <= width; i += 8 * n_registers) {
        add_columns(acc, width, i, e, stride, n_queries, rows, n, n_registers);
    }
    for (; i < width; i += 16) {
        add_columns(acc, width, i, e, stride, n_queries, rows, n, 2);
    }
}

enum { ES_VALUE_ROWS = 32 };

#define ES_READS_PRUNED 1

#include "kernels/attention/attention_driver.h"

void es_attention_avx2(es_kernels *table) {
    table->attention = es_attention;
    table->attention_reads_pruned = ES_READS_PRUNED;
    table->attention_variant = "avx2";
}
