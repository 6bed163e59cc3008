/* Lists, and neuron-major products with smlal: one input's codes times its activation, added in int16.
 *
 * The fields at bits 3-2 stay where they are and come out 4 times as large; a chunk of 32 inputs is what
 * their int16 sums can hold: 32 * 4 * 2 * -128 = -32768. */
#include "list_neon.h"

_Static_assert(ES_CHUNK_INPUTS <= 32, "int16 sums of fields at bits 3-2");

ES_INLINE void multiply_add(int16x8_t acc[2], uint8x16_t codes, int8x16_t x) {
    const int8x16_t w = vreinterpretq_s8_u8(codes);
    acc[0] = vmlal_s8(acc[0], vget_low_s8(w), vget_low_s8(x));
    acc[1] = vmlal_high_s8(acc[1], w, x);
}

/* 16 outputs of one field. */
ES_INLINE void add16(int32_t *sums, const int16x8_t acc[2]) {
    for (int i = 0; i < 2; i++, sums += 8) {
        vst1q_s32(sums, vaddw_s16(vld1q_s32(sums), vget_low_s16(acc[i])));
        vst1q_s32(sums + 4, vaddw_high_s16(vld1q_s32(sums + 4), acc[i]));
    }
}

static void t2n_pass(int32_t *sums, size_t row_bytes, const es_chunk *now, const es_chunk *next) {
    const uint8x16_t three = vdupq_n_u8(3), twelve = vdupq_n_u8(12);
    for (size_t b = 0; b < row_bytes; b += 32, sums += 128) {
        /* A line is two steps of b: each asks for that of one of two rows. */
        const size_t line = b & ~(size_t)(ES_CACHE_LINE - 1), odd = b / 32 & 1;
        int16x8_t acc[2][4][2]; /* of 16 packed bytes, of a field */
        for (int i = 0; i < 16; i++) {
            acc[i / 8][i / 2 % 4][i % 2] = vdupq_n_s16(0);
        }
        for (int32_t i = 0; i < now->n; i += 2) {
            __builtin_prefetch(next->rows[(size_t)i + odd] + line, 0, 3);
            for (int32_t j = i; j < i + 2; j++) {
                const int8x16_t x = vld1q_dup_s8(now->q + j);
                for (int h = 0; h < 2; h++) {
                    const uint8x16_t v = vld1q_u8(now->rows[j] + b + 16 * h);
                    multiply_add(acc[h][0], vshrq_n_u8(v, 6), x);
                    multiply_add(acc[h][1], vandq_u8(vshrq_n_u8(v, 4), three), x);
                    multiply_add(acc[h][2], vandq_u8(v, twelve), x);
                    multiply_add(acc[h][3], vandq_u8(v, three), x);
                }
            }
        }
        for (int h = 0; h < 2; h++) {
            acc[h][2][0] = vshrq_n_s16(acc[h][2][0], 2);
            acc[h][2][1] = vshrq_n_s16(acc[h][2][1], 2);
            for (int f = 0; f < 4; f++) {
                add16(sums + 32 * f + 16 * h, acc[h][f]);
            }
        }
    }
}

static void t2n_sums(int32_t *sums, const uint8_t *w, size_t row_bytes, const int32_t *inputs,
                     int32_t n_inputs, const int8_t *q) {
    es_chunks(sums, w, row_bytes, inputs, n_inputs, q, 2, t2n_pass);
}

void es_sparse_neon(es_kernels *table) {
    table->list_positive = list_positive;
    table->list_nonzero = list_nonzero;
    table->t2n_sums = t2n_sums;
    table->t2n_variant = "neon";
}
