/* See check_slices.h. */
#include "check/check_slices.h"

#include "check/check_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t *tile_of(const slice_case *c, const uint8_t *w, size_t row) {
    return w + row / SLICE_TILE_ROWS * c->tile_bytes;
}

void slice_codes(uint8_t *codes, const slice_case *c, const uint8_t *w, size_t row) {
    const uint8_t *block = tile_of(c, w, row);
    const size_t r = row % SLICE_TILE_ROWS, at = r % 16 / 4 * 16 + r / 16 * 4 + r % 4;
    const int32_t planes = c->layout.planes;
    for (int32_t b = 0; b < c->layout.n_blocks; b++, codes += 32, block += c->block_bytes) {
        block += b % c->layout.group_blocks == 0 ? c->head_bytes : 0;
        for (int32_t i = 0; i < 32; i++) {
            codes[i] = 0;
            for (int32_t plane = 0; plane < planes; plane++) {
                const uint8_t bits = block[(size_t)(i / 8 * planes + plane) * 64 + at];
                codes[i] = (uint8_t)(codes[i] | (bits >> i % 8 & 1) << plane);
            }
        }
    }
}

static float number_at(const uint8_t *p, size_t i, int wide) {
    float number;
    uint16_t half;
    if (wide) {
        memcpy(&number, p + 4 * i, sizeof number);
        return number;
    }
    memcpy(&half, p + 2 * i, sizeof half);
    return (float)check_half(half);
}

static int32_t middle_of(const es_slices *s) {
    return s->planes == 1 ? 1 : 1 << (s->planes - 1);
}

/* What one block of 32 codes adds to an output; `at` is the activations' block. */
static float exact_term(const es_slices *s, const uint8_t *codes, const es_q8 *x, size_t at) {
    const int32_t factor = s->planes == 1 ? 2 : 1, middle = middle_of(s);
    int32_t isum = 0;
    for (size_t i = 0; i < 32; i++) {
        isum += (factor * codes[i] - middle) * x->q[at * 32 + i];
    }
    return (float)isum * x->d[at];
}

/* Rounded sums of each quad of a block for the 16 ways to take its signs, and what they are in parts of. */
typedef struct rounded_block {
    int32_t entries[8][16];
    float step;
} rounded_block;

static void round_block(rounded_block *to, const int8_t *q, float d) {
    int32_t largest = 0;
    for (size_t i = 0; i < 32; i += 4) {
        const int32_t sum = abs(q[i]) + abs(q[i + 1]) + abs(q[i + 2]) + abs(q[i + 3]);
        largest = sum > largest ? sum : largest;
    }
    const float scale = largest > 0 ? 127.0f / (float)largest : 0.0f;
    to->step = d * ((float)largest / 127.0f);
    for (size_t quad = 0; quad < 8; quad++) {
        for (int32_t signs = 0; signs < 16; signs++) {
            int32_t sum = 0;
            for (size_t i = 0; i < 4; i++) {
                sum += signs >> i & 1 ? q[4 * quad + i] : -q[4 * quad + i];
            }
            to->entries[quad][signs] = 128 + (int32_t)nearbyintf((float)sum * scale);
        }
    }
}

/* What one block adds by rounded tables. */
static float rounded_term(const es_slices *s, const uint8_t *codes, const rounded_block *x,
                          float xsum) {
    int32_t total = 0;
    for (int32_t plane = 0; plane < s->planes; plane++) {
        int32_t means[8]; /* of one entry, then of two, four and eight */
        for (size_t quad = 0; quad < 8; quad++) {
            int32_t signs = 0;
            for (size_t i = 0; i < 4; i++) {
                signs |= (codes[4 * quad + i] >> plane & 1) << i;
            }
            means[quad] = x->entries[quad][signs];
        }
        for (size_t n = 4; n > 0; n /= 2) {
            for (size_t i = 0; i < n; i++) {
                means[i] = (means[2 * i] + means[2 * i + 1] + 1) / 2;
            }
        }
        total += means[0] << plane;
    }
    const float step = x->step * (s->planes == 1 ? 8.0f : 4.0f);
    const float half = s->planes == 1 ? 0.0f : 0.5f * xsum;
    return ((float)total - (float)((1 << s->planes) - 1) * 128.75f) * step - half;
}

/* One output; `row` is that of the tile. */
static float true_output(const slice_case *c, const uint8_t *tile, const uint8_t *codes, size_t row,
                         const es_q8 *x, size_t token, const rounded_block *rounded) {
    const es_slices *s = &c->layout;
    float acc = 0.0f, part = 0.0f, xs = 0.0f;
    const uint8_t *head = tile;
    for (int32_t b = 0; b < s->n_blocks; b++, codes += 32) {
        const int first = b % s->group_blocks == 0;
        if (first) {
            head = tile;
            tile += c->head_bytes;
        }
        const size_t at = token * x->stride_blocks + (size_t)b;
        const float term = rounded != NULL ? rounded_term(s, codes, &rounded[at], x->xsum[at])
                                           : exact_term(s, codes, x, at);
        part = first ? term : part + term;
        xs = first ? x->xsum[at] : xs + x->xsum[at];
        tile += c->block_bytes;
        if ((b + 1) % s->group_blocks != 0 && b + 1 != s->n_blocks) {
            continue;
        }
        const float step = number_at(head, row, s->wide);
        const uint8_t *beside = head + SLICE_TILE_ROWS * slice_element_bytes(s);
        if (s->zeros == ES_ZEROS_POINTS) {
            part = part - (float)(int8_t)beside[row] * xs;
        }
        acc = acc + step * part;
        if (s->zeros == ES_ZEROS_OFFSETS) {
            acc = acc + (number_at(beside, row, s->wide) + step * (float)middle_of(s)) * xs;
        }
    }
    return acc;
}

void slice_true_outputs(float *y, const slice_case *c, const uint8_t *w, const es_q8 *x,
                        int rounded) {
    const size_t rows = (size_t)c->n_tiles * SLICE_TILE_ROWS;
    const size_t n_blocks = (size_t)c->n_tokens * x->stride_blocks;
    rounded_block *blocks = rounded ? check_alloc(n_blocks * sizeof *blocks) : NULL;
    for (size_t i = 0; rounded && i < n_blocks; i++) {
        round_block(&blocks[i], x->q + 32 * i, x->d[i]);
    }
    uint8_t codes[MAX_SLICE_BLOCKS * 32];
    for (size_t row = 0; row < rows; row++) {
        slice_codes(codes, c, w, row);
        for (size_t t = 0; t < (size_t)c->n_tokens; t++) {
            y[t * rows + row] =
                true_output(c, tile_of(c, w, row), codes, row % SLICE_TILE_ROWS, x, t, blocks);
        }
    }
    check_free(blocks);
}
