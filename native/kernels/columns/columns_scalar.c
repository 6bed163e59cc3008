/* Products with column formats in plain C: the definition for every instruction set. */
#include "kernels/columns/columns_list.h"

#include <string.h>

enum { MOST_ROWS = 128 };

ES_INLINE float half_at(const uint8_t *p) {
    uint16_t bits;
    memcpy(&bits, p, sizeof bits);
    return es_half_to_float(bits);
}

/* Adds the stored numbers of one line, times q, to the sums of its rows. */
ES_INLINE void add_line(int32_t sums[MOST_ROWS], const uint8_t *line, int32_t q, int format) {
    for (size_t r = 0; r < 64; r++) {
        const uint8_t byte = line[es_column_place(r)];
        if (es_column_is_nibble(format)) {
            sums[r] += (byte & 15) * q;
            sums[64 + r] += (byte >> 4) * q;
        } else {
            sums[r] += byte * q;
        }
    }
}

/* Adds a block's sums, with the stored numbers' zero taken off, to the rows' results. */
ES_INLINE void add_block(float *y, const int32_t *sums, const uint8_t *steps, size_t to_minima,
                         const es_q16 *x, size_t block, int format) {
    const int32_t zeros = es_column_zero(format) * x->sum[block];
    for (size_t r = 0; r < es_line_rows(format); r++) {
        y[r] = y[r] + (float)(sums[r] - zeros) * (half_at(steps + 2 * r) * x->d[block]);
        if (es_column_has_minimum(format)) {
            y[r] = y[r] + half_at(steps + to_minima + 2 * r) * x->xsum[block];
        }
    }
}

ES_INLINE void column_list(float *y, const es_column_lines *lines, const es_columns *live,
                           const es_q16 *x, size_t n_blocks, int format) {
    const size_t n_rows = es_line_rows(format), width = lines->width;
    const size_t column = width * ES_LINE_BYTES, to_minima = es_minimum_offset(width, format);
    memset(y, 0, lines->n * n_rows * sizeof *y);
    for (size_t b = 0; b < n_blocks; b++) {
        const uint8_t *block = lines->tile + b * width * es_line_block_bytes(format);
        if (live->begin[b] == live->begin[b + 1]) {
            continue; /* would add +-0 to every row */
        }
        for (size_t line = lines->first; line < lines->first + lines->n; line++) {
            int32_t sums[MOST_ROWS] = {0};
            const uint8_t *codes = block + line * ES_LINE_BYTES;
            for (int32_t i = live->begin[b]; i < live->begin[b + 1]; i++) {
                const es_live_pair *pair = &live->pairs[i];
                add_line(sums, codes + pair->a * column, (int16_t)(pair->q & 0xffff), format);
                add_line(sums, codes + pair->b * column, (int16_t)(pair->q >> 16), format);
            }
            add_block(y + (line - lines->first) * n_rows, sums,
                      es_line_steps(block, width, line, format), to_minima, x, b, format);
        }
    }
}

ES_INLINE void column_dot(float *y, size_t y_stride, const es_column_lines *lines, const es_q16 *x,
                          size_t n_tokens, size_t n_blocks, int format) {
    const size_t n_rows = es_line_rows(format), width = lines->width;
    const size_t column = width * ES_LINE_BYTES, to_minima = es_minimum_offset(width, format);
    for (size_t t = 0; t < n_tokens; t++) {
        memset(y + t * y_stride, 0, lines->n * n_rows * sizeof *y);
    }
    for (size_t b = 0; b < n_blocks; b++) {
        const uint8_t *block = lines->tile + b * width * es_line_block_bytes(format);
        for (size_t i = 0; i < lines->n; i++) {
            const size_t line = lines->first + i;
            for (size_t t = 0; t < n_tokens; t++) {
                const size_t at = t * x->stride_blocks + b;
                int32_t sums[MOST_ROWS] = {0};
                for (size_t c = 0; c < 32; c++) {
                    add_line(sums, block + c * column + line * ES_LINE_BYTES, x->q[at * 32 + c],
                             format);
                }
                add_block(y + t * y_stride + i * n_rows, sums,
                          es_line_steps(block, width, line, format), to_minima, x, at, format);
            }
        }
    }
}

static int32_t list_columns(es_live_pair *pairs, int32_t *begin, const int16_t *q,
                            int32_t n_blocks) {
    int32_t n = 0, n_live = 0;
    for (int32_t b = 0; b < n_blocks; b++, q += 32) {
        uint32_t live = 0;
        for (int32_t c = 0; c < 32; c++) {
            live |= (uint32_t)(q[c] != 0) << c;
        }
        begin[b] = n;
        n += es_live_pairs(pairs + n, live, q);
        n_live += __builtin_popcount(live);
    }
    begin[n_blocks] = n;
    return n_live;
}

ES_COLUMN_FORMATS(ES_COLUMN_KERNELS)

void es_columns_scalar(es_kernels *table) {
    table->list_columns = list_columns;
    ES_COLUMNS_SET(table, "scalar");
}
