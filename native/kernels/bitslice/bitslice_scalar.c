/* Bit slices in plain C: tables of int16 sums, codes put together bit by bit. */
#include "kernels/half.h"
#include "kernels/vector/vector.h"

#include "kernels/bitslice/slice_line.h"

#include <stdlib.h>

typedef float es_vf;
enum { ES_VF = 1, ES_MAD_TOKENS = 1, ES_COLUMNS_AT_ONCE = 2 };

ES_INLINE es_vf vf_load(const float *p) {
    return *p;
}
ES_INLINE void vf_store(float *p, es_vf v) {
    *p = v;
}
ES_INLINE es_vf vf_set1(float v) {
    return v;
}
ES_INLINE es_vf vf_add(es_vf a, es_vf b) {
    return a + b;
}
ES_INLINE es_vf vf_sub(es_vf a, es_vf b) {
    return a - b;
}
ES_INLINE es_vf vf_mul(es_vf a, es_vf b) {
    return a * b;
}
ES_INLINE es_vf vf_halfs(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return es_half_to_float(h);
}
ES_INLINE es_vf vf_bytes(const uint8_t *p) {
    return (float)(int8_t)*p;
}

#include "kernels/bitslice/slice_finish.h"

/* The byte of a row among those of its tile. */
ES_INLINE size_t byte_of_row(size_t row) {
    return row / 4 % 4 * 16 + row / 16 * 4 + row % 4;
}

/* Per quad 16 sums as int16. */
static void slice_tables(uint8_t *table, const int8_t *q, int32_t n_blocks) {
    for (int32_t quad = 0; quad < 8 * n_blocks; quad++, q += 4, table += 32) {
        int16_t sums[16];
        for (int i = 0; i < 16; i++) {
            sums[i] = (int16_t)((i & 1) * q[0] + (i >> 1 & 1) * q[1] + (i >> 2 & 1) * q[2] +
                                (i >> 3) * q[3]);
        }
        memcpy(table, sums, sizeof sums);
    }
}

/* Sum of stored codes times q over one block of one row. */
ES_INLINE int32_t look_up(const uint8_t *w, const uint8_t *table, size_t row, const int planes) {
    const uint8_t *byte = w + byte_of_row(row);
    int32_t total = 0;
    for (int pair = 0; pair < ES_SLICE_PAIRS; pair++, table += 64) {
        for (int plane = 0; plane < planes; plane++, byte += ES_SLICE_PLANE_BYTES) {
            int16_t low, high;
            memcpy(&low, table + 2 * (*byte & 15), sizeof low);
            memcpy(&high, table + 32 + 2 * (*byte >> 4), sizeof high);
            total += (low + high) * (1 << plane);
        }
    }
    return total;
}

ES_INLINE void lut_block(float *f, const uint8_t *w, const uint8_t *table, float d, int32_t qsum,
                         const int is_first, const int planes) {
    for (size_t row = 0; row < ES_SLICE_ROWS; row++) {
        const int32_t isum = es_slice_factor(planes) * look_up(w, table, row, planes) -
                             es_slice_middle(planes) * qsum;
        es_slice_collect(f, row, (float)isum, d, is_first);
    }
}

static void rounded_tables(uint8_t *table, float *d, const int8_t *q, const float *d_q,
                           int32_t n_blocks) {
    for (int32_t b = 0; b < n_blocks; b++, q += ES_SLICE_BLOCK) {
        int32_t largest = 0;
        for (int quad = 0; quad < 8; quad++) {
            const int8_t *x = q + 4 * quad;
            const int32_t all = abs(x[0]) + abs(x[1]) + abs(x[2]) + abs(x[3]);
            largest = all > largest ? all : largest;
        }
        const float factor = largest > 0 ? 127.0f / (float)largest : 0.0f;
        d[b] = d_q[b] * ((float)largest / 127.0f);
        for (int quad = 0; quad < 8; quad++) {
            for (int i = 0; i < 16; i++) {
                int32_t sum = 0;
                for (int n = 0; n < 4; n++) {
                    sum += (i >> n & 1) ? q[4 * quad + n] : -q[4 * quad + n];
                }
                *table++ = (uint8_t)(128 + (int32_t)es_round((float)sum * factor));
            }
        }
    }
}

ES_INLINE int32_t mean_up(int32_t a, int32_t b) {
    return (a + b + 1) / 2;
}

ES_INLINE void rounded_block(float *f, const uint8_t *w, const uint8_t *table, float d, float xsum,
                             const int is_first, const int planes) {
    const float step = d * es_rounded_factor(planes), half = planes == 1 ? 0.0f : 0.5f * xsum;
    for (size_t row = 0; row < ES_SLICE_ROWS; row++) {
        int32_t sum = 0;
        for (int plane = 0; plane < planes; plane++) {
            const uint8_t *byte = w + byte_of_row(row) + plane * ES_SLICE_PLANE_BYTES;
            int32_t a[ES_SLICE_PAIRS];
            for (int pair = 0; pair < ES_SLICE_PAIRS; pair++) {
                const uint8_t bits = byte[pair * planes * ES_SLICE_PLANE_BYTES];
                a[pair] =
                    mean_up(table[32 * pair + (bits & 15)], table[32 * pair + 16 + (bits >> 4)]);
            }
            sum += mean_up(mean_up(a[0], a[1]), mean_up(a[2], a[3])) << plane;
        }
        es_rounded_collect(f, row, (float)sum, step, half, is_first, planes);
    }
}

ES_INLINE void lut_sums(int32_t *sums, const uint8_t *w, const uint8_t *table, size_t n_blocks) {
    memset(sums, 0, ES_SLICE_ROWS * sizeof *sums);
    for (size_t b = 0; b < n_blocks; b++) {
        for (size_t row = 0; row < ES_SLICE_ROWS; row++) {
            sums[row] += look_up(w, table, row, 2);
        }
        w += es_slice_block_bytes(2);
        table += ES_TABLE_BYTES;
    }
}

/* panel[row][column] */
ES_INLINE void unpack_block(uint8_t *panel, const uint8_t *w, const int planes) {
    for (size_t row = 0; row < ES_SLICE_ROWS; row++) {
        for (size_t column = 0; column < ES_SLICE_BLOCK; column++) {
            const uint8_t *byte = w + column / 8 * (size_t)planes * 64 + byte_of_row(row);
            int code = 0;
            for (int plane = 0; plane < planes; plane++) {
                code |= (byte[plane * ES_SLICE_PLANE_BYTES] >> column % 8 & 1) << plane;
            }
            *panel++ = (uint8_t)code;
        }
    }
}

ES_INLINE int32_t multiply(const uint8_t *codes, const int8_t *q) {
    int32_t sum = 0;
    for (size_t i = 0; i < ES_SLICE_BLOCK; i++) {
        sum += codes[i] * q[i];
    }
    return sum;
}

ES_INLINE void mad_block(float *f, const uint8_t *panel, const es_q8 *x, size_t token,
                         size_t n_tokens, size_t b, const int is_first, const int planes) {
    (void)n_tokens;
    const size_t at = token * x->stride_blocks + b;
    const int8_t *q = x->q + token * x->q_stride + b * ES_SLICE_BLOCK;
    for (size_t row = 0; row < ES_SLICE_ROWS; row++) {
        const int32_t isum = es_slice_factor(planes) * multiply(panel + row * ES_SLICE_BLOCK, q) -
                             es_slice_middle(planes) * x->sum[at];
        es_slice_collect(f, row, (float)isum, x->d[at], is_first);
    }
}

ES_INLINE void mad_sums(int32_t *sums, size_t sums_stride, const uint8_t *panel, const int8_t *q,
                        size_t q_stride, size_t n_tokens) {
    (void)sums_stride;
    (void)q_stride;
    (void)n_tokens;
    for (size_t row = 0; row < ES_SLICE_ROWS; row++) {
        sums[row] += multiply(panel + row * ES_SLICE_BLOCK, q);
    }
}

/* The code of row `row` of a line in one of its columns. */
ES_INLINE int32_t code_in_line(const uint8_t *column, size_t row, const int planes) {
    const size_t share = es_line_share(planes), runs = 8 / share, part = 128 / share;
    const size_t r = row % part, byte = r / 4 % runs * 16 + r / (4 * runs) * 4 + r % 4;
    return column[byte] >> row / part * (8 / share) & ((1 << 8 / share) - 1);
}

ES_INLINE size_t list_line(float *f, const es_line_columns *l, size_t n_lines, float d,
                           int32_t zero, const int is_first, const int planes) {
    (void)n_lines;
    for (size_t row = 0; row < ES_SLICE_LINE_ROWS; row++) {
        int32_t sum = 0;
        for (int32_t p = 0; p < l->n; p++) {
            const es_live_pair *pair = &l->pairs[p];
            sum += code_in_line(l->codes + pair->a * l->column, row, planes) * (int8_t)pair->q;
            sum += code_in_line(l->codes + pair->b * l->column, row, planes) *
                   (int8_t)(pair->q >> 8 & 0xff);
        }
        es_slice_collect(f, row, (float)(sum - zero), d, is_first);
    }
    return 1;
}

/* panel[row][column] */
ES_INLINE void unpack_columns(uint8_t *panel, const uint8_t *codes, size_t column, size_t half,
                              const int planes) {
    for (size_t row = 0; row < ES_SLICE_ROWS; row++) {
        for (size_t i = 0; i < ES_SLICE_BLOCK; i++) {
            const int32_t code =
                code_in_line(codes + i * column, half * ES_SLICE_ROWS + row, planes);
            *panel++ = (uint8_t)code;
        }
    }
}

/* Bit i of the result: q[i] != 0, for 32 inputs. */
ES_INLINE uint32_t live_bytes(const int8_t *q) {
    uint32_t live = 0;
    for (size_t i = 0; i < ES_SLICE_BLOCK; i++) {
        live |= (uint32_t)(q[i] != 0) << i;
    }
    return live;
}

#include "kernels/bitslice/slice_driver.h"

void es_bitslice_scalar(es_kernels *table) {
    ES_SLICE_SET(table, "scalar");
}
