/* Block dot products for AVX-VNNI; float weights stay with AVX2, which VNNI adds nothing to. */
#include "kernels/dense/dense.h"

#include <immintrin.h>

ES_INLINE __m256i es_madd256(__m256i acc, __m256i a, __m256i b) {
    return _mm256_dpwssd_avx_epi32(acc, a, b);
}

#include "kernels/dense/block256.h"
#include "kernels/dense/dense_table.h"

#define block_dot es_block_dot256

ES_DENSE_BLOCK_KERNELS

void es_dense_avxvnni(es_kernels *table) {
    ES_DENSE_SET_BLOCKS(table, "avxvnni");
}
