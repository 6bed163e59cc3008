/* Bitmap formats (edgesparse/formats/README.md): tiles of 16 rows, blocks of 32 columns; a block is the
 * steps of its rows, a bitmap of eight words, then the codes that are not 0. Word c has four columns:
 * bit 4 * row + i is column 4c + i. */
#ifndef ES_BITMAP_H
#define ES_BITMAP_H

#include "edgesparse.h"
#include "kernels.h"
#include "kernels/bitmap/table.h"
#include "kernels/dense/dense.h"

#include <string.h>

enum {
    ES_BITMAP_CHUNKS = 8,
    ES_BITMAP_STEPS = 2 * ES_BITMAP_ROWS, /* bytes of the steps */
    ES_BITMAP_NIBBLE_ZERO = 8             /* bmp4: a nibble is the code + 8 */
};

ES_INLINE uint64_t es_bitmap_word(const uint8_t *block, int chunk) {
    uint64_t word;
    memcpy(&word, block + ES_BITMAP_STEPS + 8 * chunk, sizeof word);
    return word;
}

/* Bytes that a chunk of n codes takes. */
ES_INLINE size_t es_bitmap_bytes(int format, size_t n) {
    return format == ES_FORMAT_BMP4 ? (n + 1) / 2 : n;
}

#endif
