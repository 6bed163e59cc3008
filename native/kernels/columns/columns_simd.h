/* Products with column formats in vector registers of any width.
 *
 * The including file defines the types `vec` (integers), `vecf` (floats) and `vacc` (sums of
 * products, v_total of them a vec), VEC_BYTES, LIST_PARTS and the v_* operations. A lane of 32 bits is a row. Two columns' bytes are interleaved and then widened by
 * interleaving with zeros, which leaves pairs of int16 for v_madd: six shuffles for 128 codes. Stored
 * numbers are unsigned; what that adds is taken off once per block: |sums| <= 32 * 255 * 32767 < 2^31.
 * Nibbles in a byte's upper half are multiplied where they are, as 16 times their value, and the sums
 * shifted back: 32 * 240 * 32767 < 2^31. */
#ifndef ES_COLUMNS_SIMD_H
#define ES_COLUMNS_SIMD_H

#include "kernels/columns/columns_list.h"
#include "kernels/far_columns.h"

#include <string.h>

enum {
    LANES = VEC_BYTES / 4,
    PARTS = 64 / VEC_BYTES /* registers that a column takes; LIST_PARTS of them at once */
};

/* The four registers of row-wise pairs from a register of each of two columns. */
ES_INLINE void widen_pairs(vec out[4], vec a, vec b) {
    const vec low = v_unpacklo8(a, b), high = v_unpackhi8(a, b);
    out[0] = v_unpacklo8(low, v_zero());
    out[1] = v_unpackhi8(low, v_zero());
    out[2] = v_unpacklo8(high, v_zero());
    out[3] = v_unpackhi8(high, v_zero());
}

/* First row of register i of part h. */
ES_INLINE size_t first_row(size_t h, size_t i) {
    return 16 * i + LANES * h;
}

/* A block's sums for LANES rows join their results. */
ES_INLINE void add_rows(float *y, vec sums, const uint8_t *steps, size_t to_minima, const es_q16 *x,
                        size_t block, const int format) {
    if (es_column_zero(format) != 0) {
        sums = v_sub32(sums, v_set32(es_column_zero(format) * x->sum[block]));
    }
    const vecf step = v_mulf(v_halfs(steps), v_setf(x->d[block]));
    vecf acc = v_addf(v_loadf(y), v_mulf(v_tofloat(sums), step));
    if (es_column_has_minimum(format)) {
        const vecf m = v_halfs(steps + to_minima);
        acc = v_addf(acc, v_mulf(m, v_setf(x->xsum[block])));
    }
    v_storef(y, acc);
}

/* One block of one line: its codes, its steps, and what to ask the memory for meanwhile. */
typedef struct line_block {
    const uint8_t *codes, *steps;
    const uint8_t *next; /* the same line's codes in the block after it */
    const es_live_pair *pairs, *next_pairs;
    int32_t n, n_next;
    size_t column, to_minima;
} line_block;

ES_INLINE void prefetch_pair(const line_block *l, int32_t p) {
    __builtin_prefetch(l->next + l->next_pairs[p].a * l->column, 0, 3);
    __builtin_prefetch(l->next + l->next_pairs[p].b * l->column, 0, 3);
}

/* Parts [part, part + n_parts) of a line's block, for one token and its live columns. */
ES_INLINE void list_parts(float *y, const line_block *l, const es_q16 *x, size_t block,
                          const size_t part, const size_t n_parts, const int format) {
    const int nibble = es_column_is_nibble(format);
    vacc sums[4 * LIST_PARTS], upper[4];
    for (size_t i = 0; i < 4 * n_parts; i++) {
        sums[i] = v_none();
    }
    for (size_t i = 0; nibble && i < 4; i++) {
        upper[i] = v_none();
    }
    for (int32_t p = 0; p < l->n; p++) {
        const uint8_t *a = l->codes + l->pairs[p].a * l->column;
        const uint8_t *b = l->codes + l->pairs[p].b * l->column;
        const vec q = v_set32((int32_t)l->pairs[p].q);
        if (part == 0 && p < l->n_next) {
            prefetch_pair(l, p);
        }
        for (size_t h = 0; h < n_parts; h++) {
            const size_t at = (part + h) * VEC_BYTES;
            vec w[4];
            widen_pairs(w, v_load(a + at), v_load(b + at));
            for (size_t i = 0; i < 4; i++) {
                if (nibble) {
                    sums[i] = v_madd(sums[i], v_and(w[i], v_set16(0x0f)), q);
                    upper[i] = v_madd(upper[i], v_and(w[i], v_set16(0xf0)), q);
                } else {
                    sums[4 * h + i] = v_madd(sums[4 * h + i], w[i], q);
                }
            }
        }
    }
    for (size_t h = 0; h < n_parts; h++) {
        for (size_t i = 0; i < 4; i++) {
            const size_t row = first_row(part + h, i);
            add_rows(y + row, v_total(sums[4 * h + i]), l->steps + 2 * row, l->to_minima, x, block,
                     format);
            if (nibble) {
                const vec whole = v_shiftright32(v_total(upper[i]), 4);
                add_rows(y + 64 + row, whole, l->steps + 128 + 2 * row, l->to_minima, x, block,
                         format);
            }
        }
    }
}

ES_INLINE void list_line(float *y, const line_block *l, const es_q16 *x, size_t block,
                         size_t block_bytes, const int format) {
    /* Nibbles make twice the sums, so there are registers for one part's at a time. */
    const size_t n_parts = es_column_is_nibble(format) ? 1 : LIST_PARTS;
    if (l->n > 0) { /* else it would add +-0 to every row */
        for (size_t part = 0; part < PARTS; part += n_parts) {
            list_parts(y, l, x, block, part, n_parts, format);
        }
    }
    for (int32_t p = l->n; p < l->n_next; p++) {
        prefetch_pair(l, p);
    }
    for (size_t at = 0; l->n_next > 0 && at < 2 * es_line_rows(format); at += ES_CACHE_LINE) {
        __builtin_prefetch(l->steps + block_bytes + at, 0, 3);
        if (es_column_has_minimum(format)) {
            __builtin_prefetch(l->steps + block_bytes + l->to_minima + at, 0, 3);
        }
    }
}

/* The block `ahead` of block b. Behind the last one lies the first of the next tile. */
ES_INLINE es_far_columns far_block(const es_column_lines *lines, const es_columns *live, size_t b,
                                   size_t ahead, size_t n_blocks, size_t block_bytes) {
    const size_t far = b + ahead;
    const int32_t *begin = live->begin + far % n_blocks;
    return (es_far_columns){.lines = lines->tile + far * block_bytes + lines->first * ES_LINE_BYTES,
                            .pairs = live->pairs + begin[0],
                            .n = ahead > 0 ? begin[1] - begin[0] : 0,
                            .column = lines->width * ES_LINE_BYTES,
                            .bytes = lines->n * ES_LINE_BYTES};
}

ES_INLINE void column_list(float *y, const es_column_lines *lines, const es_columns *live,
                           const es_q16 *x, size_t n_blocks, const int format) {
    const size_t n_rows = es_line_rows(format), width = lines->width;
    const size_t block_bytes = width * es_line_block_bytes(format);
    const size_t ahead = es_far_blocks(VEC_BYTES == 64 && !es_column_is_nibble(format));
    memset(y, 0, lines->n * n_rows * sizeof *y);
    for (size_t b = 0; b < n_blocks; b++) {
        const uint8_t *block = lines->tile + b * block_bytes;
        es_far_columns far = far_block(lines, live, b, ahead, n_blocks, block_bytes);
        /* Behind the last block lies the first one of the next tile. */
        const int32_t *next = live->begin + (b + 1 < n_blocks ? b + 1 : 0);
        line_block l = {.next_pairs = live->pairs + next[0],
                        .n_next = next[1] - next[0],
                        .pairs = live->pairs + live->begin[b],
                        .n = live->begin[b + 1] - live->begin[b],
                        .column = width * ES_LINE_BYTES,
                        .to_minima = es_minimum_offset(width, format)};
        for (size_t i = 0; i < lines->n; i++) {
            l.codes = block + (lines->first + i) * ES_LINE_BYTES;
            l.next = l.codes + block_bytes;
            l.steps = es_line_steps(block, width, lines->first + i, format);
            es_far_share(&far, lines->n - i);
            list_line(y + i * n_rows, &l, x, b, block_bytes, format);
        }
    }
}

/* ---- several tokens over all columns ------------------------------------------------------------ */

/* The codes of a line's block as pairs of int16: [n_rows / LANES][16 column pairs]. */
ES_INLINE void unpack_line(vec *out, const uint8_t *codes, size_t column, const int format) {
    for (size_t pair = 0; pair < 16; pair++) {
        for (size_t h = 0; h < PARTS; h++) {
            const uint8_t *a = codes + 2 * pair * column + h * VEC_BYTES;
            vec both[4];
            widen_pairs(both, v_load(a), v_load(a + column));
            for (size_t i = 0; i < 4; i++) {
                vec *at = out + first_row(h, i) / LANES * 16 + pair;
                if (es_column_is_nibble(format)) {
                    at[0] = v_and(both[i], v_set16(0x0f));
                    at[64 / LANES * 16] = v_shiftright16(both[i], 4);
                } else {
                    at[0] = both[i];
                }
            }
        }
    }
}

enum { SLICES = VEC_BYTES / 16, TOKENS = 4 };

/* SLICES registers of rows from `row` on, for n_tokens (a compile-time number) tokens from t on. */
ES_INLINE void dot_block(float *y, size_t y_stride, const vec *codes, const uint8_t *steps,
                         size_t to_minima, const es_q16 *x, size_t b, size_t t, size_t row,
                         const size_t n_tokens, const int format) {
    const size_t block = t * x->stride_blocks + b;
    vacc sums[TOKENS][SLICES];
    for (size_t j = 0; j < n_tokens; j++) {
        for (size_t s = 0; s < SLICES; s++) {
            sums[j][s] = v_none();
        }
    }
    for (size_t pair = 0; pair < 16; pair++) {
        vec w[SLICES];
        for (size_t s = 0; s < SLICES; s++) {
            w[s] = codes[(row / LANES + s) * 16 + pair];
        }
        for (size_t j = 0; j < n_tokens; j++) {
            int32_t two;
            memcpy(&two, x->q + (block + j * x->stride_blocks) * 32 + 2 * pair, sizeof two);
            for (size_t s = 0; s < SLICES; s++) {
                sums[j][s] = v_madd(sums[j][s], w[s], v_set32(two));
            }
        }
    }
    for (size_t j = 0; j < n_tokens; j++) {
        for (size_t s = 0; s < SLICES; s++) {
            const size_t r = row + s * LANES;
            add_rows(y + (t + j) * y_stride + r, v_total(sums[j][s]), steps + 2 * r, to_minima, x,
                     block + j * x->stride_blocks, format);
        }
    }
}

ES_INLINE void column_dot(float *y, size_t y_stride, const es_column_lines *lines, const es_q16 *x,
                          size_t n_tokens, size_t n_blocks, const int format) {
    const size_t n_rows = es_line_rows(format), width = lines->width;
    const size_t block_bytes = width * es_line_block_bytes(format);
    const size_t column = width * ES_LINE_BYTES, to_minima = es_minimum_offset(width, format);
    vec codes[128 / LANES * 16];
    for (size_t t = 0; t < n_tokens; t++) {
        memset(y + t * y_stride, 0, lines->n * n_rows * sizeof *y);
    }
    for (size_t b = 0; b < n_blocks; b++) {
        const uint8_t *block = lines->tile + b * block_bytes;
        es_prefetch_ahead(block, block_bytes);
        for (size_t i = 0; i < lines->n; i++) {
            const size_t line = lines->first + i;
            const uint8_t *steps = es_line_steps(block, width, line, format);
            unpack_line(codes, block + line * ES_LINE_BYTES, column, format);
            for (size_t row = 0; row < n_rows; row += SLICES * LANES) {
                float *to = y + i * n_rows;
                size_t t = 0;
                for (; t + TOKENS <= n_tokens; t += TOKENS) {
                    dot_block(to, y_stride, codes, steps, to_minima, x, b, t, row, TOKENS, format);
                }
                for (; t < n_tokens; t++) {
                    dot_block(to, y_stride, codes, steps, to_minima, x, b, t, row, 1, format);
                }
            }
        }
    }
}

ES_COLUMN_FORMATS(ES_COLUMN_KERNELS)

#endif
