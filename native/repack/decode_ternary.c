/* Ternary and low-bit types: bytes to codes 0, 1, 2 (and 3 where a type can hold it). */
#include "repack.h"

/* Digit of a fixed-point trit whose digit was moved to the front: how many thirds it passed. */
static inline uint8_t front_digit(unsigned moved) {
    return (uint8_t)((moved & 0xff) * 3 >> 8);
}

/* n bytes of `digits` trits each; digit d of byte i is column d * n + i. */
static inline void trit_run(uint8_t *codes, const uint8_t *src, int n, int digits) {
    unsigned power = 1;
    for (int digit = 0; digit < digits; digit++, power *= 3) {
        for (int i = 0; i < n; i++) {
            codes[digit * n + i] = front_digit(src[i] * power);
        }
    }
}

void es_codes_tq1_0(uint8_t *codes, const uint8_t *src, int32_t n_blocks) {
    for (int32_t b = 0; b < n_blocks; b++, codes += 256, src += 54) {
        trit_run(codes, src, 32, 5);
        trit_run(codes + 160, src + 32, 16, 5);
        trit_run(codes + 240, src + 48, 4, 4);
    }
}

void es_codes_ptq1_0(uint8_t *codes, const uint8_t *src, int32_t n_blocks) {
    for (int32_t b = 0; b < n_blocks; b++, codes += 128, src += 28) {
        trit_run(codes, src, 16, 5);
        trit_run(codes + 80, src + 16, 8, 5);
        trit_run(codes + 120, src + 24, 2, 4);
    }
}

/* n bytes of four codes; code c of byte i is column c * n + i, at bits first + step * c. */
static inline void pair_run(uint8_t *codes, const uint8_t *src, int n, int first, int step) {
    for (int c = 0; c < 4; c++) {
        const int shift = first + step * c;
        for (int i = 0; i < n; i++) {
            codes[c * n + i] = (uint8_t)(src[i] >> shift & 3);
        }
    }
}

void es_codes_tq2_0(uint8_t *codes, const uint8_t *src, int32_t n_blocks) {
    for (int32_t b = 0; b < n_blocks; b++, codes += 256, src += 66) {
        pair_run(codes, src, 32, 0, 2);
        pair_run(codes + 128, src + 32, 32, 0, 2);
    }
}

void es_codes_i2s_128x32(uint8_t *codes, const uint8_t *src, int32_t n_blocks) {
    for (int32_t b = 0; b < n_blocks; b++, codes += 128, src += 32) {
        pair_run(codes, src, 32, 6, -2);
    }
}

void es_codes_i2s_64x16(uint8_t *codes, const uint8_t *src, int32_t n_blocks) {
    for (int32_t b = 0; b < n_blocks; b++, codes += 64, src += 16) {
        pair_run(codes, src, 16, 6, -2);
    }
}

void es_codes_iq2_bn(uint8_t *codes, const uint8_t *src, int32_t n_blocks) {
    for (int32_t b = 0; b < n_blocks; b++, codes += 64, src += 16) {
        pair_run(codes, src, 16, 0, 2);
    }
}

/* Digit 0 is the least significant here: digit n needs the factor 3^(4 - n). */
void es_codes_iq1_bn(uint8_t *codes, const uint8_t *src, int32_t n_blocks) {
    static const uint8_t powers[5] = {81, 27, 9, 3, 1};
    for (int32_t b = 0; b < n_blocks; b++, codes += 64, src += 13) {
        for (int group = 0; group < 4; group++) {
            for (int p = 0; p < 15; p++) {
                const unsigned byte = src[3 * group + p / 5];
                codes[16 * group + p] = front_digit(byte * powers[p % 5]);
            }
            codes[16 * group + 15] = front_digit((unsigned)src[12] * powers[group]);
        }
    }
}

/* Four neighbours per byte behind an f16 scale. */
static inline void neighbours(uint8_t *codes, const uint8_t *src, int n) {
    for (int i = 0; i < n; i++) {
        for (int c = 0; c < 4; c++) {
            codes[4 * i + c] = (uint8_t)(src[i] >> 2 * c & 3);
        }
    }
}

void es_codes_q2_0(uint8_t *codes, const uint8_t *src, int32_t n_blocks) {
    for (int32_t b = 0; b < n_blocks; b++, codes += 64, src += 18) {
        neighbours(codes, src + 2, 16);
    }
}

void es_codes_pq2_0(uint8_t *codes, const uint8_t *src, int32_t n_blocks) {
    for (int32_t b = 0; b < n_blocks; b++, codes += 128, src += 34) {
        neighbours(codes, src + 2, 32);
    }
}

void es_codes_q1_0(uint8_t *codes, const uint8_t *src, int32_t n_blocks) {
    for (int32_t b = 0; b < n_blocks; b++, codes += 128, src += 18) {
        for (int i = 0; i < 128; i++) {
            codes[i] = (uint8_t)(2 * (src[2 + i / 8] >> i % 8 & 1));
        }
    }
}
