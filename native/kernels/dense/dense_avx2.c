/* Dense dot products for AVX2 with F16C. */
#include "kernels/dense/dense.h"

#include <immintrin.h>

ES_INLINE __m256i es_madd256(__m256i acc, __m256i a, __m256i b) {
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
    /* Keeps the chain a chain: GCC would add the products as a tree and spill most of them. */
    __asm__("" : "+x"(acc));
    return acc;
}

#include "kernels/dense/block256.h"
#include "kernels/dense/dense_table.h"
#include "kernels/dense/float256.h"

#define block_dot es_block_dot256
#define float_dot es_float_dot256

ES_DENSE_BLOCK_KERNELS
ES_DENSE_FLOAT_KERNELS

void es_dense_avx2(es_kernels *table) {
    ES_DENSE_SET_BLOCKS(table, "avx2");
    ES_DENSE_SET_FLOATS(table, "avx2");
}
