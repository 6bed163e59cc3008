/* Tables and unpacking with vectors of 32 bytes, shared by the AVX2, AVX-VNNI and AVX-512 variants. */
#ifndef ES_SLICE_256_H
#define ES_SLICE_256_H

#include "kernels/bitslice/bitslice.h"

#include <immintrin.h>

enum {
    /* The upper half of the float 2^23: behind an int16 n it makes the float 2^23 + n. */
    ES_FLOAT_TOP = 0x4B00,
    ES_FLOAT_BASE = 1 << 23
};

/* The 16 sums of four activations, as int16: entry i adds those whose bit is set in i. */
ES_INLINE __m256i es_quad_sums256(const int8_t *q) {
    const __m256i index = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m256i one = _mm256_set1_epi16(1), both = _mm256_set1_epi16(0x0101);
    /* Bytes of 0 and 1: bits 0 and 1 of the index, bits 2 and 3. */
    const __m256i low = _mm256_and_si256(_mm256_or_si256(index, _mm256_slli_epi16(index, 7)), both);
    const __m256i high = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(index, 2), one),
                                         _mm256_slli_epi16(_mm256_srli_epi16(index, 3), 8));
    int16_t pair[2];
    memcpy(pair, q, sizeof pair);
    return _mm256_add_epi16(_mm256_maddubs_epi16(low, _mm256_set1_epi16(pair[0])),
                            _mm256_maddubs_epi16(high, _mm256_set1_epi16(pair[1])));
}

static void slice_tables(uint8_t *table, const int8_t *q, int32_t n_blocks) {
    const __m256i five = _mm256_set1_epi16(31), sixteen = _mm256_set1_epi16(16);
    for (int32_t quad = 0; quad < 8 * n_blocks; quad++, q += 4, table += 32) {
        const __m256i sums = es_quad_sums256(q);
        const __m256i lower = _mm256_and_si256(sums, five);
        const __m256i upper = _mm256_add_epi16(_mm256_srai_epi16(sums, 5), sixteen);
        const __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi16(lower, upper), 0xd8);
        _mm256_store_si256((__m256i *)table, both);
    }
}

/* Largest sum of four magnitudes among the quads of a block. */
ES_INLINE int32_t es_largest_quad256(const int8_t *q) {
    const __m256i x = _mm256_abs_epi8(_mm256_loadu_si256((const __m256i *)q));
    const __m256i pairs = _mm256_maddubs_epi16(x, _mm256_set1_epi8(1));
    const __m256i quads = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(quads), _mm256_extracti128_si256(quads, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return _mm_cvtsi128_si32(m);
}

ES_INLINE __m256i es_scaled256(__m128i sums_i16, __m256 factor) {
    const __m256 sums = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(sums_i16));
    return _mm256_cvtps_epi32(_mm256_mul_ps(sums, factor));
}

static void rounded_tables(uint8_t *table, float *d, const int8_t *q, const float *d_q,
                           int32_t n_blocks) {
    for (int32_t b = 0; b < n_blocks; b++) {
        const int32_t largest = es_largest_quad256(q);
        const __m256 factor = _mm256_set1_ps(largest > 0 ? 127.0f / (float)largest : 0.0f);
        d[b] = d_q[b] * ((float)largest / 127.0f);
        for (int quad = 0; quad < 8; quad++, q += 4, table += 16) {
            /* Twice the sum of those with a set bit, minus the sum of all. */
            const __m256i chosen = es_quad_sums256(q);
            const __m256i all = _mm256_set1_epi16((short)(q[0] + q[1] + q[2] + q[3]));
            const __m256i sums = _mm256_sub_epi16(_mm256_add_epi16(chosen, chosen), all);
            const __m256i low = es_scaled256(_mm256_castsi256_si128(sums), factor);
            const __m256i high = es_scaled256(_mm256_extracti128_si256(sums, 1), factor);
            const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
            const __m128i bytes =
                _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
            _mm_store_si128((__m128i *)table, _mm_xor_si128(bytes, _mm_set1_epi8(-128)));
        }
    }
}

/* Bits n of a nibble at bits 2n. */
ES_INLINE __m256i es_spread256(__m256i nibbles, const int shift) {
    const __m256i at = _mm256_setr_epi8(0, 1, 4, 5, 16, 17, 20, 21, 64, 65, 68, 69, 80, 81, 84, 85,
                                        0, 1, 4, 5, 16, 17, 20, 21, 64, 65, 68, 69, 80, 81, 84, 85);
    return _mm256_shuffle_epi8(shift ? _mm256_add_epi8(at, at) : at, nibbles);
}

/* Two-bit codes of four columns in each byte, for planes `plane` and plane + 1. */
ES_INLINE __m256i es_two_planes256(const uint8_t *w, int high_quad, int plane, const int planes) {
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i codes = _mm256_setzero_si256();
    for (int p = plane; p < plane + 2 && p < planes; p++) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(w + p * ES_SLICE_PLANE_BYTES));
        v = _mm256_and_si256(high_quad ? _mm256_srli_epi16(v, 4) : v, nibble);
        codes = _mm256_or_si256(codes, es_spread256(v, p - plane));
    }
    return codes;
}

/* panel[quad][row][column in the quad] */
ES_INLINE void unpack_block(uint8_t *panel, const uint8_t *w, const int planes) {
    const __m256i three = _mm256_set1_epi8(3), twelve = _mm256_set1_epi8(12);
    for (int quad = 0; quad < 8; quad++) {
        const uint8_t *pair = w + quad / 2 * planes * ES_SLICE_PLANE_BYTES;
        for (int half = 0; half < 2; half++, pair += 32) {
            const __m256i low = es_two_planes256(pair, quad & 1, 0, planes);
            __m256i c[4];
            for (int n = 0; n < 4; n++) {
                c[n] = _mm256_and_si256(_mm256_srli_epi16(low, 2 * n), three);
            }
            if (planes > 2) {
                const __m256i high = es_two_planes256(pair, quad & 1, 2, planes);
                c[0] = _mm256_or_si256(c[0], _mm256_and_si256(_mm256_slli_epi16(high, 2), twelve));
                for (int n = 1; n < 4; n++) {
                    c[n] = _mm256_or_si256(
                        c[n], _mm256_and_si256(_mm256_srli_epi16(high, 2 * n - 2), twelve));
                }
            }
            const __m256i a = _mm256_unpacklo_epi8(c[0], c[1]),
                          b = _mm256_unpacklo_epi8(c[2], c[3]);
            const __m256i d = _mm256_unpackhi_epi8(c[0], c[1]),
                          e = _mm256_unpackhi_epi8(c[2], c[3]);
            __m256i *to = (__m256i *)(panel + (quad * ES_SLICE_ROWS + 8 * half) * 4);
            _mm256_store_si256(to, _mm256_unpacklo_epi16(a, b));
            _mm256_store_si256(to + 2, _mm256_unpackhi_epi16(a, b));
            _mm256_store_si256(to + 4, _mm256_unpacklo_epi16(d, e));
            _mm256_store_si256(to + 6, _mm256_unpackhi_epi16(d, e));
        }
    }
}

#endif
