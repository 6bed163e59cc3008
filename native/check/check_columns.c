/* Column formats: scalar against the byte picture, every other instruction set against scalar, lists
 * against the dense kernels. */
#include "check/check_support.h"
#include "kernels.h"

#include <math.h>
#include <string.h>

enum { MAX_WIDTH = ES_COLUMN_WIDTH, MAX_TOKENS = 9, MAX_BLOCKS = 9 };
enum { UNIFORM, EXTREME, WILD, N_PATTERNS };
enum { MAX_ROWS = MAX_WIDTH * 128 };

static const int FORMATS[] = {ES_FORMAT_Q8N, ES_FORMAT_Q4N, ES_FORMAT_Q8MN, ES_FORMAT_Q4MN};
#define LENGTH(array) ((int)(sizeof(array) / sizeof((array)[0])))

typedef struct bench {
    check_buffer w, y, expected, q, d, sum, xsum, pairs, begin;
    uint64_t random;
    check_count *count;
    const es_kernels *table, *scalar;
    int truth; /* the table is scalar: hold it against the byte picture */
    int pattern;
} bench;

static es_column_list *list_kernel(const es_kernels *table, int format) {
    return format == ES_FORMAT_Q8N    ? table->q8n_list
           : format == ES_FORMAT_Q4N  ? table->q4n_list
           : format == ES_FORMAT_Q8MN ? table->q8mn_list
                                      : table->q4mn_list;
}

static es_column_dot *dot_kernel(const es_kernels *table, int format) {
    return format == ES_FORMAT_Q8N    ? table->q8n_dot
           : format == ES_FORMAT_Q4N  ? table->q4n_dot
           : format == ES_FORMAT_Q8MN ? table->q8mn_dot
                                      : table->q4mn_dot;
}

/* A tile's bytes: any codes, finite halfs. */
static const uint8_t *fill_tile(bench *m, size_t width, size_t n_blocks, int format) {
    const size_t block_bytes = width * es_line_block_bytes(format), codes = width * 2048;
    uint8_t *w = check_tail(&m->w, n_blocks * block_bytes);
    for (size_t i = 0; i < n_blocks * block_bytes; i++) {
        w[i] = (uint8_t)check_random(&m->random);
        if (i % block_bytes < codes) {
            w[i] = m->pattern == EXTREME ? (i & 1 ? 0xff : 0x00) : w[i];
        } else if (i & 1) { /* the upper byte of a half */
            w[i] = m->pattern != WILD      ? (uint8_t)(0x20 | (w[i] & 0x83))
                   : (w[i] & 0x7c) == 0x7c ? (uint8_t)(w[i] & 0xfb)
                                           : w[i];
        }
    }
    return w;
}

/* About `share` of 8 inputs are not zero; a quarter of the blocks has none at all. */
static es_q16 fill_q16(bench *m, size_t n_tokens, size_t n_blocks, uint32_t share) {
    const size_t stride = n_blocks + check_random(&m->random) % 3, all = n_tokens * stride;
    int16_t *q = check_tail(&m->q, all * 64);
    float *d = check_tail(&m->d, all * 4), *xsum = check_tail(&m->xsum, all * 4);
    int32_t *sum = check_tail(&m->sum, all * 4);
    for (size_t b = 0; b < all; b++) {
        const int dead = share < 8 && check_random(&m->random) % 4 == 0;
        const int16_t extreme = (int16_t)(check_random(&m->random) & 1 ? 32767 : -32767);
        sum[b] = 0;
        for (size_t i = 0; i < 32; i++) {
            const int live = !dead && check_random(&m->random) % 8 < share;
            const int16_t any = (int16_t)check_range(&m->random, -32767, 32767);
            q[b * 32 + i] = !live ? 0 : m->pattern == EXTREME ? extreme : any;
            sum[b] += q[b * 32 + i];
        }
        const float near = check_uniform(&m->random) * 1e-4f;
        d[b] = m->pattern == WILD ? ldexpf(near, check_range(&m->random, -110, 60)) : near;
        xsum[b] = d[b] * (float)sum[b];
    }
    return (es_q16){.q = q, .d = d, .sum = sum, .xsum = xsum, .stride_blocks = stride};
}

static double steps_at(const uint8_t *p) {
    return check_half((uint16_t)(p[0] | p[1] << 8));
}

/* Whether y is row `row` of the line's product, by the byte picture and in double precision. */
static int is_product(float y, const es_column_lines *lines, size_t row, const es_q16 *x,
                      size_t token, size_t n_blocks, int format) {
    const int nibble = es_column_is_nibble(format);
    const size_t line_rows = nibble ? 128 : 64, tile_rows = lines->width * line_rows;
    const size_t r = row % 64, in_tile = lines->first * line_rows + row;
    const size_t line = in_tile / line_rows, upper = row % line_rows / 64;
    const size_t place = 16 * (r % 16 / 4) + 4 * (r / 16) + r % 4;
    double total = 0, magnitude = 0;
    for (size_t b = 0; b < n_blocks; b++) {
        const uint8_t *p = lines->tile + b * lines->width * es_line_block_bytes(format);
        const uint8_t *steps = p + 2048 * lines->width + 2 * in_tile;
        const size_t at = token * x->stride_blocks + b;
        double sum = 0, q_sum = 0;
        for (size_t c = 0; c < 32; c++) {
            const int byte = p[(c * lines->width + line) * 64 + place];
            const int code =
                !nibble ? byte - 128
                        : (upper ? byte / 16 : byte % 16) - (format == ES_FORMAT_Q4N ? 8 : 0);
            sum += (double)code * x->q[at * 32 + c];
            q_sum += x->q[at * 32 + c];
        }
        const double term = steps_at(steps) * (double)x->d[at] * sum;
        const double offset = es_column_has_minimum(format)
                                  ? steps_at(steps + 2 * tile_rows) * (double)x->d[at] * q_sum
                                  : 0;
        total += term + offset;
        magnitude += fabs(term) + fabs(offset);
    }
    return fabs((double)y - total) <=
           1e-6 * ((double)n_blocks + 2) * magnitude + (double)n_blocks * 0x1p-122;
}

static void dot_case(bench *m, const es_column_lines *lines, size_t n_tokens, size_t n_blocks,
                     uint32_t share, int format) {
    if (check_skips() || !check_wants((check_any_kernel *)dot_kernel(m->table, format))) {
        return;
    }
    const size_t n_rows = lines->n * es_line_rows(format);
    const size_t y_stride = n_rows + check_random(&m->random) % 20;
    const size_t bytes = ((n_tokens - 1) * y_stride + n_rows) * sizeof(float);
    float *y = check_tail(&m->y, bytes), *expected = check_tail(&m->expected, bytes);
    const es_q16 x = fill_q16(m, n_tokens, n_blocks, share);
    memset(y, 0x55, bytes);
    memset(expected, 0x55, bytes);
    dot_kernel(m->table, format)(y, y_stride, lines, &x, (int32_t)n_tokens, (int32_t)n_blocks);
    dot_kernel(m->scalar, format)(expected, y_stride, lines, &x, (int32_t)n_tokens,
                                  (int32_t)n_blocks);
    int passed = memcmp(y, expected, bytes) == 0;
    for (size_t row = 0; m->truth && passed && row < n_rows; row++) {
        const size_t token = row % n_tokens;
        passed = is_product(y[token * y_stride + row], lines, row, &x, token, n_blocks, format);
    }
    check_case(m->count, passed, "dot", format, (int64_t)n_blocks, (int64_t)n_tokens);
}

/* One token's live columns against all columns. */
static void list_case(bench *m, const es_column_lines *lines, size_t n_blocks, uint32_t share,
                      int format) {
    if (check_skips() || !(check_wants((check_any_kernel *)list_kernel(m->table, format)) ||
                           check_wants((check_any_kernel *)m->table->list_columns))) {
        return;
    }
    const size_t bytes = lines->n * es_line_rows(format) * sizeof(float);
    float *y = check_tail(&m->y, bytes), *expected = check_tail(&m->expected, bytes);
    const es_q16 x = fill_q16(m, 1, n_blocks, share);
    es_live_pair *pairs = check_tail(&m->pairs, 16 * n_blocks * sizeof *pairs);
    int32_t *begin = check_tail(&m->begin, (n_blocks + 1) * sizeof *begin), n_live = 0;
    for (size_t i = 0; i < 32 * n_blocks; i++) {
        n_live += x.q[i] != 0;
    }
    memset(pairs, 0, 16 * n_blocks * sizeof *pairs); /* none, if nobody lists any */
    memset(begin, 0, (n_blocks + 1) * sizeof *begin);
    const int32_t listed = m->table->list_columns(pairs, begin, x.q, (int32_t)n_blocks);
    const es_columns live = {pairs, begin};
    memset(y, 0x55, bytes);
    list_kernel(m->table, format)(y, lines, &live, &x, (int32_t)n_blocks);
    dot_kernel(m->scalar, format)(expected, 0, lines, &x, 1, (int32_t)n_blocks);
    check_case(m->count, listed == n_live && memcmp(y, expected, bytes) == 0, "list", format,
               (int64_t)n_blocks, share);
}

static void cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                  int32_t isa) {
    bench m = {.random = 20240817, .count = count, .table = table, .scalar = scalar};
    m.truth = isa == ES_ISA_SCALAR;
    m.w = check_buffer_new((size_t)MAX_BLOCKS * MAX_WIDTH * 2560);
    m.y = check_buffer_new(MAX_TOKENS * (MAX_ROWS + 20) * sizeof(float));
    m.expected = check_buffer_new(MAX_TOKENS * (MAX_ROWS + 20) * sizeof(float));
    m.q = check_buffer_new(MAX_TOKENS * (MAX_BLOCKS + 3) * 64);
    m.d = check_buffer_new(MAX_TOKENS * (MAX_BLOCKS + 3) * 4);
    m.sum = check_buffer_new(MAX_TOKENS * (MAX_BLOCKS + 3) * 4);
    m.xsum = check_buffer_new(MAX_TOKENS * (MAX_BLOCKS + 3) * 4);
    m.pairs = check_buffer_new(16 * MAX_BLOCKS * sizeof(es_live_pair));
    m.begin = check_buffer_new((MAX_BLOCKS + 1) * sizeof(int32_t));
#if defined(__x86_64__) || defined(__aarch64__)
    const int kept = table->q8n_list == scalar->q8n_list || table->q4n_list == scalar->q4n_list ||
                     table->q8mn_list == scalar->q8mn_list ||
                     table->q4mn_list == scalar->q4mn_list || table->q8n_dot == scalar->q8n_dot ||
                     table->q4mn_dot == scalar->q4mn_dot;
    check_case(count, isa == ES_ISA_SCALAR || !kept, "level has kernels of its own", isa, 0, 0);
#endif
    for (m.pattern = 0; m.pattern < N_PATTERNS; m.pattern++) {
        for (size_t n_blocks = 1; n_blocks <= MAX_BLOCKS; n_blocks += n_blocks < 4 ? 1 : 5) {
            for (size_t width = 1; width <= MAX_WIDTH; width++) {
                for (int f = 0; f < LENGTH(FORMATS); f++) {
                    const size_t first = check_random(&m.random) % width;
                    const size_t n = 1 + check_random(&m.random) % (width - first);
                    const es_column_lines lines = {fill_tile(&m, width, n_blocks, FORMATS[f]),
                                                   width, first, n};
                    for (uint32_t i = 0; i < 18; i++) {
                        const uint32_t share = i % 9;
                        list_case(&m, &lines, n_blocks, share, FORMATS[f]);
                        dot_case(&m, &lines, (size_t)check_range(&m.random, 1, MAX_TOKENS),
                                 n_blocks, share, FORMATS[f]);
                    }
                }
            }
        }
    }
    check_buffer *all[] = {&m.w,   &m.y,    &m.expected, &m.q,    &m.d,
                           &m.sum, &m.xsum, &m.pairs,    &m.begin};
    for (int i = 0; i < LENGTH(all); i++) {
        check_buffer_free(all[i]);
    }
}

int check_columns(void) {
    return check_each_isa("columns", cases);
}
