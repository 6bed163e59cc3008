/* Bit slices for AVX-512: vpshufb tables, products with the 512-bit vpdpbusd.
 *
 * vpermw would look int16 sums up whole, but takes two shuffles of its own for half as many rows. */
#include "kernels/bitslice/slice_columns256.h"

#define dot256(acc, codes, q) _mm256_dpbusd_epi32(acc, codes, q)
#include "kernels/bitslice/slice_fours512.h"

typedef __m512 es_vf;
enum { ES_VF = 16, ES_MAD_TOKENS = 4 };

ES_INLINE es_vf vf_load(const float *p) {
    return _mm512_loadu_ps(p);
}
ES_INLINE void vf_store(float *p, es_vf v) {
    _mm512_storeu_ps(p, v);
}
ES_INLINE es_vf vf_set1(float v) {
    return _mm512_set1_ps(v);
}
ES_INLINE es_vf vf_add(es_vf a, es_vf b) {
    return _mm512_add_ps(a, b);
}
ES_INLINE es_vf vf_sub(es_vf a, es_vf b) {
    return _mm512_sub_ps(a, b);
}
ES_INLINE es_vf vf_mul(es_vf a, es_vf b) {
    return _mm512_mul_ps(a, b);
}
ES_INLINE es_vf vf_halfs(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
ES_INLINE es_vf vf_bytes(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

#include "kernels/bitslice/slice_finish.h"

ES_INLINE __m512i broadcast_table(const uint8_t *p) {
    return _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)p));
}

ES_INLINE __m512i add_looked_up(__m512i acc, __m512i table, __m512i index) {
    acc = _mm512_add_epi8(acc, _mm512_shuffle_epi8(table, index));
    ES_KEEP_ORDER("v", acc);
    return acc;
}

/* sums[0] and sums[1] hold, in 16-bit lanes and in the order of the bytes, the quarters v = 0, 1 and
 * v = 2, 3 of the rows; they are es_excess(planes) too large, modulo 2^16. */
ES_INLINE void tile_sums(__m512i *sums, const uint8_t *w, const uint8_t *table, const int planes) {
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i lower[4], upper[4];
    for (int p = 0; p < planes; p++) {
        lower[p] = upper[p] = _mm512_setzero_si512();
    }
#pragma GCC unroll 4
    for (int pair = 0; pair < ES_SLICE_PAIRS; pair++, table += 64) {
        const __m512i lower0 = broadcast_table(table), upper0 = broadcast_table(table + 16);
        const __m512i lower1 = broadcast_table(table + 32), upper1 = broadcast_table(table + 48);
#pragma GCC unroll 4
        for (int p = 0; p < planes; p++, w += ES_SLICE_PLANE_BYTES) {
            const __m512i v = _mm512_loadu_si512(w);
            const __m512i i0 = _mm512_and_si512(v, nibble);
            const __m512i i1 = _mm512_and_si512(_mm512_srli_epi16(v, 4), nibble);
            lower[p] = add_looked_up(lower[p], lower0, i0);
            upper[p] = add_looked_up(upper[p], upper0, i0);
            lower[p] = add_looked_up(lower[p], lower1, i1);
            upper[p] = add_looked_up(upper[p], upper1, i1);
        }
    }
    for (int i = 0; i < 2; i++) {
        __m512i low = _mm512_setzero_si512(), high = low; /* planes 0 and 1, planes 2 and 3 */
        for (int p = 0; p < planes; p++) {
            const __m512i both = i ? _mm512_unpackhi_epi8(lower[p], upper[p])
                                   : _mm512_unpacklo_epi8(lower[p], upper[p]);
            /* Lower + 32 * upper, times the plane's weight, or what it is too small by 4. */
            const int weight = planes == 1 ? 2 : 1 << p % 2;
            const __m512i sum =
                _mm512_maddubs_epi16(both, _mm512_set1_epi16((short)(weight * 0x2001)));
            low = p < 2 ? _mm512_add_epi16(low, sum) : low;
            high = p < 2 ? high : _mm512_add_epi16(high, sum);
        }
        sums[i] = planes > 2 ? _mm512_add_epi16(low, _mm512_slli_epi16(high, 2)) : low;
    }
}

ES_INLINE void lut_block(float *f, const uint8_t *w, const uint8_t *table, float d, int32_t qsum,
                         const int is_first, const int planes) {
    enum { BASE = 1 << 15 }; /* isum + 2^15 is between 0 and 2^16 */
    const int32_t zero = es_excess(planes) + es_slice_middle(planes) * qsum;
    const __m512i shift = _mm512_set1_epi16((short)(BASE - zero));
    const __m512i top = _mm512_set1_epi16(ES_FLOAT_TOP);
    const es_vf base = vf_set1((float)(ES_FLOAT_BASE + BASE)), step = vf_set1(d);
    __m512i sums[2];
    tile_sums(sums, w, table, planes);
    for (size_t v = 0; v < 4; v++) {
        const __m512i sum = _mm512_add_epi16(sums[v / 2], shift);
        const __m512i wide =
            v % 2 ? _mm512_unpackhi_epi16(sum, top) : _mm512_unpacklo_epi16(sum, top);
        es_slice_collect(f, 16 * v, vf_sub(_mm512_castsi512_ps(wide), base), step, is_first);
    }
}

ES_INLINE __m512i mean_up(__m512i a, __m512i b) {
    a = _mm512_avg_epu8(a, b);
    ES_KEEP_ORDER("v", a);
    return a;
}

/* The averaged entries of a plane's block. */
ES_INLINE __m512i mean_entries(const uint8_t *w, const uint8_t *table, const int planes) {
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i a[ES_SLICE_PAIRS];
#pragma GCC unroll 4
    for (int pair = 0; pair < ES_SLICE_PAIRS; pair++) {
        const __m512i v = _mm512_loadu_si512(w + pair * planes * ES_SLICE_PLANE_BYTES);
        const __m512i i0 = _mm512_and_si512(v, nibble);
        const __m512i i1 = _mm512_and_si512(_mm512_srli_epi16(v, 4), nibble);
        a[pair] = mean_up(_mm512_shuffle_epi8(broadcast_table(table + 32 * pair), i0),
                          _mm512_shuffle_epi8(broadcast_table(table + 32 * pair + 16), i1));
    }
    return mean_up(mean_up(a[0], a[1]), mean_up(a[2], a[3]));
}

ES_INLINE void rounded_block(float *f, const uint8_t *w, const uint8_t *table, float d, float xsum,
                             const int is_first, const int planes) {
    const __m512i top = _mm512_set1_epi16(ES_FLOAT_TOP), none = _mm512_setzero_si512();
    const es_vf base = vf_set1((float)ES_FLOAT_BASE);
    const es_vf step = vf_set1(d * es_rounded_factor(planes));
    const es_vf half_xsum = vf_set1(planes == 1 ? 0.0f : 0.5f * xsum);
    __m512i a[4];
    for (int p = 0; p < 4; p++) {
        a[p] = p < planes ? mean_entries(w + p * ES_SLICE_PLANE_BYTES, table, planes) : none;
    }
    for (int i = 0; i < 2; i++) {
        /* Weights 1 and 2, 4 and 8 of the planes. */
        const __m512i first =
            i ? _mm512_unpackhi_epi8(a[0], a[1]) : _mm512_unpacklo_epi8(a[0], a[1]);
        const __m512i second =
            i ? _mm512_unpackhi_epi8(a[2], a[3]) : _mm512_unpacklo_epi8(a[2], a[3]);
        __m512i sum = planes == 1 ? first : _mm512_maddubs_epi16(first, _mm512_set1_epi16(0x201));
        if (planes > 2) {
            sum = _mm512_add_epi16(sum, _mm512_maddubs_epi16(second, _mm512_set1_epi16(0x804)));
        }
        for (int odd = 0; odd < 2; odd++) {
            const __m512i wide =
                odd ? _mm512_unpackhi_epi16(sum, top) : _mm512_unpacklo_epi16(sum, top);
            es_rounded_collect(f, (size_t)(32 * i + 16 * odd),
                               vf_sub(_mm512_castsi512_ps(wide), base), step, half_xsum, is_first,
                               planes);
        }
    }
}

/* int16 holds four blocks: 4 * 2 * 32 * [-128, 127] = -32768 ... 32512. */
ES_INLINE void lut_sums(int32_t *sums, const uint8_t *w, const uint8_t *table, size_t n_blocks) {
    __m512i total[4];
    for (int v = 0; v < 4; v++) {
        total[v] = _mm512_setzero_si512();
    }
    for (size_t b = 0; b < n_blocks;) {
        const size_t n = n_blocks - b < 4 ? n_blocks - b : 4;
        const __m512i excess = _mm512_set1_epi16((short)((int32_t)n * -es_excess(2)));
        __m512i part[2] = {excess, excess};
        for (const size_t end = b + n; b < end; b++, w += es_slice_block_bytes(2)) {
            __m512i block[2];
            es_prefetch_ahead(w, es_slice_block_bytes(2));
            tile_sums(block, w, table + b * ES_TABLE_BYTES, 2);
            part[0] = _mm512_add_epi16(part[0], block[0]);
            part[1] = _mm512_add_epi16(part[1], block[1]);
        }
        for (int v = 0; v < 4; v++) {
            const __m512i sum = part[v / 2];
            const __m512i twice =
                v % 2 ? _mm512_unpackhi_epi16(sum, sum) : _mm512_unpacklo_epi16(sum, sum);
            total[v] = _mm512_add_epi32(total[v], _mm512_srai_epi32(twice, 16));
        }
    }
    for (size_t v = 0; v < 4; v++) {
        _mm512_storeu_si512(sums + 16 * v, total[v]);
    }
}

/* total[t][i]: sums of rows 16i to 16i + 15 for n_tokens tokens. */
ES_INLINE void mad_tile(__m512i total[ES_MAD_TOKENS][4], const uint8_t *panel, const int8_t *q,
                        size_t q_stride, const int n_tokens) {
    for (int t = 0; t < n_tokens; t++) {
        for (int i = 0; i < 4; i++) {
            total[t][i] = _mm512_setzero_si512();
        }
    }
#pragma GCC unroll 1 /* or GCC loads the whole panel first and spills the sums */
    for (int quad = 0; quad < 8; quad++, panel += 4 * ES_SLICE_ROWS, q += 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const __m512i codes = _mm512_load_si512(panel + 64 * i);
#pragma GCC unroll 4
            for (int t = 0; t < n_tokens; t++) {
                const __m512i x = _mm512_broadcastd_epi32(_mm_loadu_si32(q + (size_t)t * q_stride));
                total[t][i] = _mm512_dpbusd_epi32(total[t][i], codes, x);
                ES_KEEP_ORDER("v", total[t][i]);
            }
        }
    }
}

ES_INLINE void mad_tokens(float *f, const uint8_t *panel, const es_q8 *x, size_t token, size_t b,
                          const int is_first, const int planes, const int n_tokens) {
    __m512i total[ES_MAD_TOKENS][4];
    mad_tile(total, panel, x->q + token * x->q_stride + b * ES_SLICE_BLOCK, x->q_stride, n_tokens);
    for (size_t t = 0; t < (size_t)n_tokens; t++) {
        const size_t at = (token + t) * x->stride_blocks + b;
        const __m512i zero = _mm512_set1_epi32(es_slice_middle(planes) * x->sum[at]);
        const es_vf d = vf_set1(x->d[at]);
        for (size_t i = 0; i < 4; i++) {
            __m512i sum = total[t][i];
            sum = planes == 1 ? _mm512_add_epi32(sum, sum) : sum;
            es_slice_collect(f + t * ES_SLICE_ROWS, 16 * i,
                             _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, zero)), d, is_first);
        }
    }
}

ES_INLINE void add_sums(int32_t *sums, size_t sums_stride, const uint8_t *panel, const int8_t *q,
                        size_t q_stride, const int n_tokens) {
    __m512i total[ES_MAD_TOKENS][4];
    mad_tile(total, panel, q, q_stride, n_tokens);
#pragma GCC unroll 4
    for (int t = 0; t < n_tokens; t++, sums += sums_stride) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            int32_t *to = sums + 16 * i;
            _mm512_storeu_si512(to, _mm512_add_epi32(_mm512_loadu_si512(to), total[t][i]));
        }
    }
}

#include "kernels/bitslice/slice_mad.h"
#include "kernels/bitslice/slice_driver.h"

void es_bitslice_avx512vnni(es_kernels *table) {
    ES_SLICE_SET(table, "avx512vnni");
}
