/* Dense dot products for AVX-512 VNNI.
 *
 * One token is bound by memory, and one tile at a time reads one stream. Several tokens are bound
 * by arithmetic: two tiles share a 512-bit register, so one product serves sixteen rows. */
#include "kernels/dense/dense.h"

#include <immintrin.h>

ES_INLINE __m256i es_madd256(__m256i acc, __m256i a, __m256i b) {
    return _mm256_dpwssd_epi32(acc, a, b);
}

#include "kernels/dense/block256.h"
#include "kernels/dense/block512.h"
#include "kernels/dense/dense_table.h"
#include "kernels/dense/float512.h"

ES_INLINE void block_dot(float *y, size_t y_stride, const uint8_t *w, int32_t n_tiles,
                         const es_q16 *x, int32_t n_tokens, int32_t n_blocks, const int format) {
    int32_t tile = 0;
    if (n_tokens > 1) {
        const size_t tile_bytes = (size_t)n_blocks * es_block_bytes(format);
        for (; tile + 2 <= n_tiles; tile += 2) {
            es_block_pair512(y, y_stride, w, w + tile_bytes, x, (size_t)n_tokens, n_blocks, format);
            y += 2 * ES_TILE;
            w += 2 * tile_bytes;
        }
    }
    es_block_dot256(y, y_stride, w, n_tiles - tile, x, n_tokens, n_blocks, format);
}

ES_INLINE void float_dot(float *y, size_t y_stride, const uint8_t *w, int32_t n_tiles,
                         const float *x, size_t x_stride, int32_t n_tokens, int32_t k,
                         const int format) {
    int32_t tile = 0;
    if (n_tokens > 1) {
        const size_t tile_bytes = (size_t)k * ES_TILE * es_element_bytes(format);
        for (; tile + 2 <= n_tiles; tile += 2) {
            es_float_pair512(y, y_stride, w, w + tile_bytes, x, x_stride, (size_t)n_tokens,
                             (size_t)k, format);
            y += 2 * ES_TILE;
            w += 2 * tile_bytes;
        }
    }
    es_float_dot256(y, y_stride, w, n_tiles - tile, x, x_stride, n_tokens, k, format);
}

ES_DENSE_BLOCK_KERNELS
ES_DENSE_FLOAT_KERNELS

void es_dense_avx512vnni(es_kernels *table) {
    ES_DENSE_SET_BLOCKS(table, "avx512vnni");
    ES_DENSE_SET_FLOATS(table, "avx512vnni");
}
