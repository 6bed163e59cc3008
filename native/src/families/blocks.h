/* Products with blocks of 32 columns and with floats, and the int16 activations they take. */
#ifndef ES_FAMILIES_BLOCKS_H
#define ES_FAMILIES_BLOCKS_H

#include "edgesparse.h"

/* Activations quantised to int16 in blocks of 32 along k, for n_tokens rows. */
typedef struct es_q16 {
    const int16_t *q;   /* [n_tokens][stride_blocks * 32], 64-byte aligned */
    const float *d;     /* [n_tokens][stride_blocks]: step of the block */
    const int32_t *sum; /* [n_tokens][stride_blocks]: sum of q over the block */
    const float *xsum;  /* [n_tokens][stride_blocks]: d * (float)sum */
    size_t stride_blocks;
} es_q16;

/* y[t * y_stride + 8 * tile + lane] for n_tiles tiles of 8 rows, n_blocks blocks of 32 columns. */
typedef void es_block_dot(float *y, size_t y_stride, const uint8_t *w, int32_t n_tiles,
                          const es_q16 *x, int32_t n_tokens, int32_t n_blocks);

/* The same for float weights: x is [n_tokens][x_stride] float32, 64-byte aligned rows. */
typedef void es_float_dot(float *y, size_t y_stride, const uint8_t *w, int32_t n_tiles,
                          const float *x, size_t x_stride, int32_t n_tokens, int32_t k);

/* int16 inputs of one token taken apart, for instruction sets that multiply bytes; see split_q16. */
typedef struct es_split {
    const uint8_t *bytes;  /* [n_blocks][64] */
    const int32_t *centre; /* [n_blocks] */
} es_split;

#endif
