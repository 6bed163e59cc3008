/* Loading's kernels in plain C: numbers to block codes, codes to tiles, rows to neurons. */
#include "kernels.h"

#include "kernels/half.h"

#include <math.h>

static int32_t requantize(int8_t *codes, uint16_t *d, const float *values, size_t n_blocks,
                          float q_max) {
    for (size_t b = 0; b < n_blocks; b++, values += 32, codes += 32) {
        float amax = 0.0f;
        unsigned broken = 0;
        for (int i = 0; i < 32; i++) {
            const float magnitude = fabsf(values[i]);
            broken |= !(magnitude <= 3.402823466e38f);
            amax = magnitude > amax ? magnitude : amax;
        }
        d[b] = es_float_to_half(amax / q_max);
        if (broken || (d[b] & 0x7c00) == 0x7c00) {
            return ES_E_VALUE;
        }
        const float step = es_half_to_float(d[b]);
        for (int i = 0; i < 32; i++) {
            float ratio = step > 0.0f ? values[i] / step : 0.0f;
            ratio = ratio > q_max ? q_max : ratio;
            ratio = ratio < -q_max ? -q_max : ratio;
            /* To nearest, ties to even: the addition leaves no room for a fraction. */
            codes[i] = (int8_t)((ratio + 12582912.0f) - 12582912.0f);
        }
    }
    return ES_OK;
}

/* Six words per row and parity of the column: two codes each, and four bits of the last columns. */
static void weave_six(uint8_t *dst, const int8_t *all, size_t n_blocks, size_t dst_stride) {
    for (size_t at = 0; at < 8 * n_blocks; at++) {
        const size_t block = at / 8, r = at % 8;
        const int8_t *codes = all + (r * n_blocks + block) * 32;
        for (size_t e = 0; e < 2; e++) {
            unsigned words[6], last[4];
            for (size_t i = 0; i < 4; i++) {
                last[i] = (unsigned)(codes[24 + 2 * i + e] + 32) & 63;
            }
            for (size_t i = 0; i < 6; i++) {
                const unsigned low = (unsigned)(codes[2 * i + e] + 32) & 63;
                const unsigned high = (unsigned)(codes[12 + 2 * i + e] + 32) & 63;
                words[i] = low | high << 6;
            }
            for (size_t i = 0; i < 4; i++) {
                words[i] |= (last[i] & 15) << 12;
                words[4 + i / 2] |= last[i] >> 4 << (12 + i % 2 * 2);
            }
            for (size_t i = 0; i < 6; i++) {
                uint8_t *word = dst + block * dst_stride + 32 * i + 4 * r + 2 * e;
                word[0] = (uint8_t)words[i];
                word[1] = (uint8_t)(words[i] >> 8);
            }
        }
    }
}

static void turn_lanes(uint8_t *dst, size_t dst_stride, const uint8_t *lanes, size_t k) {
    for (size_t c = 0; c < k; c++) {
        for (size_t l = 0; l < 32; l++) {
            dst[c * dst_stride + l] = lanes[l * k + c];
        }
    }
}

void es_storing_scalar(es_kernels *table) {
    table->requantize = requantize;
    table->weave_six = weave_six;
    table->turn_lanes = turn_lanes;
}
