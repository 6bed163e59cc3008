/* Sizes and field offsets of the dense storage formats (edgesparse/formats/README.md). */
#ifndef ES_DENSE_H
#define ES_DENSE_H

#include "edgesparse.h"
#include "kernels.h"

#define ES_INLINE static inline __attribute__((always_inline))

enum {
    ES_TILE = 8,        /* rows side by side */
    ES_BLOCK = 32,      /* columns that share one step */
    ES_SCALE_BYTES = 16 /* eight halfs: the steps, or the minima, of one block of a tile */
};

/* 1: codes are nibbles. */
ES_INLINE int es_is_nibble(int format) {
    return format == ES_FORMAT_Q4 || format == ES_FORMAT_Q4M;
}

/* 1: a minimum per row follows the step. */
ES_INLINE int es_has_minimum(int format) {
    return format == ES_FORMAT_Q8M || format == ES_FORMAT_Q4M;
}

/* From a block's first byte to its codes. */
ES_INLINE size_t es_code_offset(int format) {
    return (size_t)(es_has_minimum(format) ? 2 * ES_SCALE_BYTES : ES_SCALE_BYTES);
}

/* Bytes of one block of a tile. */
ES_INLINE size_t es_block_bytes(int format) {
    const size_t codes = ES_TILE * ES_BLOCK;
    return es_code_offset(format) + (es_is_nibble(format) ? codes / 2 : codes);
}

/* Bytes of one element of a float format. */
ES_INLINE size_t es_element_bytes(int format) {
    return format == ES_FORMAT_F32 ? 4 : 2;
}

#endif
