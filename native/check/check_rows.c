/* Row formats: scalar against the byte picture, every other instruction set against scalar, and tiles made
 * of rows against lists of them. */
#include "check/check_support.h"
#include "kernels.h"

#include <math.h>
#include <string.h>

enum { MAX_ROWS = 40, MAX_LISTED = 37, MAX_BLOCKS = 21, N_ROUNDS = 4 };
enum { UNIFORM, EXTREME, WILD, N_PATTERNS };

typedef struct bench {
    check_buffer w, y, expected, q, d, sum, xsum, tile, other, rows;
    uint64_t random;
    check_count *count;
    const es_kernels *table, *scalar;
    int truth; /* the table is scalar: hold it against the byte picture */
    int pattern;
} bench;

/* n_rows rows: any codes, finite halfs, any bytes behind them. */
static const uint8_t *fill_rows(bench *m, size_t n_rows, size_t n_blocks, int format) {
    const size_t row_bytes = es_row_bytes(format, n_blocks);
    const size_t codes = n_blocks * es_row_code_bytes(format);
    uint8_t *w = check_tail(&m->w, n_rows * row_bytes);
    for (size_t i = 0; i < n_rows * row_bytes; i++) {
        w[i] = (uint8_t)check_random(&m->random);
        if (i % row_bytes < codes) {
            w[i] = m->pattern == EXTREME ? (i & 1 ? 0xff : 0x80) : w[i];
        } else if (i & 1) { /* the upper byte of a half */
            w[i] = m->pattern != WILD      ? (uint8_t)(0x20 | (w[i] & 0x83))
                   : (w[i] & 0x7c) == 0x7c ? (uint8_t)(w[i] & 0xfb)
                                           : w[i];
        }
    }
    return w;
}

static es_q16 fill_q16(bench *m, size_t n_blocks) {
    int16_t *q = check_tail(&m->q, n_blocks * 64);
    float *d = check_tail(&m->d, n_blocks * 4), *xsum = check_tail(&m->xsum, n_blocks * 4);
    int32_t *sum = check_tail(&m->sum, n_blocks * 4);
    for (size_t b = 0; b < n_blocks; b++) {
        sum[b] = 0;
        for (size_t i = 0; i < 32; i++) {
            const int16_t any = (int16_t)check_range(&m->random, -32767, 32767);
            const int16_t end = (int16_t)(check_random(&m->random) & 1 ? 32767 : -32767);
            q[b * 32 + i] = m->pattern == EXTREME ? end : any;
            sum[b] += q[b * 32 + i];
        }
        const float near = check_uniform(&m->random) * 1e-4f;
        d[b] = m->pattern == WILD ? ldexpf(near, check_range(&m->random, -110, 60)) : near;
        xsum[b] = d[b] * (float)sum[b];
    }
    return (es_q16){.q = q, .d = d, .sum = sum, .xsum = xsum, .stride_blocks = n_blocks};
}

static double half_in(const uint8_t *p) {
    return check_half((uint16_t)(p[0] | p[1] << 8));
}

/* Whether y is the row's product, by the byte picture and in double precision. */
static int is_product(float y, const uint8_t *row, const es_q16 *x, size_t n_blocks, int format) {
    const int nibble = format == ES_FORMAT_Q4R || format == ES_FORMAT_Q4MR;
    const uint8_t *steps = row + n_blocks * (nibble ? 16 : 32);
    double total = 0, magnitude = 0;
    for (size_t b = 0; b < n_blocks; b++) {
        double sum = 0, q_sum = 0;
        for (size_t c = 0; c < 32; c++) {
            int code;
            if (nibble) {
                const int byte = row[16 * b + c % 16];
                code = (c < 16 ? byte % 16 : byte / 16) - (format == ES_FORMAT_Q4R ? 8 : 0);
            } else {
                code = (int8_t)row[32 * b + c];
            }
            sum += (double)code * x->q[32 * b + c];
            q_sum += x->q[32 * b + c];
        }
        const double term = half_in(steps + 2 * b) * (double)x->d[b] * sum;
        const double offset = es_row_has_minimum(format)
                                  ? half_in(steps + 2 * (n_blocks + b)) * (double)x->d[b] * q_sum
                                  : 0;
        total += term + offset;
        magnitude += fabs(term) + fabs(offset);
    }
    return fabs((double)y - total) <=
           1e-6 * ((double)n_blocks + 2) * magnitude + (double)n_blocks * 0x1p-122;
}

static void list_case(bench *m, size_t n_blocks, int32_t n_listed, int format) {
    es_row_list *list = m->table->row_list[format - ES_FORMAT_Q8R];
    if (check_skips() || !check_wants((check_any_kernel *)list)) {
        return;
    }
    const size_t row_bytes = es_row_bytes(format, n_blocks);
    const size_t bytes = (size_t)n_listed * sizeof(float);
    const uint8_t *w = fill_rows(m, MAX_ROWS, n_blocks, format);
    const es_q16 x = fill_q16(m, n_blocks);
    int32_t *rows = check_tail(&m->rows, (size_t)n_listed * sizeof *rows);
    int32_t row = MAX_ROWS - n_listed; /* ascending, up to the last row */
    for (int32_t i = n_listed; i-- > 0;) {
        rows[i] = row + i;
        row -= row > 0 && check_random(&m->random) % 3 == 0;
    }
    float *y = check_tail(&m->y, bytes), *expected = check_tail(&m->expected, bytes);
    memset(y, 0x55, bytes);
    memset(expected, 0xaa, bytes);
    list(y, w, row_bytes, rows, n_listed, &x, (int32_t)n_blocks);
    m->scalar->row_list[format - ES_FORMAT_Q8R](expected, w, row_bytes, rows, n_listed, &x,
                                                (int32_t)n_blocks);
    int passed = memcmp(y, expected, bytes) == 0;
    for (int32_t i = 0; m->truth && passed && i < n_listed; i++) {
        passed = is_product(y[i], w + (size_t)rows[i] * row_bytes, &x, n_blocks, format);
    }
    check_case(m->count, passed, "list", format, (int64_t)n_blocks, n_listed);
}

static es_block_dot *tiled(const es_kernels *table, int format) {
    return format == ES_FORMAT_Q8R    ? table->q8_dot
           : format == ES_FORMAT_Q4R  ? table->q4_dot
           : format == ES_FORMAT_Q8MR ? table->q8m_dot
                                      : table->q4m_dot;
}

/* A tile of rows has scalar's bytes, and its product is that of the list. */
static void tile_case(bench *m, size_t n_blocks, int32_t n_rows, int format) {
    es_row_tile *make = m->table->row_tile[format - ES_FORMAT_Q8R];
    if (check_skips() || !check_wants((check_any_kernel *)make)) {
        return;
    }
    const size_t row_bytes = es_row_bytes(format, n_blocks);
    const size_t halfs = es_row_has_minimum(format) ? 2 : 1;
    const size_t bytes = n_blocks * 8 * (2 * halfs + es_row_code_bytes(format));
    const uint8_t *w = fill_rows(m, (size_t)n_rows, n_blocks, format);
    const es_q16 x = fill_q16(m, n_blocks);
    uint8_t *tile = check_tail(&m->tile, bytes), *other = check_tail(&m->other, bytes);
    int32_t *rows = check_tail(&m->rows, 8 * sizeof *rows);
    float *y = check_tail(&m->y, 8 * sizeof *y),
          *expected = check_tail(&m->expected, 8 * sizeof *y);
    memset(tile, 0x55, bytes);
    memset(other, 0xaa, bytes);
    make(tile, w, row_bytes, n_rows, (int32_t)n_blocks);
    m->scalar->row_tile[format - ES_FORMAT_Q8R](other, w, row_bytes, n_rows, (int32_t)n_blocks);
    for (int32_t r = 0; r < 8; r++) {
        rows[r] = r;
    }
    tiled(m->table, format)(y, 8, tile, 1, &x, 1, (int32_t)n_blocks);
    m->table->row_list[format - ES_FORMAT_Q8R](expected, w, row_bytes, rows, n_rows, &x,
                                               (int32_t)n_blocks);
    const int passed =
        memcmp(tile, other, bytes) == 0 && memcmp(y, expected, (size_t)n_rows * sizeof *y) == 0;
    check_case(m->count, passed, "tile", format, (int64_t)n_blocks, n_rows);
}

static void cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                  int32_t isa) {
    bench m = {.random = 20250311, .count = count, .table = table, .scalar = scalar};
    m.truth = isa == ES_ISA_SCALAR;
    m.w = check_buffer_new(MAX_ROWS * es_row_bytes(ES_FORMAT_Q8MR, MAX_BLOCKS));
    m.y = check_buffer_new(MAX_LISTED * sizeof(float));
    m.expected = check_buffer_new(MAX_LISTED * sizeof(float));
    m.rows = check_buffer_new(MAX_LISTED * sizeof(int32_t));
    m.q = check_buffer_new(MAX_BLOCKS * 64);
    m.d = check_buffer_new(MAX_BLOCKS * 4);
    m.sum = check_buffer_new(MAX_BLOCKS * 4);
    m.xsum = check_buffer_new(MAX_BLOCKS * 4);
    m.tile = check_buffer_new(MAX_BLOCKS * 288);
    m.other = check_buffer_new(MAX_BLOCKS * 288);
    check_case(count,
               m.truth || (table->row_list[0] != scalar->row_list[0] &&
                           table->row_tile[0] != scalar->row_tile[0]),
               "level has kernels of its own", isa, 0, 0);
    for (int round = 0; round < N_ROUNDS * N_PATTERNS; round++) {
        m.pattern = round % N_PATTERNS;
        for (size_t n_blocks = 1; n_blocks <= MAX_BLOCKS; n_blocks++) {
            for (int format = ES_FORMAT_Q8R; format <= ES_FORMAT_Q8MR; format++) {
                for (int32_t n = 0; n <= MAX_LISTED; n += n < 9 ? 1 : 7) {
                    list_case(&m, n_blocks, n, format);
                }
                for (int32_t n = 1; n <= 8; n++) {
                    tile_case(&m, n_blocks, n, format);
                }
            }
        }
    }
    check_buffer *all[] = {&m.w,   &m.y,    &m.expected, &m.q,     &m.d,
                           &m.sum, &m.xsum, &m.tile,     &m.other, &m.rows};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        check_buffer_free(all[i]);
    }
}

int check_rows(void) {
    return check_each_isa("rows", cases);
}
