/* Ternary products in plain C: the truth that every other variant is checked against. */
#include "ternary.h"

/* Field f of byte j of a t2 block. */
static inline int32_t t2_code(uint8_t byte, int32_t field) {
    return byte >> (6 - 2 * field) & 3;
}

static void t2_dot(int32_t *sums, size_t sums_stride, const uint8_t *w, size_t row_bytes,
                   int32_t n_rows, const int8_t *q, size_t q_stride, int32_t n_tokens, int32_t k) {
    for (int32_t t = 0; t < n_tokens; t++) {
        const int8_t *x = q + (size_t)t * q_stride;
        for (int32_t r = 0; r < n_rows; r++) {
            const uint8_t *block = w + (size_t)r * row_bytes;
            int32_t sum = 0;
            for (int32_t i = 0; i < k; i += ES_T2_BLOCK, block += ES_TERNARY_BLOCK_BYTES) {
                for (int32_t j = 0; j < ES_TERNARY_BLOCK_BYTES; j++) {
                    for (int32_t f = 0; f < ES_T2_FIELDS; f++) {
                        sum += t2_code(block[j], f) * x[i + 32 * f + j];
                    }
                }
            }
            sums[(size_t)t * sums_stride + (size_t)r] = sum;
        }
    }
}

static void t5_dot(int32_t *sums, size_t sums_stride, const uint8_t *w, size_t row_bytes,
                   int32_t n_rows, const int8_t *q, size_t q_stride, int32_t n_tokens, int32_t k) {
    for (int32_t t = 0; t < n_tokens; t++) {
        const int8_t *x = q + (size_t)t * q_stride;
        for (int32_t r = 0; r < n_rows; r++) {
            const uint8_t *block = w + (size_t)r * row_bytes;
            int32_t sum = 0;
            for (int32_t i = 0; i < k; i += ES_T5_BLOCK, block += ES_TERNARY_BLOCK_BYTES) {
                for (int32_t j = 0; j < ES_TERNARY_BLOCK_BYTES; j++) {
                    /* A fraction in 1/256: its integer part times three is the next digit. */
                    int32_t fraction = block[j];
                    for (int32_t f = 0; f < ES_T5_FIELDS; f++) {
                        fraction *= 3;
                        sum += (fraction >> 8) * x[i + 32 * f + j];
                        fraction &= 255;
                    }
                }
            }
            sums[(size_t)t * sums_stride + (size_t)r] = sum;
        }
    }
}

static void t2_list(int32_t *sums, const uint8_t *w, size_t row_bytes, const int32_t *rows,
                    int32_t n_rows, const int8_t *q, int32_t k) {
    for (int32_t i = 0; i < n_rows; i++) {
        t2_dot(sums + i, 1, w + (size_t)rows[i] * row_bytes, row_bytes, 1, q, 0, 1, k);
    }
}

static void t5_list(int32_t *sums, const uint8_t *w, size_t row_bytes, const int32_t *rows,
                    int32_t n_rows, const int8_t *q, int32_t k) {
    for (int32_t i = 0; i < n_rows; i++) {
        t5_dot(sums + i, 1, w + (size_t)rows[i] * row_bytes, row_bytes, 1, q, 0, 1, k);
    }
}

static void t2n_dot(int32_t *sums, size_t sums_stride, const uint8_t *w, size_t row_bytes,
                    int32_t n_rows, const int8_t *q, size_t q_stride, int32_t n_tokens, int32_t k) {
    for (int32_t t = 0; t < n_tokens; t++) {
        const int8_t *x = q + (size_t)t * q_stride;
        for (int32_t r = 0; r < n_rows; r++) {
            const uint8_t *byte = w + r / ES_T2_BLOCK * ES_TERNARY_BLOCK_BYTES + r % 32;
            int32_t sum = 0;
            for (int32_t i = 0; i < k; i++) {
                sum += t2_code(byte[(size_t)i * row_bytes], r % ES_T2_BLOCK / 32) * x[i];
            }
            sums[(size_t)t * sums_stride + (size_t)r] = sum;
        }
    }
}

void es_ternary_scalar(es_kernels *table) {
    table->t2_dot = t2_dot;
    table->t5_dot = t5_dot;
    table->t2_list = t2_list;
    table->t5_list = t5_list;
    table->t2n_dot = t2n_dot;
    table->t2_variant = "scalar";
    table->t5_variant = "scalar";
}
