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

/* Sixteen elements of a pruned row; moves `kept` behind them, and reads 32 bytes from there. */
ES_INLINE_512 __m512 next_sixteen(const uint8_t **kept, const uint8_t *bitmap) {
    uint16_t bits;
    memcpy(&bits, bitmap, sizeof bits);
    const __m512 packed = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)*kept));
    *kept += 2 * (size_t)(unsigned)__builtin_popcount(bits);
    return _mm512_maskz_expand_ps(bits, packed);
}

ES_INLINE_512 void widen_pruned_row(float *to, const uint8_t *row, int32_t n) {
    const uint8_t *kept = row + es_sparse_bitmap_bytes(n);
    for (size_t i = 0; i < es_attention_width((size_t)n); i += 16) {
        _mm512_store_ps(to + i, next_sixteen(&kept, row + i / 8));
    }
}

/* Rows of the cache are asked for twice: far ahead into the second level, which waits for more lines at once
 * than the first, and shortly before use into the first. */
enum { ES_FAR_BYTES = 4096, ES_NEAR_BYTES = 512 };

ES_INLINE_512 void prefetch_far(const uint8_t *p, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i += ES_CACHE_LINE) {
        __builtin_prefetch((const void *)((uintptr_t)p + ES_FAR_BYTES + i), 0, 2);
    }
}

/* Elements [i, i + 16) of a row. */
ES_INLINE_512 __m512 load_sixteen(const uint8_t *row, size_t i, const es_source_kind kind) {
    const uint8_t *at = row + es_source_offset(kind, i);
    if (kind == ES_SOURCE_F32) {
        return _mm512_load_ps((const float *)(const void *)at);
    }
    if (kind == ES_SOURCE_F16) {
        return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)at));
    }
    int16_t half;
    memcpy(&half, at, sizeof half);
    const __m128i codes =
        _mm_loadu_si128((const __m128i *)(const void *)(at + 2 + i % ES_CACHE_BLOCK));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)),
                         _mm512_cvtph_ps(_mm256_set1_epi16(half)));
}

/* l[i] += l[i + 8], then l[i + 4] of four sums, which end up in one quarter each. */
ES_INLINE_512 __m512 fold_quarters(const __m512 *lane) {
    const __m512 a = _mm512_add_ps(_mm512_shuffle_f32x4(lane[0], lane[1], 0x44),
                                   _mm512_shuffle_f32x4(lane[0], lane[1], 0xee));
    const __m512 b = _mm512_add_ps(_mm512_shuffle_f32x4(lane[2], lane[3], 0x44),
                                   _mm512_shuffle_f32x4(lane[2], lane[3], 0xee));
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

/* l[i] += l[i + 2] within the quarters of both. */
ES_INLINE_512 __m512 fold_pairs(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
}

/* The sixteen lanes of sixteen sums, folded. Sum 4 a + b is element a of quarter b. */
ES_INLINE_512 __m512 fold_sixteen(const __m512 *lane) {
    const __m512 a = fold_pairs(fold_quarters(lane), fold_quarters(lane + 4));
    const __m512 b = fold_pairs(fold_quarters(lane + 8), fold_quarters(lane + 12));
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}

/* Sixteen sums at a time: n_rows rows with each of n_queries queries. */
ES_INLINE_512 void score_block(float *s, size_t stride, const float *q, const size_t n_queries,
                               const es_source_rows *rows, int32_t r, int32_t n, const size_t width,
                               const size_t n_rows, __m512 scale) {
    const uint8_t *row[16];
    const uint8_t *kept[16]; /* of pruned rows: what was not read yet */
    __m512 lane[16];
    for (size_t k = 0; k < n_rows; k++) {
        row[k] = es_source_row(rows, r + (int32_t)k, n);
        kept[k] = row[k] + es_sparse_bitmap_bytes((int32_t)width);
        if (rows->kind != ES_SOURCE_F32) {
            prefetch_far(row[k], rows->row_bytes);
            es_prefetch_lines(row[k] + ES_NEAR_BYTES, rows->row_bytes);
        }
        const __m512 element = rows->kind == ES_SOURCE_PRUNED ? next_sixteen(&kept[k], row[k])
                                                              : load_sixteen(row[k], 0, rows->kind);
        for (size_t h = 0; h < n_queries; h++) {
            lane[h * n_rows + k] = _mm512_mul_ps(_mm512_load_ps(q + h * width), element);
        }
    }
    for (size_t i = 16; i < width; i += 16) {
        for (size_t k = 0; k < n_rows; k++) {
            const __m512 element = rows->kind == ES_SOURCE_PRUNED
                                       ? next_sixteen(&kept[k], row[k] + i / 8)
                                       : load_sixteen(row[k], i, rows->kind);
            for (size_t h = 0; h < n_queries; h++) {
                const __m512 factor = _mm512_load_ps(q + h * width + i);
                lane[h * n_rows + k] =
                    _mm512_add_ps(lane[h * n_rows + k], _mm512_mul_ps(factor, element));
            }
        }
    }
    for (size_t i = n_queries * n_rows; i < 16; i++) {
        lane[i] = lane[0];
    }
    /* Row 4 a + b of a query came out as element a of quarter b. */
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512 sums = _mm512_mul_ps(_mm512_permutexvar_ps(order, fold_sixteen(lane)), scale);
    if (n_rows == 16) {
        _mm512_storeu_ps(s + r, sums);
    } else if (n_rows == 8) {
        _mm256_storeu_ps(s + r, _mm512_castps512_ps256(sums));
        _mm256_storeu_ps(s + stride + r, _mm512_extractf32x8_ps(sums, 1));
    } else {
        _mm_storeu_ps(s + r, _mm512_castps512_ps128(sums));
        _mm_storeu_ps(s + stride + r, _mm512_extractf32x4_ps(sums, 1));
        _mm_storeu_ps(s + 2 * stride + r, _mm512_extractf32x4_ps(sums, 2));
        if (n_queries == 4) {
            _mm_storeu_ps(s + 3 * stride + r, _mm512_extractf32x4_ps(sums, 3));
        }
    }
}

ES_INLINE_512 void score_rows(float *s, size_t stride, const float *q, const size_t n_queries,
                              const es_source_rows *rows, int32_t n, const size_t width,
                              float scale) {
    const size_t n_rows = n_queries == 1 ? 16 : n_queries == 2 ? 8 : 4;
    const __m512 factor = _mm512_set1_ps(scale);
    for (int32_t r = 0; r < n; r += (int32_t)n_rows) {
        score_block(s, stride, q, n_queries, rows, r, n, width, n_rows, factor);
    }
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

ES_INLINE_512 void weigh(float *s, int32_t low, int32_t high, float *part) {
    const __m512 nothing = _mm512_set1_ps(-INFINITY);
    __m512 largest = nothing;
    for (int32_t j = low; j < high; j += 16) {
        largest = _mm512_max_ps(_mm512_load_ps(s + j), largest);
    }
    part[ES_PART_TOP] = _mm512_reduce_max_ps(largest);
    const __m512 top = _mm512_set1_ps(part[ES_PART_TOP]);
    __m512 sum = _mm512_setzero_ps();
    for (int32_t j = low; j < high; j += 16) {
        const __m512 score = _mm512_load_ps(s + j);
        const __mmask16 kept = _mm512_cmp_ps_mask(score, nothing, _CMP_NEQ_UQ);
        const __m512 e = _mm512_maskz_mov_ps(kept, exponential(_mm512_sub_ps(score, top)));
        sum = _mm512_add_ps(sum, e);
        _mm512_store_ps(s + j, e);
    }
    part[ES_PART_SUM] = fold16(sum);
}

/* Columns [column, column + 16 * n_registers) of n_queries results. */
ES_INLINE_512 void add_columns(float *const *acc, const size_t width, size_t column, const float *e,
                               size_t stride, const size_t n_queries, const es_source_rows *rows,
                               int32_t n, const size_t n_registers) {
    __m512 sum[4][4];
    for (size_t h = 0; h < n_queries; h++) {
        for (size_t r = 0; r < n_registers; r++) {
            sum[h][r] = _mm512_load_ps(acc[h] + column + 16 * r);
        }
    }
    const uint8_t *row = rows->data;
    /* Every strip asks for its share of the rows behind these. */
    const size_t n_ahead = rows->row_bytes * 16 * n_registers / width;
    const uint8_t *ahead =
        row + (size_t)n * (rows->row_bytes + n_ahead * (column / 16 / n_registers));
    for (int32_t j = 0; j < n; j++, row += rows->row_bytes) {
        if (rows->kind != ES_SOURCE_F32) {
            const uint8_t *share = ahead + (size_t)j * n_ahead;
            prefetch_far(share, n_ahead);
            es_prefetch_lines(share, n_ahead);
        }
        for (size_t r = 0; r < n_registers; r++) {
            const __m512 value = load_sixteen(row, column + 16 * r, rows->kind);
            for (size_t h = 0; h < n_queries; h++) {
                const __m512 weight = _mm512_set1_ps(e[h * stride + (size_t)j]);
                sum[h][r] = _mm512_add_ps(sum[h][r], _mm512_mul_ps(weight, value));
            }
        }
    }
    for (size_t h = 0; h < n_queries; h++) {
        for (size_t r = 0; r < n_registers; r++) {
            _mm512_store_ps(acc[h] + column + 16 * r, sum[h][r]);
        }
    }
}

ES_INLINE_512 void add_rows(float *const *acc, const float *e, size_t stride,
                            const size_t n_queries, const es_source_rows *rows, int32_t n,
                            const size_t width) {
    size_t i = 0;
    for (; i + 64 <= width; i += 64) {
        add_columns(acc, width, i, e, stride, n_queries, rows, n, 4);
    }
    for (; i < width; i += 16) {
        add_columns(acc, width, i, e, stride, n_queries, rows, n, 1);
    }
}

enum { ES_VALUE_ROWS = 8 };

#define ES_READS_PRUNED 1
#include "kernels/attention/attention_driver.h"

void es_attention_avx512vnni(es_kernels *table) {
    table->attention = es_attention;
    table->attention_reads_pruned = ES_READS_PRUNED;
    table->attention_variant = "avx512";
}
