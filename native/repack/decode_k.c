/* K types, 256 columns per super-block. Q4_K and Q5_K keep their codes and round d * scale and
 * dmin * minimum to half; Q2_K, Q3_K and Q6_K have a scale per 16 columns and become floats. */
#include "repack.h"

/* Eight 6-bit scales and eight 6-bit minima from 12 bytes. */
static void scale_pairs(uint8_t scale[8], uint8_t minimum[8], const uint8_t *src) {
    for (int b = 0; b < 4; b++) {
        scale[b] = src[b] & 63;
        minimum[b] = src[4 + b] & 63;
        scale[4 + b] = (uint8_t)((src[8 + b] & 15) | src[b] >> 6 << 4);
        minimum[4 + b] = (uint8_t)(src[8 + b] >> 4 | src[4 + b] >> 6 << 4);
    }
}

/* d and m of the eight sub-blocks; the float products are exact, so each is rounded once. */
static void affine_pairs(uint16_t *d, uint16_t *m, const uint8_t *src) {
    uint8_t scale[8], minimum[8];
    scale_pairs(scale, minimum, src + 4);
    const float step = es_half_to_float(es_load_u16(src));
    const float floor_step = es_half_to_float(es_load_u16(src + 2));
    for (int b = 0; b < 8; b++) {
        d[b] = es_float_to_half(step * (float)scale[b]);
        m[b] = es_float_to_half(-(floor_step * (float)minimum[b]));
    }
}

void es_affine_q4_k(int8_t *codes, uint16_t *d, uint16_t *m, const uint8_t *src, int32_t n_blocks) {
    for (int32_t n = 0; n < n_blocks; n++, codes += 256, d += 8, m += 8, src += 144) {
        affine_pairs(d, m, src);
        for (int pair = 0; pair < 4; pair++) {
            for (int l = 0; l < 32; l++) {
                const uint8_t byte = src[16 + 32 * pair + l];
                codes[64 * pair + l] = (int8_t)(byte & 15);
                codes[64 * pair + 32 + l] = (int8_t)(byte >> 4);
            }
        }
    }
}

void es_affine_q5_k(int8_t *codes, uint16_t *d, uint16_t *m, const uint8_t *src, int32_t n_blocks) {
    for (int32_t n = 0; n < n_blocks; n++, codes += 256, d += 8, m += 8, src += 176) {
        affine_pairs(d, m, src);
        for (int b = 0; b < 8; b++) {
            const int shift = b % 2 ? 4 : 0;
            for (int l = 0; l < 32; l++) {
                const int low = src[48 + 32 * (b / 2) + l] >> shift & 15;
                codes[32 * b + l] = (int8_t)(low | (src[16 + l] >> b & 1) << 4);
            }
        }
    }
}

void es_floats_q2_k(float *values, const uint8_t *src, int32_t n_blocks) {
    for (int32_t n = 0; n < n_blocks; n++, values += 256, src += 84) {
        const float d = es_half_to_float(es_load_u16(src + 80));
        const float dmin = es_half_to_float(es_load_u16(src + 82));
        for (int i = 0; i < 256; i++) {
            const int code = src[16 + 32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3;
            const uint8_t pair = src[i / 16];
            const float step = d * (float)(pair & 15), m = -(dmin * (float)(pair >> 4));
            values[i] = (float)code * step + m;
        }
    }
}

void es_floats_q3_k(float *values, const uint8_t *src, int32_t n_blocks) {
    for (int32_t n = 0; n < n_blocks; n++, values += 256, src += 110) {
        const float d = es_half_to_float(es_load_u16(src + 108));
        const uint8_t *packed = src + 96;
        for (int i = 0; i < 256; i++) {
            const int s = i / 16;
            const int low4 = s < 8 ? packed[s] & 15 : packed[s - 8] >> 4;
            const int high2 = packed[8 + s % 4] >> 2 * (s / 4) & 3;
            const int low2 = src[32 + 32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3;
            const int code = low2 - (src[i % 32] >> i / 32 & 1 ? 0 : 4);
            values[i] = (float)code * (d * (float)((low4 | high2 << 4) - 32));
        }
    }
}

void es_floats_q6_k(float *values, const uint8_t *src, int32_t n_blocks) {
    for (int32_t n = 0; n < n_blocks; n++, values += 256, src += 210) {
        const float d = es_half_to_float(es_load_u16(src + 208));
        const int8_t *scales = (const int8_t *)src + 192;
        for (int i = 0; i < 256; i++) {
            const int h = i / 128, j = i % 128 / 32, l = i % 32;
            const int low = src[64 * h + 32 * (j % 2) + l] >> 4 * (j / 2) & 15;
            const int high = src[128 + 32 * h + l] >> 2 * j & 3;
            values[i] = (float)((low | high << 4) - 32) * (d * (float)scales[i / 16]);
        }
    }
}
