/* Formats without zeros: bitmaps, few codes with their columns, two of four. */
#ifndef ES_FAMILIES_WITHOUT_ZEROS_H
#define ES_FAMILIES_WITHOUT_ZEROS_H

#include "edgesparse.h"
#include "families/blocks.h"

/* Formats without zeros (edgesparse/formats/README.md): tiles of 16 rows, of varying length but for 2:4. */
enum { ES_BITMAP_ROWS = 16, ES_BITMAP_HEAD = 96, ES_BITMAP_SLACK = 64 };

static inline int es_is_sparse(int32_t format) {
    return format >= ES_FORMAT_BMP8 && format <= ES_FORMAT_NM4;
}

static inline int es_is_two_of_four(int32_t format) {
    return format == ES_FORMAT_NM8 || format == ES_FORMAT_NM4;
}

/* Bytes of 16 rows and 32 columns in nm8 or nm4: steps, places, codes. */
static inline size_t es_nm_block_bytes(int32_t format) {
    return format == ES_FORMAT_NM8 ? 32 + 64 + 256 : 32 + 64 + 128;
}

/* The dense format with the same codes and steps. */
static inline int32_t es_dense_format(int32_t format) {
    return format == ES_FORMAT_BMP4 || format == ES_FORMAT_NM4 ? ES_FORMAT_Q4 : ES_FORMAT_Q8;
}

/* One token: y[16 * tile + lane] for n_tiles tiles that follow one another from w on. Reads up to
 * ES_BITMAP_SLACK bytes behind them. */
typedef void es_bitmap_dot(float *y, const uint8_t *w, int32_t n_tiles, const es_q16 *x,
                           const es_split *split, int32_t n_blocks);

/* One tile as the two dense tiles of 8 rows with the same codes and steps. */
typedef void es_bitmap_expand(uint8_t *tiles, const uint8_t *w, int32_t n_blocks);

#endif
