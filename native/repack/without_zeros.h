/* One block of 16 rows and 32 columns on its way into a format without zeros. */
#ifndef ES_WITHOUT_ZEROS_H
#define ES_WITHOUT_ZEROS_H

#include "kernels.h"
#include "kernels/bitmap/bitmap.h"

#include <stdint.h>

ES_INLINE uint64_t es_word_at(const uint8_t *src) {
    uint64_t word;
    memcpy(&word, src, sizeof word);
    return word;
}

typedef struct es_codes_block {
    int8_t codes[ES_BITMAP_CHUNKS][64]; /* [c][4 * row + i]: column 4c + i; 0 for rows not there */
    uint8_t steps[2 * ES_BITMAP_ROWS];  /* halfs */
} es_codes_block;

/* Bytes of the block in a format, written to `to` unless it is NULL; 0 if the format cannot hold it. */
size_t es_bitmap_put(uint8_t *to, const es_codes_block *block, int32_t format);
size_t es_csr_put(uint8_t *to, const es_codes_block *block);
size_t es_nm_put(uint8_t *to, const es_codes_block *block, int32_t format);

/* Bytes of the block at `at`, which has `room`; 0 if it is none. */
typedef size_t es_valid_block(const uint8_t *at, size_t room, int32_t format);

/* Whether a matrix is an index and tiles of such blocks, as the index says. */
int es_tiles_are_valid(const es_weight *w, es_valid_block *block);

#endif
