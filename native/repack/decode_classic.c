/* Types of 32 columns per block: value = d * code + m, nothing rounded. */
#include "repack.h"

#include <string.h>

void es_affine_q8_0(int8_t *codes, uint16_t *d, uint16_t *m, const uint8_t *src, int32_t n_blocks) {
    (void)m;
    for (int32_t b = 0; b < n_blocks; b++, codes += 32, src += 34) {
        d[b] = es_load_u16(src);
        memcpy(codes, src + 2, 32);
    }
}

/* Column i in the low nibble of byte i, column i + 16 in the high one. */
static inline void nibbles(int8_t *codes, const uint8_t *src, int zero) {
    for (int i = 0; i < 16; i++) {
        codes[i] = (int8_t)((src[i] & 15) - zero);
        codes[16 + i] = (int8_t)((src[i] >> 4) - zero);
    }
}

/* The same with bit i of `high` as bit 4 of column i. */
static inline void nibbles5(int8_t *codes, const uint8_t *src, const uint8_t *high, int zero) {
    nibbles(codes, src, 0);
    for (int i = 0; i < 32; i++) {
        codes[i] = (int8_t)((codes[i] | (high[i / 8] >> i % 8 & 1) << 4) - zero);
    }
}

void es_affine_q4_0(int8_t *codes, uint16_t *d, uint16_t *m, const uint8_t *src, int32_t n_blocks) {
    (void)m;
    for (int32_t b = 0; b < n_blocks; b++, codes += 32, src += 18) {
        d[b] = es_load_u16(src);
        nibbles(codes, src + 2, 8);
    }
}

void es_affine_q4_1(int8_t *codes, uint16_t *d, uint16_t *m, const uint8_t *src, int32_t n_blocks) {
    for (int32_t b = 0; b < n_blocks; b++, codes += 32, src += 20) {
        d[b] = es_load_u16(src);
        m[b] = es_load_u16(src + 2);
        nibbles(codes, src + 4, 0);
    }
}

void es_affine_q5_0(int8_t *codes, uint16_t *d, uint16_t *m, const uint8_t *src, int32_t n_blocks) {
    (void)m;
    for (int32_t b = 0; b < n_blocks; b++, codes += 32, src += 22) {
        d[b] = es_load_u16(src);
        nibbles5(codes, src + 6, src + 2, 16);
    }
}

void es_affine_q5_1(int8_t *codes, uint16_t *d, uint16_t *m, const uint8_t *src, int32_t n_blocks) {
    for (int32_t b = 0; b < n_blocks; b++, codes += 32, src += 24) {
        d[b] = es_load_u16(src);
        m[b] = es_load_u16(src + 2);
        nibbles5(codes, src + 8, src + 4, 0);
    }
}
