/* csr in 256-bit registers: each byte of a word looks up where pshufb finds its entries, and pshufb over
 * the bytes of a block's inputs looks up those of their columns. */
#include "kernels/prefetch.h"

#include <immintrin.h>

#include "kernels/csr/csr.h"
#include "kernels/csr/places.h"

#define POPCNT __attribute__((target("popcnt")))

ES_INLINE __m128i expand_eight(unsigned byte, const uint8_t *v) {
    return _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)v),
                            _mm_loadu_si128((const __m128i *)es_csr_places[byte]));
}

/* Sixteen entries (two of eight rows); advances *v. */
ES_INLINE POPCNT __m256i expand_sixteen(unsigned bits, const uint8_t **v) {
    const unsigned low = bits & 255, high = bits >> 8 & 255;
    const uint8_t *next = *v + 2 * _mm_popcnt_u32(low);
    const __m256i all = _mm256_inserti128_si256(_mm256_castsi128_si256(expand_eight(low, *v)),
                                                expand_eight(high, next), 1);
    *v = next + 2 * _mm_popcnt_u32(high);
    return all;
}

/* The bytes of 32 int16 inputs: lower and upper ones of columns 0 to 15 and 16 to 31. */
typedef struct table {
    __m256i low[2], high[2];
} table;

ES_INLINE table split_inputs(const int16_t *q) {
    table t;
    for (int i = 0; i < 2; i++) {
        const __m128i a = _mm_loadu_si128((const __m128i *)(q + 16 * i));
        const __m128i b = _mm_loadu_si128((const __m128i *)(q + 16 * i + 8));
        const __m128i mask = _mm_set1_epi16(255);
        t.low[i] = _mm256_broadcastsi128_si256(
            _mm_packus_epi16(_mm_and_si128(a, mask), _mm_and_si128(b, mask)));
        t.high[i] = _mm256_broadcastsi128_si256(
            _mm_packs_epi16(_mm_srai_epi16(a, 8), _mm_srai_epi16(b, 8)));
    }
    return t;
}

/* The inputs of sixteen entries' columns. */
ES_INLINE __m256i inputs_of(__m256i entries, const table *t) {
    const __m256i twice = _mm256_set_epi8(14, 14, 12, 12, 10, 10, 8, 8, 6, 6, 4, 4, 2, 2, 0, 0, 14,
                                          14, 12, 12, 10, 10, 8, 8, 6, 6, 4, 4, 2, 2, 0, 0);
    const __m256i columns = _mm256_shuffle_epi8(entries, twice);
    const __m256i is_upper = _mm256_slli_epi16(columns, 3); /* bit 4 of the column decides */
    const __m256i low = _mm256_blendv_epi8(_mm256_shuffle_epi8(t->low[0], columns),
                                           _mm256_shuffle_epi8(t->low[1], columns), is_upper);
    const __m256i high = _mm256_blendv_epi8(_mm256_shuffle_epi8(t->high[0], columns),
                                            _mm256_shuffle_epi8(t->high[1], columns), is_upper);
    return _mm256_blendv_epi8(low, high, _mm256_set1_epi16((int16_t)0xff00));
}

ES_INLINE POPCNT const uint8_t *tile_dot(float *y, const uint8_t *w, const es_q16 *x,
                                         int32_t n_blocks) {
    __m256 acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t b = 0; b < (size_t)n_blocks; b++) {
        const csr_block block = es_csr_block(w);
        es_prefetch_ahead(w, block.n_bytes);
        const unsigned rows = es_csr_rows(&block);
        const uint8_t *v = block.words + 4 * block.n_words;
        const __m128i steps[2] = {
            expand_eight(rows & 255, v),
            expand_eight(rows >> 8, v + 2 * _mm_popcnt_u32(rows & 255)),
        };
        v += 2 * _mm_popcnt_u32(rows);
        const table t = split_inputs(x->q + 32 * b);
        __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (int n = 0; n < block.n_words; n++) {
            const uint32_t word = es_csr_word(&block, n);
            for (int half = 0; half < 2; half++) {
                const __m256i entries = expand_sixteen(word >> (16 * half) & 0xffff, &v);
                const __m256i products =
                    _mm256_madd_epi16(_mm256_srai_epi16(entries, 8), inputs_of(entries, &t));
                sums[half] = _mm256_add_epi32(sums[half], products);
            }
        }
        const __m256 dx = _mm256_set1_ps(x->d[b]);
        for (int half = 0; half < 2; half++) {
            const __m256 step = _mm256_mul_ps(_mm256_cvtph_ps(steps[half]), dx);
            acc[half] =
                _mm256_add_ps(acc[half], _mm256_mul_ps(_mm256_cvtepi32_ps(sums[half]), step));
        }
        w += block.n_bytes;
    }
    _mm256_storeu_ps(y, acc[0]);
    _mm256_storeu_ps(y + 8, acc[1]);
    return w;
}

static POPCNT void csr_dot(float *y, const uint8_t *w, int32_t n_tiles, const es_q16 *x,
                           const es_split *split, int32_t n_blocks) {
    (void)split;
    for (int32_t tile = 0; tile < n_tiles; tile++, y += ES_BITMAP_ROWS) {
        w = tile_dot(y, w, x, n_blocks);
    }
}

void es_csr_avx2(es_kernels *table) {
    table->csr_dot = csr_dot;
    table->csr_variant = "avx2";
}
