/* Bitmap formats for AVX2. */
#include <stdint.h>

#include <immintrin.h>

#include "kernels/dense/dense.h"

ES_INLINE __m256i es_madd256(__m256i acc, __m256i a, __m256i b) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
}

#include "kernels/bitmap/bitmap_256.h"

ES_SPARSE_EXPAND(POPCNT, bmp8_expand, expand_block, ES_FORMAT_BMP8)
ES_SPARSE_EXPAND(POPCNT, bmp4_expand, expand_block, ES_FORMAT_BMP4)

void es_bitmap_avx2(es_kernels *table) {
    table->bmp8_dot = bmp8_dot;
    table->bmp4_dot = bmp4_dot;
    table->bmp8_expand = bmp8_expand;
    table->bmp4_expand = bmp4_expand;
    table->bitmap_variant = "avx2";
}
