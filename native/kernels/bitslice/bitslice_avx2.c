/* Bit slices for AVX2: vpshufb tables, vpmaddubsw products.
 *
 * A pair of products is at most 15 * 127 * 2 = 3810 (bst: 2 * 128 * 2 = 512), so that int16 lanes hold
 * the 8 quads of a block: 30480. */
#include "kernels/bitslice/slice_256.h"
#include "kernels/bitslice/slice_pairs256.h"

typedef __m256i mad_acc;

ES_INLINE mad_acc mad_zero(void) {
    return _mm256_setzero_si256();
}

ES_INLINE mad_acc mad_step(mad_acc acc, __m256i codes, __m256i q) {
    acc = _mm256_add_epi16(acc, _mm256_maddubs_epi16(codes, q));
    ES_KEEP_ORDER("x", acc);
    return acc;
}

ES_INLINE __m256i mad_total(mad_acc acc) {
    return _mm256_madd_epi16(acc, _mm256_set1_epi16(1));
}

#include "kernels/bitslice/slice_lut256.h"

void es_bitslice_avx2(es_kernels *table) {
    ES_SLICE_SET(table, "avx2");
}
