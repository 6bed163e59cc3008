/* Bit slices by columns with vpdpbusd: four columns' bytes are interleaved, and whole bytes multiplied, which
 * hold the codes of several rows. A sum without the lowest code of each byte tells that one from the others,
 * and so on; shifts take off what a code's place makes of it. No sum exceeds 255 * 127 * 32 < 2^20.
 *
 * The includer defines dot256: vpdpbusd. */
#ifndef ES_SLICE_FOURS256_H
#define ES_SLICE_FOURS256_H

#include "kernels/bitslice/slice_256.h"
#include "kernels/bitslice/slice_line.h"

enum { ES_COLUMNS_AT_ONCE = 4 };

ES_INLINE __m256i dot_kept256(__m256i acc, __m256i codes, __m256i q) {
    acc = dot256(acc, codes, q);
    ES_KEEP_ORDER("x", acc);
    return acc;
}

/* 8 rows' sums join their floats. */
ES_INLINE void collect_rows256(float *f, __m256i sums, __m256i zero, __m256 d, const int is_first) {
    const __m256 part = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(sums, zero)), d);
    _mm256_storeu_ps(f, is_first ? part : _mm256_add_ps(_mm256_loadu_ps(f), part));
}

/* The interleaved bytes of a half of 32-byte lines: 8 rows by four columns in each vector. */
ES_INLINE void weave256(__m256i out[2], const uint8_t *const c[4], const int high) {
    __m256i x[4];
    for (int i = 0; i < 4; i++) {
        x[i] = _mm256_loadu_si256((const __m256i *)c[i]);
    }
    const __m256i a = high ? _mm256_unpackhi_epi8(x[0], x[1]) : _mm256_unpacklo_epi8(x[0], x[1]);
    const __m256i b = high ? _mm256_unpackhi_epi8(x[2], x[3]) : _mm256_unpacklo_epi8(x[2], x[3]);
    out[0] = _mm256_unpacklo_epi16(a, b);
    out[1] = _mm256_unpackhi_epi16(a, b);
}

ES_INLINE void four_columns(const uint8_t *c[4], const es_line_columns *l, int32_t p, size_t at) {
    c[0] = l->codes + l->pairs[p].a * l->column + at;
    c[1] = l->codes + l->pairs[p].b * l->column + at;
    c[2] = l->codes + l->pairs[p + 1].a * l->column + at;
    c[3] = l->codes + l->pairs[p + 1].b * l->column + at;
}

ES_INLINE void prefetch_fours(const es_line_columns *l, int32_t p) {
    if (p < l->n_next) {
        es_prefetch_pair(l, p);
        es_prefetch_pair(l, p + 1);
    }
}

/* Two bits, 16 bytes of each lane's interleaved 32: rows 16 * high + 8 i + 32 j, i = 0, 1, j = 0 ... 3. */
ES_INLINE void two_bits256(float *f, const es_line_columns *l, __m256i zero, __m256 d,
                           const int is_first, const int high) {
    const __m256i above[3] = {_mm256_set1_epi8((char)0xfc), _mm256_set1_epi8((char)0xf0),
                              _mm256_set1_epi8((char)0xc0)};
    __m256i sums[2][4];
    for (int i = 0; i < 8; i++) {
        sums[i / 4][i % 4] = _mm256_setzero_si256();
    }
    for (int32_t p = 0; p < l->n; p += 2) {
        const uint8_t *c[4];
        __m256i v[2];
        const __m256i q = _mm256_set1_epi32((int32_t)l->pairs[p].q);
        four_columns(c, l, p, 0);
        weave256(v, c, high);
        if (!high) {
            prefetch_fours(l, p);
        }
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            sums[i][0] = dot_kept256(sums[i][0], v[i], q);
#pragma GCC unroll 3
            for (int j = 1; j < 4; j++) {
                sums[i][j] = dot_kept256(sums[i][j], _mm256_and_si256(v[i], above[j - 1]), q);
            }
        }
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const __m256i *s = sums[i];
        float *to = f + 16 * high + 8 * i;
        collect_rows256(to, _mm256_sub_epi32(s[0], s[1]), zero, d, is_first);
        collect_rows256(to + 32, _mm256_srai_epi32(_mm256_sub_epi32(s[1], s[2]), 2), zero, d,
                        is_first);
        collect_rows256(to + 64, _mm256_srai_epi32(_mm256_sub_epi32(s[2], s[3]), 4), zero, d,
                        is_first);
        collect_rows256(to + 96, _mm256_srai_epi32(s[3], 6), zero, d, is_first);
    }
}

/* Nibbles, 32 bytes of a line from byte 32 * half on: rows 16 m + 8 * half + 64 j, m = 0 ... 3, j = 0, 1. */
ES_INLINE void nibbles256(float *f, const es_line_columns *l, __m256i zero, __m256 d,
                          const int is_first, const int half) {
    const __m256i above = _mm256_set1_epi8((char)0xf0);
    __m256i all[4], upper[4];
    for (int m = 0; m < 4; m++) {
        all[m] = upper[m] = _mm256_setzero_si256();
    }
    for (int32_t p = 0; p < l->n; p += 2) {
        const uint8_t *c[4];
        __m256i v[4];
        const __m256i q = _mm256_set1_epi32((int32_t)l->pairs[p].q);
        four_columns(c, l, p, 32 * (size_t)half);
        weave256(v, c, 0);
        weave256(v + 2, c, 1);
        if (half == 0) {
            prefetch_fours(l, p);
        }
#pragma GCC unroll 4
        for (int m = 0; m < 4; m++) {
            all[m] = dot_kept256(all[m], v[m], q);
            upper[m] = dot_kept256(upper[m], _mm256_and_si256(v[m], above), q);
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < 4; m++) {
        float *to = f + 16 * m + 8 * half;
        collect_rows256(to, _mm256_sub_epi32(all[m], upper[m]), zero, d, is_first);
        collect_rows256(to + 64, _mm256_srai_epi32(upper[m], 4), zero, d, is_first);
    }
}

ES_INLINE void list_line256(float *f, const es_line_columns *l, float step, int32_t zero,
                            const int is_first, const int planes) {
    const __m256i zeros = _mm256_set1_epi32(zero);
    const __m256 d = _mm256_set1_ps(step);
    if (planes == 2) {
        two_bits256(f, l, zeros, d, is_first, 0);
        two_bits256(f, l, zeros, d, is_first, 1);
    } else {
        nibbles256(f, l, zeros, d, is_first, 0);
        nibbles256(f, l, zeros, d, is_first, 1);
    }
}

#endif
