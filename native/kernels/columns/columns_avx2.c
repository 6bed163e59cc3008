/* Products with column formats for AVX2 with F16C. */
#include "kernels/columns/columns_256.h"

ES_INLINE __m256i v_madd(__m256i acc, __m256i a, __m256i b) {
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
    /* Keeps the chain a chain: GCC would add the products as a tree and spill most of them. */
    __asm__("" : "+x"(acc));
    return acc;
}

#include "kernels/columns/columns_simd.h"

/* Bit i of the result: q[i] != 0, for 32 inputs. */
ES_INLINE uint32_t live_mask(const int16_t *q) {
    const __m256i zero = _mm256_setzero_si256();
    const __m256i low = _mm256_cmpeq_epi16(v_load(q), zero);
    const __m256i high = _mm256_cmpeq_epi16(v_load(q + 16), zero);
    const __m256i mixed = _mm256_packs_epi16(low, high); /* quarters 0, 2, 1, 3 */
    return ~(uint32_t)_mm256_movemask_epi8(_mm256_permute4x64_epi64(mixed, 0xd8));
}

static int32_t list_columns(es_live_pair *pairs, int32_t *begin, const int16_t *q,
                            int32_t n_blocks) {
    int32_t n = 0, n_live = 0;
    for (int32_t b = 0; b < n_blocks; b++, q += 32) {
        const uint32_t live = live_mask(q);
        begin[b] = n;
        n += es_live_pairs(pairs + n, live, q);
        n_live += __builtin_popcount(live);
    }
    begin[n_blocks] = n;
    return n_live;
}

void es_columns_avx2(es_kernels *table) {
    table->list_columns = list_columns;
    ES_COLUMNS_SET(table, "avx2");
}
