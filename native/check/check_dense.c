/* Dense dot products: block formats and float formats. */
#include "check/check_support.h"
#include "kernels.h"

#include <math.h>
#include <string.h>

enum { MAX_TILES = 5, MAX_TOKENS = 17, MAX_K = 1000, MAX_BLOCKS = 34 };
enum { UNIFORM, EXTREME, ZERO, WILD, N_PATTERNS };

static const int32_t TOKENS[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 17};
static const int32_t COLUMNS[] = {1, 2, 3, 4, 5, 31, 32, 33, 64, 95, 160, 768, 1000};
#define LENGTH(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* One case's memory: everything ends at a guard page. */
typedef struct bench {
    check_buffer w, y, expected, q, d, sum, xsum, x;
    uint64_t random;
    check_count *count;
} bench;

static int block_bytes(int format) {
    static const int bytes[] = {[ES_FORMAT_Q8] = 272,
                                [ES_FORMAT_Q4] = 144,
                                [ES_FORMAT_Q8M] = 288,
                                [ES_FORMAT_Q4M] = 160,
                                [ES_FORMAT_Q6] = 208};
    return bytes[format];
}

static uint16_t scale_bits(uint64_t *random, int pattern) {
    static const uint16_t edges[] = {0x7bff, 0xfbff, 0x0001, 0x8001,
                                     0x03ff, 0x0400, 0x0000, 0x8000};
    if (pattern == ZERO) {
        return 0;
    }
    if (pattern == WILD) {
        const uint16_t any = (uint16_t)check_random(random);
        return (any & 0x7c00) == 0x7c00 ? edges[any & 7] : any; /* finite */
    }
    return (uint16_t)(0x2000 + (check_random(random) & 0x83ff)); /* about 0.01, either sign */
}

static void fill_blocks(uint8_t *w, size_t n_blocks, int format, int pattern, uint64_t *random) {
    const int n_scales = format == ES_FORMAT_Q8M || format == ES_FORMAT_Q4M ? 16 : 8;
    const uint8_t extremes[] = {0x00, 0x7f, 0x80, 0xff, 0x0f, 0xf0};
    for (size_t b = 0; b < n_blocks; b++, w += block_bytes(format)) {
        const uint8_t extreme = extremes[check_random(random) % LENGTH(extremes)];
        for (int i = 0; i < n_scales; i++) {
            const uint16_t bits = scale_bits(random, pattern);
            memcpy(w + 2 * i, &bits, sizeof bits);
        }
        for (int i = 2 * n_scales; i < block_bytes(format); i++) {
            w[i] = pattern == EXTREME ? extreme : (uint8_t)check_random(random);
        }
    }
}

/* Activations of n_tokens rows of k columns, zero beyond. */
static es_q16 fill_q16(bench *m, int32_t n_tokens, int32_t k, size_t stride, int pattern) {
    const size_t n_blocks = (size_t)n_tokens * stride;
    int16_t *q = check_tail(&m->q, n_blocks * 64);
    float *d = check_tail(&m->d, n_blocks * 4), *xsum = check_tail(&m->xsum, n_blocks * 4);
    int32_t *sum = check_tail(&m->sum, n_blocks * 4);
    for (size_t b = 0; b < n_blocks; b++) {
        const int32_t left = k - 32 * (int32_t)(b % stride);
        const int16_t extreme = (int16_t)(check_random(&m->random) & 1 ? 32767 : -32767);
        sum[b] = 0;
        for (int32_t i = 0; i < 32; i++) {
            const int32_t any =
                pattern == EXTREME ? extreme : check_range(&m->random, -32767, 32767);
            q[b * 32 + (size_t)i] = (int16_t)(i >= left || pattern == ZERO ? 0 : any);
            sum[b] += q[b * 32 + (size_t)i];
        }
        d[b] = pattern == WILD
                   ? ldexpf(check_uniform(&m->random), check_range(&m->random, -130, 60))
                   : check_uniform(&m->random) * 1e-4f;
        xsum[b] = d[b] * (float)sum[b];
    }
    return (es_q16){.q = q, .d = d, .sum = sum, .xsum = xsum, .stride_blocks = stride};
}

/* The code of one weight, straight from the byte picture. */
static int code_at(const uint8_t *codes, int format, int row, int column) {
    if (format == ES_FORMAT_Q8 || format == ES_FORMAT_Q8M) {
        return (int8_t)codes[column / 2 * 16 + 2 * row + column % 2];
    }
    if (format == ES_FORMAT_Q6) {
        /* Word i of this row and parity; columns 24 on lie above the codes of the first 24. */
        int words[6];
        for (int i = 0; i < 6; i++) {
            const uint8_t *word = codes + 32 * i + 4 * row + 2 * (column % 2);
            words[i] = word[0] + 256 * word[1];
        }
        const int i = column / 2 % 6, last = (column - 24) / 2;
        if (column < 24) {
            return words[i] / (column < 12 ? 1 : 64) % 64 - 32;
        }
        const int upper = words[4 + last / 2] / (last % 2 ? 16384 : 4096) % 4;
        return words[last] / 4096 + 16 * upper - 32;
    }
    const int half = column % 16;
    const int byte = codes[half / 2 * 16 + 2 * row + half % 2];
    const int nibble = column < 16 ? byte & 15 : byte >> 4;
    return format == ES_FORMAT_Q4 ? nibble - 8 : nibble;
}

/* Whether y is the row's dot product, in double precision, within float rounding. */
static int block_truth(float y, const uint8_t *w, int format, int row, const es_q16 *x,
                       size_t token, int32_t n_blocks) {
    const int minimum = format == ES_FORMAT_Q8M || format == ES_FORMAT_Q4M;
    double total = 0, magnitude = 0;
    for (size_t b = 0; b < (size_t)n_blocks; b++, w += block_bytes(format)) {
        const size_t block = token * x->stride_blocks + b;
        uint16_t halfs[16];
        memcpy(halfs, w, minimum ? 32 : 16);
        double sum = 0, q_sum = 0;
        for (int c = 0; c < 32; c++) {
            const double q = x->q[block * 32 + (size_t)c];
            sum += q * code_at(w + (minimum ? 32 : 16), format, row, c);
            q_sum += q;
        }
        const double term = check_half(halfs[row]) * (double)x->d[block] * sum;
        const double offset =
            minimum ? check_half(halfs[8 + row]) * (double)x->d[block] * q_sum : 0;
        total += term + offset;
        magnitude += fabs(term) + fabs(offset);
    }
    /* A subnormal step loses up to 2^-150, times the largest sum of a block, 2^27. */
    return fabs((double)y - total) <= 1e-6 * (n_blocks + 2) * magnitude + n_blocks * 0x1p-122;
}

static es_block_dot *block_kernel(const es_kernels *table, int format) {
    return format == ES_FORMAT_Q8    ? table->q8_dot
           : format == ES_FORMAT_Q4  ? table->q4_dot
           : format == ES_FORMAT_Q6  ? table->q6_dot
           : format == ES_FORMAT_Q8M ? table->q8m_dot
                                     : table->q4m_dot;
}

static void block_case(bench *m, const es_kernels *table, const es_kernels *scalar, int truth,
                       int format, int32_t n_tiles, int32_t n_tokens, int32_t k, int pattern) {
    if (check_skips() || !check_wants((check_any_kernel *)block_kernel(table, format))) {
        return;
    }
    const int32_t n_blocks = (k + 31) / 32;
    const size_t stride = (size_t)n_blocks + check_random(&m->random) % 3;
    const size_t n_all = (size_t)n_tiles * (size_t)n_blocks;
    const size_t y_stride = (size_t)n_tiles * 8 + check_random(&m->random) % 20;
    const size_t y_bytes =
        ((size_t)(n_tokens - 1) * y_stride + (size_t)n_tiles * 8) * sizeof(float);
    uint8_t *w = check_tail(&m->w, n_all * (size_t)block_bytes(format));
    float *y = check_tail(&m->y, y_bytes), *expected = check_tail(&m->expected, y_bytes);
    fill_blocks(w, n_all, format, pattern, &m->random);
    const es_q16 x = fill_q16(m, n_tokens, k, stride, pattern);
    memset(y, 0x55, y_bytes);
    memset(expected, 0x55, y_bytes);
    block_kernel(table, format)(y, y_stride, w, n_tiles, &x, n_tokens, n_blocks);
    block_kernel(scalar, format)(expected, y_stride, w, n_tiles, &x, n_tokens, n_blocks);
    int passed = memcmp(y, expected, y_bytes) == 0;
    for (int32_t row = 0; truth && passed && row < 8 * n_tiles; row++) {
        const size_t tile = (size_t)(row / 8) * (size_t)n_blocks * (size_t)block_bytes(format);
        const size_t token =
            (size_t)row % (size_t)n_tokens; /* every token and row, not every pair */
        passed = block_truth(y[token * y_stride + (size_t)row], w + tile, format, row % 8, &x,
                             token, n_blocks);
    }
    check_case(m->count, passed, "format * 10 + pattern, tiles * 100 + tokens, k",
               format * 10 + pattern, n_tiles * 100 + n_tokens, k);
}

/* One stored element and its value. */
static double fill_element(uint8_t *w, int format, int pattern, uint64_t *random) {
    const uint32_t any = check_random(random);
    if (format == ES_FORMAT_F16) {
        const uint16_t bits = pattern == ZERO ? 0 : scale_bits(random, WILD);
        memcpy(w, &bits, sizeof bits);
        return check_half(bits);
    }
    float value = pattern == ZERO   ? 0.0f
                  : pattern == WILD ? ldexpf(check_uniform(random), (int)(any % 180) - 145)
                                    : check_uniform(random);
    if (format == ES_FORMAT_F32) {
        memcpy(w, &value, sizeof value);
        return (double)value;
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint16_t high = (uint16_t)(bits >> 16);
    memcpy(w, &high, sizeof high);
    bits &= 0xffff0000u;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

static es_float_dot *float_kernel(const es_kernels *table, int format) {
    return format == ES_FORMAT_F16    ? table->f16_dot
           : format == ES_FORMAT_BF16 ? table->bf16_dot
                                      : table->f32_dot;
}

static void float_case(bench *m, const es_kernels *table, const es_kernels *scalar, int truth,
                       int format, int32_t n_tiles, int32_t n_tokens, int32_t k, int pattern) {
    if (check_skips() || !check_wants((check_any_kernel *)float_kernel(table, format))) {
        return;
    }
    static double values[MAX_TILES * 8 * MAX_K];
    const size_t element = format == ES_FORMAT_F32 ? 4 : 2;
    const size_t columns = (size_t)k, n_all = (size_t)n_tiles * 8 * columns;
    const size_t x_stride = (columns + 15) / 16 * 16;
    const size_t y_stride = (size_t)n_tiles * 8 + check_random(&m->random) % 20;
    const size_t y_bytes =
        ((size_t)(n_tokens - 1) * y_stride + (size_t)n_tiles * 8) * sizeof(float);
    uint8_t *w = check_tail(&m->w, n_all * element);
    float *y = check_tail(&m->y, y_bytes), *expected = check_tail(&m->expected, y_bytes);
    float *x = check_tail(&m->x, (size_t)n_tokens * x_stride * sizeof(float));
    for (size_t i = 0; i < n_all; i++) {
        values[i] = fill_element(w + i * element, format, pattern, &m->random);
    }
    for (size_t i = 0; i < (size_t)n_tokens * x_stride; i++) {
        const int exponent = pattern == WILD ? check_range(&m->random, -120, 40) : 0;
        x[i] = ldexpf(check_uniform(&m->random), exponent);
    }
    memset(y, 0x55, y_bytes);
    memset(expected, 0x55, y_bytes);
    float_kernel(table, format)(y, y_stride, w, n_tiles, x, x_stride, n_tokens, k);
    float_kernel(scalar, format)(expected, y_stride, w, n_tiles, x, x_stride, n_tokens, k);
    int passed = memcmp(y, expected, y_bytes) == 0;
    for (size_t row = 0; truth && passed && row < (size_t)n_tiles * 8; row++) {
        const size_t token = row % (size_t)n_tokens;
        double total = 0, magnitude = 0;
        for (size_t i = 0; i < columns; i++) {
            const double term =
                values[(row / 8 * columns + i) * 8 + row % 8] * (double)x[token * x_stride + i];
            total += term;
            magnitude += fabs(term);
        }
        const double error = fabs((double)y[token * y_stride + row] - total);
        passed = error <= 1e-7 * (k + 8) * magnitude + k * 0x1p-149;
    }
    check_case(m->count, passed, "format * 10 + pattern, tiles * 100 + tokens, k",
               format * 10 + pattern, n_tiles * 100 + n_tokens, k);
}

/* A level that silently kept the scalar pointers would pass every comparison. */
static void override_case(bench *m, const es_kernels *table, const es_kernels *scalar,
                          int32_t isa) {
    const int kept = table->q8_dot == scalar->q8_dot || table->q4_dot == scalar->q4_dot ||
                     table->q8m_dot == scalar->q8m_dot || table->q4m_dot == scalar->q4m_dot ||
                     table->q6_dot == scalar->q6_dot || table->f16_dot == scalar->f16_dot ||
                     table->bf16_dot == scalar->bf16_dot || table->f32_dot == scalar->f32_dot;
    check_case(m->count, isa == ES_ISA_SCALAR || !kept, "level has kernels of its own", isa, 0, 0);
}

static void all_cases(bench *m, const es_kernels *table, const es_kernels *scalar, int truth,
                      int pattern) {
    for (int c = 0; c < LENGTH(COLUMNS); c++) {
        for (int t = 0; t < LENGTH(TOKENS); t++) {
            /* Long rows add no new path: a few shapes of them do. */
            const int32_t step = COLUMNS[c] > 200 ? (TOKENS[t] % 4 == 1 ? 2 : MAX_TILES) : 1;
            for (int32_t n_tiles = 0; n_tiles <= MAX_TILES; n_tiles += step) {
                for (int f = ES_FORMAT_Q8; f <= ES_FORMAT_Q6; f++) {
                    block_case(m, table, scalar, truth, f, n_tiles, TOKENS[t], COLUMNS[c], pattern);
                }
                for (int f = ES_FORMAT_F16; f <= ES_FORMAT_F32; f++) {
                    float_case(m, table, scalar, truth, f, n_tiles, TOKENS[t], COLUMNS[c], pattern);
                }
            }
        }
    }
}

static void dense_cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                        int32_t isa) {
    const size_t rows = 8 * MAX_TILES, blocks = MAX_TOKENS * MAX_BLOCKS;
    bench m = {.random = 20240229, .count = count};
    m.w = check_buffer_new(rows * (MAX_K + 32) * 4);
    m.y = check_buffer_new(MAX_TOKENS * (rows + 20) * 4);
    m.expected = check_buffer_new(MAX_TOKENS * (rows + 20) * 4);
    m.q = check_buffer_new(blocks * 64);
    m.d = check_buffer_new(blocks * 4);
    m.sum = check_buffer_new(blocks * 4);
    m.xsum = check_buffer_new(blocks * 4);
    m.x = check_buffer_new(MAX_TOKENS * (MAX_K + 16) * 4);
    override_case(&m, table, scalar, isa);
    for (int pattern = 0; pattern < N_PATTERNS; pattern++) {
        all_cases(&m, table, scalar, isa == ES_ISA_SCALAR, pattern);
    }
    check_buffer *all[] = {&m.w, &m.y, &m.expected, &m.q, &m.d, &m.sum, &m.xsum, &m.x};
    for (int i = 0; i < LENGTH(all); i++) {
        check_buffer_free(all[i]);
    }
}

int check_dense(void) {
    return check_each_isa("dense", dense_cases);
}
