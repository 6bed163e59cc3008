/* Bit slices by columns with the 512-bit vpdpbusd; see slice_fours256.h. A line of nibbles fills a register,
 * and so do two lines of two bits, which lie side by side. */
#ifndef ES_SLICE_FOURS512_H
#define ES_SLICE_FOURS512_H

#include "kernels/bitslice/slice_fours256.h"

ES_INLINE __m512i dot_kept512(__m512i acc, __m512i codes, __m512i q) {
    acc = _mm512_dpbusd_epi32(acc, codes, q);
    ES_KEEP_ORDER("v", acc);
    return acc;
}

/* 16 rows' floats, those before with `sums`. */
ES_INLINE __m512 floats512(__m512i sums, __m512i zero, __m512 d) {
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sums, zero)), d);
}

ES_INLINE void collect_rows512(float *f, __m512 part, const int is_first) {
    _mm512_storeu_ps(f, is_first ? part : _mm512_add_ps(_mm512_loadu_ps(f), part));
}

/* 8 rows of each of two lines. */
ES_INLINE void collect_lines512(float *f, __m512 part, const int is_first) {
    const __m256 a = _mm512_castps512_ps256(part), b = _mm512_extractf32x8_ps(part, 1);
    float *g = f + ES_SLICE_LINE_ROWS;
    _mm256_storeu_ps(f, is_first ? a : _mm256_add_ps(_mm256_loadu_ps(f), a));
    _mm256_storeu_ps(g, is_first ? b : _mm256_add_ps(_mm256_loadu_ps(g), b));
}

/* Four columns' interleaved bytes: rows by four columns, m = 0 ... 3 one after the other. */
ES_INLINE void weave512(__m512i out[4], const uint8_t *const c[4]) {
    __m512i x[4];
    for (int i = 0; i < 4; i++) {
        x[i] = _mm512_loadu_si512(c[i]);
    }
    const __m512i a = _mm512_unpacklo_epi8(x[0], x[1]), b = _mm512_unpacklo_epi8(x[2], x[3]);
    const __m512i e = _mm512_unpackhi_epi8(x[0], x[1]), g = _mm512_unpackhi_epi8(x[2], x[3]);
    out[0] = _mm512_unpacklo_epi16(a, b);
    out[1] = _mm512_unpackhi_epi16(a, b);
    out[2] = _mm512_unpacklo_epi16(e, g);
    out[3] = _mm512_unpackhi_epi16(e, g);
}

ES_INLINE void two_lines512(float *f, const es_line_columns *l, __m512i zero, __m512 d,
                            const int is_first) {
    const __m512i above[3] = {_mm512_set1_epi8((char)0xfc), _mm512_set1_epi8((char)0xf0),
                              _mm512_set1_epi8((char)0xc0)};
    __m512i sums[4][4];
    for (int i = 0; i < 16; i++) {
        sums[i / 4][i % 4] = _mm512_setzero_si512();
    }
    for (int32_t p = 0; p < l->n; p += 2) {
        const uint8_t *c[4];
        __m512i v[4];
        const __m512i q = _mm512_set1_epi32((int32_t)l->pairs[p].q);
        four_columns(c, l, p, 0);
        weave512(v, c);
        prefetch_fours(l, p);
#pragma GCC unroll 4
        for (int m = 0; m < 4; m++) {
            sums[m][0] = dot_kept512(sums[m][0], v[m], q);
#pragma GCC unroll 3
            for (int j = 1; j < 4; j++) {
                sums[m][j] = dot_kept512(sums[m][j], _mm512_and_si512(v[m], above[j - 1]), q);
            }
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < 4; m++) {
        const __m512i *s = sums[m];
        float *to = f + 8 * m;
        const __m512i one = _mm512_srai_epi32(_mm512_sub_epi32(s[1], s[2]), 2);
        const __m512i two = _mm512_srai_epi32(_mm512_sub_epi32(s[2], s[3]), 4);
        collect_lines512(to, floats512(_mm512_sub_epi32(s[0], s[1]), zero, d), is_first);
        collect_lines512(to + 32, floats512(one, zero, d), is_first);
        collect_lines512(to + 64, floats512(two, zero, d), is_first);
        collect_lines512(to + 96, floats512(_mm512_srai_epi32(s[3], 6), zero, d), is_first);
    }
}

ES_INLINE void nibbles512(float *f, const es_line_columns *l, __m512i zero, __m512 d,
                          const int is_first) {
    const __m512i above = _mm512_set1_epi8((char)0xf0);
    __m512i all[4], upper[4];
    for (int m = 0; m < 4; m++) {
        all[m] = upper[m] = _mm512_setzero_si512();
    }
    for (int32_t p = 0; p < l->n; p += 2) {
        const uint8_t *c[4];
        __m512i v[4];
        const __m512i q = _mm512_set1_epi32((int32_t)l->pairs[p].q);
        four_columns(c, l, p, 0);
        weave512(v, c);
        prefetch_fours(l, p);
#pragma GCC unroll 4
        for (int m = 0; m < 4; m++) {
            all[m] = dot_kept512(all[m], v[m], q);
            upper[m] = dot_kept512(upper[m], _mm512_and_si512(v[m], above), q);
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < 4; m++) {
        const __m512i low = _mm512_sub_epi32(all[m], upper[m]);
        collect_rows512(f + 16 * m, floats512(low, zero, d), is_first);
        collect_rows512(f + 64 + 16 * m, floats512(_mm512_srai_epi32(upper[m], 4), zero, d),
                        is_first);
    }
}

ES_INLINE size_t list_line(float *f, const es_line_columns *l, size_t n_lines, float step,
                           int32_t zero, const int is_first, const int planes) {
    if (planes == 2 && n_lines < 2) {
        list_line256(f, l, step, zero, is_first, 2);
        return 1;
    }
    const __m512i zeros = _mm512_set1_epi32(zero);
    const __m512 d = _mm512_set1_ps(step);
    if (planes == 2) {
        two_lines512(f, l, zeros, d, is_first);
        return 2;
    }
    nibbles512(f, l, zeros, d, is_first);
    return 1;
}

#endif
