/* Lists and neuron-major products in 256-bit registers.
 *
 * Two inputs' packed rows are interleaved byte by byte, so that one vpmaddubsw multiplies a pair of
 * codes by a pair of activations and adds them. Fields stay where they are in the byte: those at bits
 * 3-2 come out 4 times as large, and a chunk of 32 inputs is what their int16 sums can hold:
 * 16 pairs * 4 * (2 + 2) * -128 = -32768. */
#include "chunk.h"

#include <immintrin.h>
#include <string.h>

_Static_assert(ES_CHUNK_INPUTS <= 32, "int16 sums of fields at bits 3-2");

/* Appends i + b for every bit b of `bits`. */
ES_INLINE int32_t append(int32_t *list, int32_t n_listed, int32_t i, uint32_t bits) {
    while (bits != 0) {
        list[n_listed++] = i + __builtin_ctz(bits);
        bits &= bits - 1;
    }
    return n_listed;
}

static int32_t list_positive(int32_t *list, const float *x, int32_t n) {
    const __m256 zero = _mm256_setzero_ps();
    int32_t n_listed = 0, i = 0;
    for (; i + 32 <= n; i += 32) {
        uint32_t bits = 0;
        for (int32_t j = 0; j < 4; j++) {
            const __m256 above = _mm256_cmp_ps(_mm256_loadu_ps(x + i + 8 * j), zero, _CMP_GT_OQ);
            bits |= (uint32_t)_mm256_movemask_ps(above) << 8 * j;
        }
        n_listed = append(list, n_listed, i, bits);
    }
    for (; i < n; i++) {
        list[n_listed] = i;
        n_listed += x[i] > 0.0f;
    }
    return n_listed;
}

static int32_t list_nonzero(int32_t *list, const int8_t *q, int32_t n) {
    const __m256i zero = _mm256_setzero_si256();
    int32_t n_listed = 0, i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m256i is_zero =
            _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)(q + i)), zero);
        n_listed = append(list, n_listed, i, ~(uint32_t)_mm256_movemask_epi8(is_zero));
    }
    for (; i < n; i++) {
        list[n_listed] = i;
        n_listed += q[i] != 0;
    }
    return n_listed;
}

ES_INLINE __m256i multiply_add(__m256i acc, __m256i codes, __m256i x) {
    acc = _mm256_add_epi16(acc, _mm256_maddubs_epi16(codes, x));
    __asm__("" : "+x"(acc)); /* keeps GCC from shuffling eight accumulators between registers */
    return acc;
}

ES_INLINE void add8(int32_t *sums, __m128i i16) {
    __m256i *at = (__m256i *)sums;
    _mm256_store_si256(at, _mm256_add_epi32(_mm256_load_si256(at), _mm256_cvtepi16_epi32(i16)));
}

/* 32 outputs of one field: `lo` holds bytes 0-7 and 16-23, `hi` bytes 8-15 and 24-31. */
ES_INLINE void add32(int32_t *sums, __m256i lo, __m256i hi) {
    add8(sums, _mm256_castsi256_si128(lo));
    add8(sums + 8, _mm256_castsi256_si128(hi));
    add8(sums + 16, _mm256_extracti128_si256(lo, 1));
    add8(sums + 24, _mm256_extracti128_si256(hi, 1));
}

static void t2n_pass(int32_t *sums, size_t row_bytes, const es_chunk *now, const es_chunk *next) {
    const __m256i low = _mm256_set1_epi8(3), high = _mm256_set1_epi8(12);
    es_ask ask = {next->rows, 0};
    for (size_t b = 0; b < row_bytes; b += 32, sums += 128) {
        /* A line is two steps of b, and the first asks for what both do. */
        const int asks = b % ES_CACHE_LINE == 0;
        const es_near near = es_near_line(now, next, b, row_bytes);
        __m256i lo0 = _mm256_setzero_si256(), lo1 = lo0, lo2 = lo0, lo3 = lo0;
        __m256i hi0 = lo0, hi1 = lo0, hi2 = lo0, hi3 = lo0;
        for (int32_t i = 0; i < now->n; i += 2) {
            int16_t pair;
            memcpy(&pair, now->q + i, sizeof pair);
            const __m256i x = _mm256_set1_epi16(pair);
            const __m256i a = _mm256_loadu_si256((const __m256i *)(now->rows[i] + b));
            const __m256i c = _mm256_loadu_si256((const __m256i *)(now->rows[i + 1] + b));
            if (asks) {
                __builtin_prefetch(near.rows[i] + near.offset, 0, 3);
                __builtin_prefetch(near.rows[i + 1] + near.offset, 0, 3);
                if (i % ES_ASK_ROWS == 0) {
                    es_ask_lines(&ask, row_bytes);
                }
            }
            const __m256i lo = _mm256_unpacklo_epi8(a, c), hi = _mm256_unpackhi_epi8(a, c);
            const __m256i lo_top = _mm256_srli_epi16(lo, 4), hi_top = _mm256_srli_epi16(hi, 4);
            lo0 = multiply_add(lo0, _mm256_and_si256(lo_top, high), x);
            hi0 = multiply_add(hi0, _mm256_and_si256(hi_top, high), x);
            lo1 = multiply_add(lo1, _mm256_and_si256(lo_top, low), x);
            hi1 = multiply_add(hi1, _mm256_and_si256(hi_top, low), x);
            lo2 = multiply_add(lo2, _mm256_and_si256(lo, high), x);
            hi2 = multiply_add(hi2, _mm256_and_si256(hi, high), x);
            lo3 = multiply_add(lo3, _mm256_and_si256(lo, low), x);
            hi3 = multiply_add(hi3, _mm256_and_si256(hi, low), x);
        }
        add32(sums, _mm256_srai_epi16(lo0, 2), _mm256_srai_epi16(hi0, 2));
        add32(sums + 32, lo1, hi1);
        add32(sums + 64, _mm256_srai_epi16(lo2, 2), _mm256_srai_epi16(hi2, 2));
        add32(sums + 96, lo3, hi3);
    }
}

static void t2n_sums(int32_t *sums, const uint8_t *w, size_t row_bytes, const int32_t *inputs,
                     int32_t n_inputs, const int8_t *q) {
    es_chunks(sums, w, row_bytes, inputs, n_inputs, q, 2, t2n_pass);
}

void es_sparse_avx2(es_kernels *table) {
    table->list_positive = list_positive;
    table->list_nonzero = list_nonzero;
    table->t2n_sums = t2n_sums;
    table->t2n_variant = "avx2";
}
