/* Products with bitmap formats for AVX-VNNI; expanding into memory stays with AVX2. */
#include <stdint.h>

#include <immintrin.h>

#include "kernels/dense/dense.h"

ES_INLINE __m256i es_madd256(__m256i acc, __m256i a, __m256i b) {
    return _mm256_dpwssd_avx_epi32(acc, a, b);
}

#include "kernels/bitmap/bitmap_256.h"

void es_bitmap_avxvnni(es_kernels *table) {
    table->bmp8_dot = bmp8_dot;
    table->bmp4_dot = bmp4_dot;
    table->bitmap_variant = "avxvnni";
}
