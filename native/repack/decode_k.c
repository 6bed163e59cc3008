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

/* Low bits of 32 columns side by side: bits `shift` and up of each byte. */
static inline void take_bits(uint8_t codes[32], const uint8_t *src, int shift, int mask) {
    for (int l = 0; l < 32; l++) {
        codes[l] = (uint8_t)(src[l] >> shift & mask);
    }
}

/* Of 32 columns, the bit that is `bit` in src, as `value`. */
static inline void add_bit(uint8_t codes[32], const uint8_t *src, int bit, int value) {
    for (int l = 0; l < 32; l++) {
        codes[l] = (uint8_t)(codes[l] | (src[l] >> bit & 1) * value);
    }
}

/* (code - zero) * step for 16 columns. */
static inline void scale_run(float *values, const uint8_t *codes, int zero, float step) {
    for (int l = 0; l < 16; l++) {
        values[l] = (float)(codes[l] - zero) * step;
    }
}

void es_floats_q2_k(float *values, const uint8_t *src, int32_t n_blocks) {
    for (int32_t n = 0; n < n_blocks; n++, values += 256, src += 84) {
        const float d = es_half_to_float(es_load_u16(src + 80));
        const float dmin = es_half_to_float(es_load_u16(src + 82));
        for (int b = 0; b < 8; b++) {
            uint8_t codes[32];
            take_bits(codes, src + 16 + 32 * (b / 4), 2 * (b % 4), 3);
            for (int half = 0; half < 2; half++) {
                const uint8_t pair = src[2 * b + half];
                const float step = d * (float)(pair & 15), m = -(dmin * (float)(pair >> 4));
                float *run = values + 32 * b + 16 * half;
                scale_run(run, codes + 16 * half, 0, step);
                for (int l = 0; l < 16; l++) {
                    run[l] = run[l] + m;
                }
            }
        }
    }
}

void es_floats_q3_k(float *values, const uint8_t *src, int32_t n_blocks) {
    for (int32_t n = 0; n < n_blocks; n++, values += 256, src += 110) {
        const float d = es_half_to_float(es_load_u16(src + 108));
        const uint8_t *packed = src + 96;
        for (int b = 0; b < 8; b++) {
            uint8_t codes[32];
            take_bits(codes, src + 32 + 32 * (b / 4), 2 * (b % 4), 3);
            add_bit(codes, src, b, 4);
            for (int half = 0; half < 2; half++) {
                const int s = 2 * b + half;
                const int low = s < 8 ? packed[s] & 15 : packed[s - 8] >> 4;
                const int high = packed[8 + s % 4] >> 2 * (s / 4) & 3;
                const float step = d * (float)((low | high << 4) - 32);
                scale_run(values + 32 * b + 16 * half, codes + 16 * half, 4, step);
            }
        }
    }
}

void es_floats_q6_k(float *values, const uint8_t *src, int32_t n_blocks) {
    for (int32_t n = 0; n < n_blocks; n++, values += 256, src += 210) {
        const float d = es_half_to_float(es_load_u16(src + 208));
        const int8_t *scales = (const int8_t *)src + 192;
        for (int b = 0; b < 8; b++) {
            const int h = b / 4, j = b % 4;
            uint8_t codes[32], high[32];
            take_bits(codes, src + 64 * h + 32 * (j % 2), 4 * (j / 2), 15);
            take_bits(high, src + 128 + 32 * h, 2 * j, 3);
            for (int l = 0; l < 32; l++) {
                codes[l] = (uint8_t)(codes[l] | high[l] << 4);
            }
            for (int half = 0; half < 2; half++) {
                const float step = d * (float)scales[2 * b + half];
                scale_run(values + 32 * b + 16 * half, codes + 16 * half, 32, step);
            }
        }
    }
}
