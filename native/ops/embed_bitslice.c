/* One dequantised row of bit slices. */
#include "engine.h"

#include <string.h>

static float number_at(const es_kernels *kernels, const uint8_t *p, size_t row, int wide) {
    float number;
    if (wide) {
        memcpy(&number, p + 4 * row, sizeof number);
    } else {
        uint16_t half;
        memcpy(&half, p + 2 * row, sizeof half);
        kernels->f16_to_f32(&number, &half, 1);
    }
    return number;
}

static int32_t code_at(const uint8_t *block, int32_t planes, size_t row, int32_t column) {
    const uint8_t *byte =
        block + column / 8 * planes * 64 + row % 16 / 4 * 16 + row / 16 * 4 + row % 4;
    int32_t code = 0;
    for (int32_t plane = 0; plane < planes; plane++) {
        code |= (byte[plane * 64] >> column % 8 & 1) << plane;
    }
    return code;
}

void es_slice_embed(const es_kernels *kernels, float *dst, const es_weight *w, int32_t row) {
    const int ternary = w->format == ES_FORMAT_BST;
    const int32_t planes = ternary ? 2 : w->format - ES_FORMAT_BS1 + 1;
    /* A single bit counts as -1 or 1, times half of the step, which is what is stored. */
    const int32_t factor = planes == 1 ? 2 : 1;
    const int32_t middle = ternary || planes == 1 ? 1 : 1 << (planes - 1);
    const es_slices layout = {.zeros = w->zeros, .wide = w->wide};
    const size_t step_bytes = es_slice_step_bytes(&layout), lane = (size_t)row % 64;
    const size_t head_bytes = ternary ? 0 : 64 * (step_bytes + es_slice_beside_bytes(&layout));
    const uint8_t *at =
        w->data + (size_t)(row / 64) * (w->n_bytes / (((size_t)w->n_rows + 63) / 64));
    float step = ternary ? w->scales[row] : 0.0f, offset = 0.0f;
    int32_t zero = middle;
    for (int32_t first = 0; first < w->k; first += 32, at += (size_t)planes * 256) {
        if (!ternary && (w->group == 0 ? first == 0 : first % w->group == 0)) {
            const uint8_t *zeros = at + 64 * step_bytes;
            step = number_at(kernels, at, lane, w->wide);
            if (w->zeros == ES_ZEROS_POINTS) {
                zero = middle + (int8_t)zeros[lane];
            } else if (w->zeros == ES_ZEROS_OFFSETS) {
                zero = 0;
                offset = number_at(kernels, zeros, lane, w->wide);
            }
            at += head_bytes;
        }
        for (int32_t i = first; i < es_min(first + 32, w->k); i++) {
            const float value =
                step * (float)(factor * code_at(at, planes, lane, i - first) - zero);
            dst[i] = w->zeros == ES_ZEROS_OFFSETS ? value + offset : value;
        }
    }
}
