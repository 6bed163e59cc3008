/* Products with single rows in plain C: the definition for every instruction set. */
#include "kernels/rows/rows.h"

#include <string.h>

ES_INLINE float half_at(const uint8_t *p) {
    uint16_t bits;
    memcpy(&bits, p, sizeof bits);
    return es_half_to_float(bits);
}

ES_INLINE int32_t block_sum(const uint8_t *codes, const int16_t *q, int format) {
    int32_t sum = 0;
    if (es_row_is_nibble(format)) {
        for (int i = 0; i < 16; i++) {
            sum += (codes[i] & 15) * q[i] + (codes[i] >> 4) * q[16 + i];
        }
    } else {
        for (int i = 0; i < 32; i++) {
            sum += (int8_t)codes[i] * q[i];
        }
    }
    return sum;
}

ES_INLINE void row_list(float *y, const uint8_t *w, size_t row_bytes, const int32_t *rows,
                        int32_t n_rows, const es_q16 *x, size_t n_blocks, int format) {
    for (int32_t i = 0; i < n_rows; i++) {
        const uint8_t *row = w + (size_t)rows[i] * row_bytes;
        float total = 0.0f;
        for (size_t b = 0; b < n_blocks; b++) {
            const uint8_t *step = row + es_row_step(n_blocks, b, format);
            int32_t sum = block_sum(row + b * es_row_code_bytes(format), x->q + 32 * b, format);
            sum -= format == ES_FORMAT_Q4R ? 8 * x->sum[b] : 0;
            total = total + (float)sum * (half_at(step) * x->d[b]);
            if (es_row_has_minimum(format)) {
                total = total + half_at(step + 2 * n_blocks) * x->xsum[b];
            }
        }
        y[i] = total;
    }
}

/* Words of 16 bits: those of a row's block lie side by side, in a tile those of its eight rows do. */
ES_INLINE void row_tile(uint8_t *tile, const uint8_t *w, size_t row_bytes, int32_t n_rows,
                        size_t n_blocks, int format) {
    const size_t n_words = es_row_code_bytes(format) / 2,
                 halfs = es_row_has_minimum(format) ? 2 : 1;
    const size_t block_bytes = 2 * ES_GROUP * (halfs + n_words);
    memset(tile, 0, n_blocks * block_bytes);
    for (int32_t r = 0; r < n_rows; r++, w += row_bytes) {
        for (size_t b = 0; b < n_blocks; b++) {
            uint8_t *to = tile + b * block_bytes + 2 * r;
            for (size_t i = 0; i < halfs; i++, to += 2 * ES_GROUP) {
                memcpy(to, w + es_row_step(n_blocks, b, format) + 2 * n_blocks * i, 2);
            }
            for (size_t i = 0; i < n_words; i++, to += 2 * ES_GROUP) {
                memcpy(to, w + 2 * (b * n_words + i), 2);
            }
        }
    }
}

ES_ROW_FORMATS

void es_rows_scalar(es_kernels *table) {
    ES_ROWS_SET(table, "scalar");
}
