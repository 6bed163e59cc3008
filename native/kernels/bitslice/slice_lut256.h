/* Look-up with vpshufb and products with 256-bit vectors: all of the AVX2 and AVX-VNNI variants but
 * the multiplication itself. The includer defines mad_acc, mad_zero, mad_step and mad_total. */
#ifndef ES_SLICE_LUT256_H
#define ES_SLICE_LUT256_H

#include "kernels/bitslice/slice_columns256.h"

typedef __m256 es_vf;
enum { ES_VF = 8, ES_MAD_TOKENS = 2 };

ES_INLINE es_vf vf_load(const float *p) {
    return _mm256_loadu_ps(p);
}
ES_INLINE void vf_store(float *p, es_vf v) {
    _mm256_storeu_ps(p, v);
}
ES_INLINE es_vf vf_set1(float v) {
    return _mm256_set1_ps(v);
}
ES_INLINE es_vf vf_add(es_vf a, es_vf b) {
    return _mm256_add_ps(a, b);
}
ES_INLINE es_vf vf_sub(es_vf a, es_vf b) {
    return _mm256_sub_ps(a, b);
}
ES_INLINE es_vf vf_mul(es_vf a, es_vf b) {
    return _mm256_mul_ps(a, b);
}
ES_INLINE es_vf vf_halfs(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
ES_INLINE es_vf vf_bytes(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

#include "kernels/bitslice/slice_finish.h"

ES_INLINE __m256i broadcast_table(const uint8_t *p) {
    return _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)p));
}

ES_INLINE __m256i add_looked_up(__m256i acc, __m256i table, __m256i index) {
    acc = _mm256_add_epi8(acc, _mm256_shuffle_epi8(table, index));
    ES_KEEP_ORDER("x", acc);
    return acc;
}

/* All of a tile's bytes if `halves` is 2, else a half. sums[i] and sums[halves + i] hold, in 16-bit lanes
 * and in the order of the bytes, the quarters v = 0, 1 and v = 2, 3 of the rows of half i; they are
 * es_excess(planes) too large, modulo 2^16. */
ES_INLINE void tile_sums(__m256i *sums, const uint8_t *w, const uint8_t *table, const int halves,
                         const int planes) {
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i lower[2][4], upper[2][4];
#pragma GCC unroll 2
    for (int h = 0; h < halves; h++) {
#pragma GCC unroll 4
        for (int p = 0; p < planes; p++) {
            lower[h][p] = upper[h][p] = _mm256_setzero_si256();
        }
    }
#pragma GCC unroll 4
    for (int pair = 0; pair < ES_SLICE_PAIRS; pair++, table += 64) {
        const __m256i lower0 = broadcast_table(table), upper0 = broadcast_table(table + 16);
        const __m256i lower1 = broadcast_table(table + 32), upper1 = broadcast_table(table + 48);
#pragma GCC unroll 4
        for (int p = 0; p < planes; p++, w += ES_SLICE_PLANE_BYTES) {
#pragma GCC unroll 2
            for (int h = 0; h < halves; h++) {
                const __m256i v = _mm256_loadu_si256((const __m256i *)(w + 32 * h));
                const __m256i i0 = _mm256_and_si256(v, nibble);
                const __m256i i1 = _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble);
                lower[h][p] = add_looked_up(lower[h][p], lower0, i0);
                upper[h][p] = add_looked_up(upper[h][p], upper0, i0);
                lower[h][p] = add_looked_up(lower[h][p], lower1, i1);
                upper[h][p] = add_looked_up(upper[h][p], upper1, i1);
            }
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < 2 * halves; i++) {
        const int h = i % halves;
        __m256i low = _mm256_setzero_si256(), high = low; /* planes 0 and 1, planes 2 and 3 */
#pragma GCC unroll 4
        for (int p = 0; p < planes; p++) {
            const __m256i both = i < halves ? _mm256_unpacklo_epi8(lower[h][p], upper[h][p])
                                            : _mm256_unpackhi_epi8(lower[h][p], upper[h][p]);
            /* Lower + 32 * upper, times the plane's weight, or what it is too small by 4. */
            const int weight = planes == 1 ? 2 : 1 << p % 2;
            const __m256i sum =
                _mm256_maddubs_epi16(both, _mm256_set1_epi16((short)(weight * 0x2001)));
            low = p < 2 ? _mm256_add_epi16(low, sum) : low;
            high = p < 2 ? high : _mm256_add_epi16(high, sum);
        }
        sums[i] = planes > 2 ? _mm256_add_epi16(low, _mm256_slli_epi16(high, 2)) : low;
    }
}

/* Both halves together share the tables' loads, but more than two planes need the registers. */
ES_INLINE int halves_at_once(const int planes) {
    return planes <= 2 ? 2 : 1;
}

ES_INLINE void lut_block(float *f, const uint8_t *w, const uint8_t *table, float d, int32_t qsum,
                         const int is_first, const int planes) {
    /* Up to three planes sums are below 2^16 as they are; of four, isum + 2^15 is. */
    const int32_t zero = es_excess(planes) + es_slice_middle(planes) * qsum;
    const int32_t base = planes < 4 ? zero : 1 << 15;
    const __m256i shift = _mm256_set1_epi16((short)(base - zero));
    const __m256i top = _mm256_set1_epi16(ES_FLOAT_TOP);
    const es_vf base_f = vf_set1((float)(ES_FLOAT_BASE + base)), step = vf_set1(d);
    const int halves = halves_at_once(planes);
    for (int first = 0; first < 2; first += halves) {
        __m256i sums[4];
        ES_KEEP_ORDER("r", table); /* or GCC loads all tables first and spills them */
        tile_sums(sums, w + 32 * first, table, halves, planes);
#pragma GCC unroll 8
        for (int i = 0; i < 4 * halves; i++) { /* halves of quarters */
            __m256i sum = sums[i / 2];
            sum = planes < 4 ? sum : _mm256_add_epi16(sum, shift);
            const __m256i wide =
                i % 2 ? _mm256_unpackhi_epi16(sum, top) : _mm256_unpacklo_epi16(sum, top);
            const int half = first + i / 2 % halves, v = i / 2 / halves * 2 + i % 2;
            es_slice_collect(f, (size_t)(16 * v + 8 * half),
                             vf_sub(_mm256_castsi256_ps(wide), base_f), step, is_first);
        }
    }
}

ES_INLINE __m256i mean_up(__m256i a, __m256i b) {
    a = _mm256_avg_epu8(a, b);
    ES_KEEP_ORDER("x", a);
    return a;
}

/* The averaged entries of a plane's block, for a half of the rows. */
ES_INLINE __m256i mean_entries(const uint8_t *w, const uint8_t *table, const int planes) {
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i a[ES_SLICE_PAIRS];
#pragma GCC unroll 4
    for (int pair = 0; pair < ES_SLICE_PAIRS; pair++) {
        const uint8_t *codes = w + pair * planes * ES_SLICE_PLANE_BYTES;
        const __m256i v = _mm256_loadu_si256((const __m256i *)codes);
        const __m256i i0 = _mm256_and_si256(v, nibble);
        const __m256i i1 = _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble);
        a[pair] = mean_up(_mm256_shuffle_epi8(broadcast_table(table + 32 * pair), i0),
                          _mm256_shuffle_epi8(broadcast_table(table + 32 * pair + 16), i1));
    }
    return mean_up(mean_up(a[0], a[1]), mean_up(a[2], a[3]));
}

ES_INLINE void rounded_block(float *f, const uint8_t *w, const uint8_t *table, float d, float xsum,
                             const int is_first, const int planes) {
    const __m256i top = _mm256_set1_epi16(ES_FLOAT_TOP), none = _mm256_setzero_si256();
    const es_vf base = vf_set1((float)ES_FLOAT_BASE);
    const es_vf step = vf_set1(d * es_rounded_factor(planes));
    const es_vf half_xsum = vf_set1(planes == 1 ? 0.0f : 0.5f * xsum);
    for (int half = 0; half < 2; half++) {
        __m256i a[4];
        for (int p = 0; p < 4; p++) {
            a[p] = p < planes
                       ? mean_entries(w + 32 * half + p * ES_SLICE_PLANE_BYTES, table, planes)
                       : none;
        }
        for (int i = 0; i < 2; i++) {
            /* Weights 1 and 2, 4 and 8 of the planes. */
            const __m256i first =
                i ? _mm256_unpackhi_epi8(a[0], a[1]) : _mm256_unpacklo_epi8(a[0], a[1]);
            const __m256i second =
                i ? _mm256_unpackhi_epi8(a[2], a[3]) : _mm256_unpacklo_epi8(a[2], a[3]);
            __m256i sum =
                planes == 1 ? first : _mm256_maddubs_epi16(first, _mm256_set1_epi16(0x201));
            if (planes > 2) {
                sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(second, _mm256_set1_epi16(0x804)));
            }
            for (int odd = 0; odd < 2; odd++) {
                const __m256i wide =
                    odd ? _mm256_unpackhi_epi16(sum, top) : _mm256_unpacklo_epi16(sum, top);
                es_rounded_collect(f, (size_t)(32 * i + 16 * odd + 8 * half),
                                   vf_sub(_mm256_castsi256_ps(wide), base), step, half_xsum,
                                   is_first, planes);
            }
        }
    }
}

ES_INLINE void add_wide(int32_t *to, __m256i twice) {
    __m256i *at = (__m256i *)to;
    _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), _mm256_srai_epi32(twice, 16)));
}

/* int16 holds four blocks: 4 * 2 * 32 * [-128, 127] = -32768 ... 32512. */
ES_INLINE void lut_sums(int32_t *sums, const uint8_t *w, const uint8_t *table, size_t n_blocks) {
    memset(sums, 0, ES_SLICE_ROWS * sizeof *sums);
    for (size_t b = 0; b < n_blocks;) {
        const size_t n = n_blocks - b < 4 ? n_blocks - b : 4;
        const __m256i excess = _mm256_set1_epi16((short)((int32_t)n * es_excess(2)));
        __m256i total[4];
        for (int i = 0; i < 4; i++) {
            total[i] = _mm256_setzero_si256();
        }
        for (const size_t end = b + n; b < end; b++, w += es_slice_block_bytes(2)) {
            es_prefetch_ahead(w, es_slice_block_bytes(2));
            __m256i part[4];
            tile_sums(part, w, table + b * ES_TABLE_BYTES, 2, 2);
            for (int i = 0; i < 4; i++) {
                total[i] = _mm256_add_epi16(total[i], part[i]);
            }
        }
        for (size_t i = 0; i < 4; i++) {
            const __m256i sum = _mm256_sub_epi16(total[i], excess);
            int32_t *to = sums + 32 * (i / 2) + 8 * (i % 2);
            add_wide(to, _mm256_unpacklo_epi16(sum, sum));
            add_wide(to + 16, _mm256_unpackhi_epi16(sum, sum));
        }
    }
}

ES_INLINE __m256i broadcast_quad(const int8_t *q) {
    return _mm256_broadcastd_epi32(_mm_loadu_si32(q));
}

/* total[t][i]: sums of rows 8i to 8i + 7 of a half tile for n_tokens (1 or 2) tokens. */
ES_INLINE void mad_half(__m256i total[2][4], const uint8_t *panel, const int8_t *q, size_t q_stride,
                        const int n_tokens) {
    mad_acc acc[2][4];
    for (int t = 0; t < n_tokens; t++) {
        for (int i = 0; i < 4; i++) {
            acc[t][i] = mad_zero();
        }
    }
#pragma GCC unroll 1 /* or GCC loads the whole panel first and spills the sums */
    for (int quad = 0; quad < 8; quad++, panel += 4 * ES_SLICE_ROWS, q += 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const __m256i codes = _mm256_load_si256((const __m256i *)(panel + 32 * i));
#pragma GCC unroll 2
            for (int t = 0; t < n_tokens; t++) {
                acc[t][i] = mad_step(acc[t][i], codes, broadcast_quad(q + (size_t)t * q_stride));
            }
        }
    }
    for (int t = 0; t < n_tokens; t++) {
        for (int i = 0; i < 4; i++) {
            total[t][i] = mad_total(acc[t][i]);
        }
    }
}

ES_INLINE void mad_tokens(float *f, const uint8_t *panel, const es_q8 *x, size_t token, size_t b,
                          const int is_first, const int planes, const int n_tokens) {
    const int8_t *q = x->q + token * x->q_stride + b * ES_SLICE_BLOCK;
    for (size_t half = 0; half < 2; half++) {
        __m256i total[2][4];
        mad_half(total, panel + 128 * half, q, x->q_stride, n_tokens);
        for (size_t t = 0; t < (size_t)n_tokens; t++) {
            const size_t at = (token + t) * x->stride_blocks + b;
            const __m256i zero = _mm256_set1_epi32(es_slice_middle(planes) * x->sum[at]);
            const es_vf d = vf_set1(x->d[at]);
            for (size_t i = 0; i < 4; i++) {
                __m256i sum = total[t][i];
                sum = planes == 1 ? _mm256_add_epi32(sum, sum) : sum;
                sum = _mm256_sub_epi32(sum, zero);
                es_slice_collect(f + t * ES_SLICE_ROWS, 32 * half + 8 * i, _mm256_cvtepi32_ps(sum),
                                 d, is_first);
            }
        }
    }
}

ES_INLINE void mad_block(float *f, const uint8_t *panel, const es_q8 *x, size_t token,
                         size_t n_tokens, size_t b, const int is_first, const int planes) {
    if (n_tokens == 2) {
        mad_tokens(f, panel, x, token, b, is_first, planes, 2);
    } else {
        mad_tokens(f, panel, x, token, b, is_first, planes, 1);
    }
}

ES_INLINE void mad_sums(int32_t *sums, size_t sums_stride, const uint8_t *panel, const int8_t *q,
                        size_t q_stride, size_t n_tokens) {
    for (size_t half = 0; half < 2; half++) {
        __m256i total[2][4];
        if (n_tokens == 2) {
            mad_half(total, panel + 128 * half, q, q_stride, 2);
        } else {
            mad_half(total, panel + 128 * half, q, q_stride, 1);
        }
        for (size_t t = 0; t < n_tokens; t++) {
            for (size_t i = 0; i < 4; i++) {
                __m256i *to = (__m256i *)(sums + t * sums_stride + 32 * half + 8 * i);
                _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), total[t][i]));
            }
        }
    }
}

#include "kernels/bitslice/slice_driver.h"

#endif
