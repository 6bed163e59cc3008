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
    const size_t bits = es_is_nibble(format) ? 4 : format == ES_FORMAT_Q6 ? 6 : 8;
    return es_code_offset(format) + codes * bits / 8;
}

/* What to take from a stored code to get the code that multiplies the step. */
ES_INLINE int32_t es_code_zero(int format) {
    return format == ES_FORMAT_Q4 ? 8 : format == ES_FORMAT_Q6 ? 32 : 0;
}

/* q6: the stored code, 0 to 63, of one row and column of a block. Each row and parity of the column
 * has six words of two whole codes and four bits that belong to the last eight columns. */
ES_INLINE int32_t es_q6_stored(const uint8_t *codes, int32_t row, int32_t column) {
    const uint8_t *words = codes + 4 * row + 2 * (column % 2);
    const int32_t pair = column / 2;
#define ES_Q6_WORD(i) (words[32 * (i)] | words[32 * (i) + 1] << 8)
    if (pair < 6) {
        return ES_Q6_WORD(pair) & 63;
    }
    if (pair < 12) {
        return ES_Q6_WORD(pair - 6) >> 6 & 63;
    }
    const int32_t i = pair - 12;
    return ES_Q6_WORD(i) >> 12 | (ES_Q6_WORD(4 + i / 2) >> (12 + i % 2 * 2) & 3) << 4;
#undef ES_Q6_WORD
}

/* Bytes of one element of a float format. */
ES_INLINE size_t es_element_bytes(int format) {
    return format == ES_FORMAT_F32 ? 4 : 2;
}

#endif
