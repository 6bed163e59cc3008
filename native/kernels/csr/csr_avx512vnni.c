/* csr in 512-bit registers: a word's entries expand into 16-bit lanes, two of a row side by side, and
 * one permutation looks up the inputs of their columns (AVX-512 VBMI2). */
#include "kernels/prefetch.h"

#include <immintrin.h>

#include "kernels/csr/csr.h"

#define VBMI2 __attribute__((target("avx512vbmi2,popcnt,bmi2")))

ES_INLINE VBMI2 const uint8_t *tile_dot(float *y, const uint8_t *w, const es_q16 *x,
                                        int32_t n_blocks) {
    __m512 acc = _mm512_setzero_ps();
    for (size_t b = 0; b < (size_t)n_blocks; b++) {
        const csr_block block = es_csr_block(w);
        es_prefetch_ahead(w, block.n_bytes);
        const uint32_t first = block.n_words > 0 ? es_csr_word(&block, 0) : 0;
        const __mmask16 rows = (__mmask16)_pext_u32(first, 0x55555555u);
        const uint8_t *v = block.words + 4 * block.n_words;
        const __m256i steps =
            _mm256_maskz_expand_epi16(rows, _mm256_loadu_si256((const __m256i *)v));
        v += 2 * _mm_popcnt_u32(rows);
        const __m512i q = _mm512_loadu_si512(x->q + 32 * b);
        __m512i sum = _mm512_setzero_si512();
        for (int n = 0; n < block.n_words; n++) {
            const uint32_t word = es_csr_word(&block, n);
            const __m512i entries = _mm512_maskz_expand_epi16(word, _mm512_loadu_si512(v));
            v += 2 * _mm_popcnt_u32(word);
            /* The permutation looks at the lowest five bits alone: the column. */
            const __m512i inputs = _mm512_permutexvar_epi16(entries, q);
            sum = _mm512_dpwssd_epi32(sum, _mm512_srai_epi16(entries, 8), inputs);
        }
        const __m512 step = _mm512_mul_ps(_mm512_cvtph_ps(steps), _mm512_set1_ps(x->d[b]));
        acc = _mm512_add_ps(acc, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), step));
        w += block.n_bytes;
    }
    _mm512_storeu_ps(y, acc);
    return w;
}

static VBMI2 void csr_dot(float *y, const uint8_t *w, int32_t n_tiles, const es_q16 *x,
                          const es_split *split, int32_t n_blocks) {
    (void)split;
    for (int32_t tile = 0; tile < n_tiles; tile++, y += ES_BITMAP_ROWS) {
        w = tile_dot(y, w, x, n_blocks);
    }
}

void es_csr_avx512vnni(es_kernels *table) {
    if (__builtin_cpu_supports("avx512vbmi2")) {
        table->csr_dot = csr_dot;
        table->csr_variant = "avx512vbmi2";
    }
}
