/* From a block's integers to floats, in the order that edgesparse/ops/README.md promises.
 *
 * The includer defines es_vf (a vector of ES_VF floats) and vf_load, vf_store, vf_set1, vf_add, vf_sub,
 * vf_mul, vf_halfs (ES_VF halfs widened) and vf_bytes (ES_VF int8 converted). */
#ifndef ES_SLICE_FINISH_H
#define ES_SLICE_FINISH_H

#include "kernels/bitslice/bitslice.h"

/* Rows from `row` on: `isum`, as floats, times the step of the activations joins the group's sum `f`. */
ES_INLINE void es_slice_collect(float *f, size_t row, es_vf isum, es_vf d, const int is_first) {
    const es_vf part = vf_mul(isum, d);
    vf_store(f + row, is_first ? part : vf_add(vf_load(f + row), part));
}

/* The same with rounded tables: `sum` of 2^plane * a. */
ES_INLINE void es_rounded_collect(float *f, size_t row, es_vf sum, es_vf d, es_vf half_xsum,
                                  const int is_first, const int planes) {
    const es_vf centred = vf_sub(sum, vf_set1(es_mean(planes)));
    const es_vf part = vf_sub(vf_mul(centred, d), half_xsum);
    vf_store(f + row, is_first ? part : vf_add(vf_load(f + row), part));
}

ES_INLINE es_vf vf_steps(const uint8_t *p, size_t row, const int wide) {
    return wide ? vf_load((const float *)(const void *)p + row) : vf_halfs(p + 2 * row);
}

ES_INLINE void es_slice_close_as(float *y, const float *f, const uint8_t *steps,
                                 const uint8_t *beside, float xsum, int planes, const int zeros,
                                 const int wide) {
    const es_vf xs = vf_set1(xsum), middle = vf_set1((float)es_slice_middle(planes));
    for (size_t row = 0; row < ES_SLICE_ROWS; row += ES_VF) {
        const es_vf step = vf_steps(steps, row, wide);
        es_vf part = vf_load(f + row);
        if (zeros == ES_ZEROS_POINTS) {
            part = vf_sub(part, vf_mul(vf_bytes(beside + row), xs));
        }
        es_vf acc = vf_add(vf_load(y + row), vf_mul(step, part));
        if (zeros == ES_ZEROS_OFFSETS) {
            /* The sums count from the middle of the codes, the offset from code 0. */
            const es_vf offset = vf_add(vf_steps(beside, row, wide), vf_mul(step, middle));
            acc = vf_add(acc, vf_mul(offset, xs));
        }
        vf_store(y + row, acc);
    }
}

/* A group's sum `f` of 64 rows joins the result `y`. */
static void es_slice_close_rows(float *y, const float *f, const uint8_t *steps,
                                const uint8_t *beside, float xsum, const es_slices *s) {
    switch (2 * s->zeros + s->wide) {
    case 2 * ES_ZEROS_NONE:
        es_slice_close_as(y, f, steps, beside, xsum, s->planes, ES_ZEROS_NONE, 0);
        break;
    case 2 * ES_ZEROS_NONE + 1:
        es_slice_close_as(y, f, steps, beside, xsum, s->planes, ES_ZEROS_NONE, 1);
        break;
    case 2 * ES_ZEROS_POINTS:
        es_slice_close_as(y, f, steps, beside, xsum, s->planes, ES_ZEROS_POINTS, 0);
        break;
    case 2 * ES_ZEROS_POINTS + 1:
        es_slice_close_as(y, f, steps, beside, xsum, s->planes, ES_ZEROS_POINTS, 1);
        break;
    case 2 * ES_ZEROS_OFFSETS:
        es_slice_close_as(y, f, steps, beside, xsum, s->planes, ES_ZEROS_OFFSETS, 0);
        break;
    default:
        es_slice_close_as(y, f, steps, beside, xsum, s->planes, ES_ZEROS_OFFSETS, 1);
        break;
    }
}

/* The same for a tile of bit planes. */
static inline void es_slice_close(float *y, const float *f, const uint8_t *head, float xsum,
                                  const es_slices *s) {
    const size_t step = s->wide ? sizeof(float) : sizeof(uint16_t);
    es_slice_close_rows(y, f, head, head + ES_SLICE_ROWS * step, xsum, s);
}

#endif
