/* Products with bit slices, and the int8 activations and tables they take. */
#ifndef ES_FAMILIES_SLICES_H
#define ES_FAMILIES_SLICES_H

#include "edgesparse.h"

/* How the codes and steps of bit slices lie, see es_weight. */
typedef struct es_slices {
    int32_t planes;
    int32_t n_blocks;     /* of 32 columns */
    int32_t group_blocks; /* blocks that share a step */
    int32_t zeros;        /* ES_ZEROS_* */
    int32_t wide;
} es_slices;

/* Bytes of a step, and of what stands beside one. */
static inline size_t es_slice_step_bytes(const es_slices *s) {
    return s->wide ? 4 : 2;
}

static inline size_t es_slice_beside_bytes(const es_slices *s) {
    return s->zeros == ES_ZEROS_NONE ? 0 : s->zeros == ES_ZEROS_POINTS ? 1 : es_slice_step_bytes(s);
}

/* Bytes of a token's table for one block: 16 sums of 16 bits for each of 8 quads. How they lie is the
 * business of an instruction set. */
enum { ES_TABLE_BYTES = 256, ES_ROUNDED_BYTES = 128 };

/* Activations quantised to int8, for n_tokens rows; blocks of 32 along k. */
typedef struct es_q8 {
    const int8_t *q;       /* [n_tokens][q_stride], zero up to a whole block */
    const float *d;        /* [n_tokens][stride_blocks]: step of the block */
    const int32_t *sum;    /* [n_tokens][stride_blocks]: sum of q over the block */
    const float *xsum;     /* [n_tokens][stride_blocks]: d * (float)sum */
    const uint8_t *tables; /* [n_tokens][stride_blocks][ES_TABLE_BYTES], 64-byte aligned */
    size_t q_stride, stride_blocks;
} es_q8;

/* y[t * y_stride + 64 * tile + lane] for n_tiles tiles of 64 rows; n_tokens <= 64. */
typedef void es_slice_dot(float *y, size_t y_stride, const uint8_t *w, const es_slices *s,
                          int32_t n_tiles, const es_q8 *x, int32_t n_tokens);

/* Ternary planes: sums[t * sums_stride + 64 * tile + lane] = sum of code {0,1,2} * q, for whole tiles. */
typedef void es_slice_sums(int32_t *sums, size_t sums_stride, const uint8_t *w, int32_t n_tiles,
                           const es_q8 *x, int32_t n_tokens, int32_t n_blocks);

#endif
