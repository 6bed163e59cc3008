/* The truth about products with bit slices: codes, and outputs by the rules of edgesparse/ops/README.md. */
#ifndef ES_CHECK_SLICES_H
#define ES_CHECK_SLICES_H

#include "kernels.h"

#include <stddef.h>
#include <stdint.h>

enum { SLICE_TILE_ROWS = 64, MAX_SLICE_BLOCKS = 13 };

/* Weights in tiles of tile_bytes: for each group the steps, head_bytes, and its blocks. */
typedef struct slice_case {
    es_slices layout;
    int32_t n_tiles, n_tokens;
    int pattern;
    size_t head_bytes, block_bytes, tile_bytes;
} slice_case;

/* Bytes of a step, or of an offset beside it. */
static inline size_t slice_element_bytes(const es_slices *s) {
    return s->wide ? 4 : 2;
}

/* The n_blocks * 32 stored codes of a row, straight from the byte picture. */
void slice_codes(uint8_t *codes, const slice_case *c, const uint8_t *w, size_t row);

/* All outputs, y[token][row], by exact or by rounded tables. */
void slice_true_outputs(float *y, const slice_case *c, const uint8_t *w, const es_q8 *x,
                        int rounded);

#endif
