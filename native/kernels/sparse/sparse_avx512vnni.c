/* Neuron-major products with the 512-bit vpdpbusd, and lists by compression in registers.
 *
 * Four inputs' packed rows are interleaved byte by byte, so that a 32-bit lane holds one packed byte of
 * each and belongs to one output per field. Fields stay where they are in the byte: their int32 sums
 * come out 64, 16, 4 and 1 times as large, and exact. */
#define ES_CHUNK_INPUTS 64
#include "chunk.h"

#include <immintrin.h>
#include <string.h>

ES_INLINE __mmask16 first_lanes(int32_t n) {
    return (__mmask16)(n < 16 ? (1u << n) - 1 : 0xFFFFu);
}

/* The memory form of the compression is microcode on some processors. */
static int32_t list_positive(int32_t *list, const float *x, int32_t n) {
    const __m512i step = _mm512_set1_epi32(16);
    __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int32_t n_listed = 0;
    for (int32_t i = 0; i < n; i += 16) {
        const __mmask16 inside = first_lanes(n - i);
        const __m512 v = _mm512_maskz_loadu_ps(inside, x + i);
        const __mmask16 above = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GT_OQ);
        _mm512_storeu_si512(list + n_listed, _mm512_maskz_compress_epi32(above, index));
        n_listed += __builtin_popcount(above);
        index = _mm512_add_epi32(index, step);
    }
    return n_listed;
}

static int32_t list_nonzero(int32_t *list, const int8_t *q, int32_t n) {
    const __m512i step = _mm512_set1_epi32(16);
    __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int32_t n_listed = 0;
    for (int32_t i = 0; i < n; i += 16) {
        const __mmask16 inside = first_lanes(n - i);
        const __m128i v = _mm_maskz_loadu_epi8(inside, q + i);
        const __mmask16 live = _mm_test_epi8_mask(v, v);
        _mm512_storeu_si512(list + n_listed, _mm512_maskz_compress_epi32(live, index));
        n_listed += __builtin_popcount(live);
        index = _mm512_add_epi32(index, step);
    }
    return n_listed;
}

ES_INLINE __m512i multiply_add(__m512i acc, __m512i codes, __m512i x) {
    acc = _mm512_dpbusd_epi32(acc, codes, x);
    __asm__("" : "+v"(acc)); /* keeps GCC from shuffling sixteen accumulators between registers */
    return acc;
}

ES_INLINE void add16(int32_t *sums, __m512i v, const int shift) {
    const __m512i exact = _mm512_srai_epi32(v, (unsigned)shift);
    _mm512_storeu_si512(sums, _mm512_add_epi32(_mm512_loadu_si512(sums), exact));
}

/* One field of 64 packed bytes: acc[m] holds, in 128-bit lane L, bytes 16 L + 4 m and the next three. */
ES_INLINE void add_field(int32_t *sums, const __m512i acc[4], const int shift, const int blocks) {
    const __m512i a = _mm512_shuffle_i32x4(acc[0], acc[1], 0x44);
    const __m512i b = _mm512_shuffle_i32x4(acc[2], acc[3], 0x44);
    add16(sums, _mm512_shuffle_i32x4(a, b, 0x88), shift);
    add16(sums + 16, _mm512_shuffle_i32x4(a, b, 0xDD), shift);
    if (blocks == 2) {
        const __m512i c = _mm512_shuffle_i32x4(acc[0], acc[1], 0xEE);
        const __m512i d = _mm512_shuffle_i32x4(acc[2], acc[3], 0xEE);
        add16(sums + 128, _mm512_shuffle_i32x4(c, d, 0x88), shift);
        add16(sums + 144, _mm512_shuffle_i32x4(c, d, 0xDD), shift);
    }
}

ES_INLINE __m512i load(const uint8_t *p, const int blocks) {
    return blocks == 2 ? _mm512_loadu_si512(p)
                       : _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)p));
}

/* 128 `blocks` outputs, whose packed bytes begin at offset b of every row. */
ES_INLINE void t2n_line(int32_t *sums, size_t row_bytes, size_t b, const es_chunk *now,
                        es_near near, es_ask *ask, const int blocks) {
    const __m512i mask[4] = {_mm512_set1_epi8((char)192), _mm512_set1_epi8(48),
                             _mm512_set1_epi8(12), _mm512_set1_epi8(3)};
    __m512i acc[4][4];
#pragma GCC unroll 4
    for (int f = 0; f < 4; f++) {
#pragma GCC unroll 4
        for (int m = 0; m < 4; m++) {
            acc[f][m] = _mm512_setzero_si512();
        }
    }
    for (int32_t i = 0; i < now->n; i += 4) {
        int32_t quad;
        memcpy(&quad, now->q + i, sizeof quad);
        const __m512i x = _mm512_set1_epi32(quad);
        __m512i row[4], v[4];
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) {
            row[r] = load(now->rows[i + r] + b, blocks);
            __builtin_prefetch(near.rows[i + r] + near.offset, 0, 3);
        }
        es_ask_lines(ask, row_bytes);
        const __m512i lo01 = _mm512_unpacklo_epi8(row[0], row[1]);
        const __m512i hi01 = _mm512_unpackhi_epi8(row[0], row[1]);
        const __m512i lo23 = _mm512_unpacklo_epi8(row[2], row[3]);
        const __m512i hi23 = _mm512_unpackhi_epi8(row[2], row[3]);
        v[0] = _mm512_unpacklo_epi16(lo01, lo23);
        v[1] = _mm512_unpackhi_epi16(lo01, lo23);
        v[2] = _mm512_unpacklo_epi16(hi01, hi23);
        v[3] = _mm512_unpackhi_epi16(hi01, hi23);
#pragma GCC unroll 4
        for (int f = 0; f < 4; f++) {
#pragma GCC unroll 4
            for (int m = 0; m < 4; m++) {
                acc[f][m] = multiply_add(acc[f][m], _mm512_and_si512(v[m], mask[f]), x);
            }
        }
    }
#pragma GCC unroll 4
    for (int f = 0; f < 4; f++) {
        add_field(sums + 32 * f, acc[f], 6 - 2 * f, blocks);
    }
}

static void t2n_pass(int32_t *sums, size_t row_bytes, const es_chunk *now, const es_chunk *next) {
    size_t b = 0;
    es_ask ask = {next->rows, 0};
    for (; b + 64 <= row_bytes; b += 64, sums += 256) {
        t2n_line(sums, row_bytes, b, now, es_near_line(now, next, b, row_bytes), &ask, 2);
    }
    if (b < row_bytes) {
        t2n_line(sums, row_bytes, b, now, es_near_line(now, next, b, row_bytes), &ask, 1);
    }
}

static void t2n_sums(int32_t *sums, const uint8_t *w, size_t row_bytes, const int32_t *inputs,
                     int32_t n_inputs, const int8_t *q) {
    es_chunks(sums, w, row_bytes, inputs, n_inputs, q, 4, t2n_pass);
}

void es_sparse_avx512vnni(es_kernels *table) {
    table->list_positive = list_positive;
    table->list_nonzero = list_nonzero;
    table->t2n_sums = t2n_sums;
    table->t2n_variant = "avx512vnni";
}
