/* Weaves a tile of decoded rows into a column format: q8n, q4n, q8mn, q4mn. */
#include "repack.h"

#include "kernels.h"

static uint8_t *weave_halfs(uint8_t *dst, const uint16_t *halfs, size_t n_rows, size_t n_blocks) {
    for (size_t r = 0; r < n_rows; r++, dst += 2) {
        const uint16_t half = halfs[r * n_blocks];
        dst[0] = (uint8_t)half;
        dst[1] = (uint8_t)(half >> 8);
    }
    return dst;
}

/* The 64 bytes of every column of one block, for one line, whose first row's codes are `codes`. */
static void weave_line(uint8_t *dst, const int8_t *codes, size_t row_bytes, size_t column,
                       int32_t format, int zero) {
    for (size_t r = 0; r < 64; r++) {
        const int8_t *low = codes + r * row_bytes, *high = low + 64 * row_bytes;
        uint8_t *to = dst + es_slice_place(r);
        for (size_t c = 0; c < ES_BLOCK; c++, to += column) {
            if (es_column_is_nibble(format)) {
                *to = (uint8_t)(((low[c] + zero) & 15) | ((high[c] + zero) & 15) << 4);
            } else {
                *to = (uint8_t)(low[c] + zero);
            }
        }
    }
}

void es_weave_columns(uint8_t *dst, const int8_t *codes, const uint16_t *d, const uint16_t *m,
                      size_t n_blocks, size_t width, int32_t format, int zero) {
    const size_t line_rows = es_line_rows(format), row_bytes = n_blocks * ES_BLOCK;
    const size_t column = width * ES_LINE_BYTES, n_rows = width * line_rows;
    for (size_t b = 0; b < n_blocks; b++) {
        for (size_t line = 0; line < width; line++) {
            weave_line(dst + line * ES_LINE_BYTES,
                       codes + line * line_rows * row_bytes + b * ES_BLOCK, row_bytes, column,
                       format, zero);
        }
        dst = weave_halfs(dst + ES_BLOCK * column, d + b, n_rows, n_blocks);
        if (es_column_has_minimum(format)) {
            dst = weave_halfs(dst, m + b, n_rows, n_blocks);
        }
    }
}
