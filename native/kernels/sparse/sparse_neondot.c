/* Neuron-major products with sdot.
 *
 * Four inputs' packed rows are interleaved byte by byte, so that a 32-bit lane holds one packed byte of
 * each and belongs to one output per field. Three fields stay where they are in the byte: their sums
 * come out 16, 4 and 1 times as large, exact in int32. The uppermost would be a negative int8. */
#include "chunk.h"

#include <arm_neon.h>
#include <string.h>

ES_INLINE void add4(int32_t *sums, int32x4_t v) {
    vst1q_s32(sums, vaddq_s32(vld1q_s32(sums), v));
}

ES_INLINE uint16x8_t pairs(uint8x16_t v) {
    return vreinterpretq_u16_u8(v);
}

ES_INLINE int8x16_t signed_codes(uint8x16_t v) {
    return vreinterpretq_s8_u8(v);
}

/* 64 outputs, whose packed bytes begin at offset b of every row. A line is four steps of b: each asks
 * for that of one of four rows. */
ES_INLINE void t2n_half(int32_t *sums, size_t b, const es_chunk *now, const es_chunk *next) {
    const uint8x16_t three = vdupq_n_u8(3), twelve = vdupq_n_u8(12), high = vdupq_n_u8(48);
    const size_t line = b & ~(size_t)(ES_CACHE_LINE - 1), turn = b / 16 & 3;
    int32x4_t acc[4][4]; /* of a field, of four outputs */
    for (int i = 0; i < 16; i++) {
        acc[i / 4][i % 4] = vdupq_n_s32(0);
    }
    for (int32_t i = 0; i < now->n; i += 4) {
        int32_t quad;
        memcpy(&quad, now->q + i, sizeof quad);
        const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(quad));
        uint8x16_t row[4];
        for (int r = 0; r < 4; r++) {
            row[r] = vld1q_u8(now->rows[i + r] + b);
        }
        __builtin_prefetch(next->rows[(size_t)i + turn] + line, 0, 3);
        const uint16x8_t lo01 = pairs(vzip1q_u8(row[0], row[1]));
        const uint16x8_t hi01 = pairs(vzip2q_u8(row[0], row[1]));
        const uint16x8_t lo23 = pairs(vzip1q_u8(row[2], row[3]));
        const uint16x8_t hi23 = pairs(vzip2q_u8(row[2], row[3]));
        const uint16x8_t out[4] = {vzip1q_u16(lo01, lo23), vzip2q_u16(lo01, lo23),
                                   vzip1q_u16(hi01, hi23), vzip2q_u16(hi01, hi23)};
        for (int m = 0; m < 4; m++) {
            const uint8x16_t v = vreinterpretq_u8_u16(out[m]);
            acc[0][m] = vdotq_s32(acc[0][m], signed_codes(vshrq_n_u8(v, 6)), x);
            acc[1][m] = vdotq_s32(acc[1][m], signed_codes(vandq_u8(v, high)), x);
            acc[2][m] = vdotq_s32(acc[2][m], signed_codes(vandq_u8(v, twelve)), x);
            acc[3][m] = vdotq_s32(acc[3][m], signed_codes(vandq_u8(v, three)), x);
        }
    }
    for (int m = 0; m < 4; m++, sums += 4) {
        add4(sums, acc[0][m]);
        add4(sums + 32, vshrq_n_s32(acc[1][m], 4));
        add4(sums + 64, vshrq_n_s32(acc[2][m], 2));
        add4(sums + 96, acc[3][m]);
    }
}

static void t2n_pass(int32_t *sums, size_t row_bytes, const es_chunk *now, const es_chunk *next) {
    for (size_t b = 0; b < row_bytes; b += 32, sums += 128) {
        t2n_half(sums, b, now, next);
        t2n_half(sums + 16, b + 16, now, next);
    }
}

static void t2n_sums(int32_t *sums, const uint8_t *w, size_t row_bytes, const int32_t *inputs,
                     int32_t n_inputs, const int8_t *q) {
    es_chunks(sums, w, row_bytes, inputs, n_inputs, q, 4, t2n_pass);
}

void es_sparse_neondot(es_kernels *table) {
    table->t2n_sums = t2n_sums;
    table->t2n_variant = "neondot";
}
