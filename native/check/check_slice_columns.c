/* Bit slices by columns: the scalar kernels against a loop that decodes the byte picture code by code, and
 * every other kernel against that. Equal bits, floats included; lists leave out zeros only. */
#include "check/check_support.h"
#include "kernels.h"

#include <string.h>

enum { MAX_WIDTH = ES_COLUMN_WIDTH, MAX_TOKENS = 9, MAX_BLOCKS = 9, N_CASES = 2600 };
enum { LINE_ROWS = 128, MAX_ROWS = MAX_WIDTH * LINE_ROWS };
enum { RANDOM, LARGEST_CODES, SAME_SIGN, N_PATTERNS };

typedef struct bench {
    check_buffer w, y, expected, q, d, sum, xsum, pairs, begin;
    uint64_t random;
    check_count *count;
    const es_kernels *table, *scalar;
    int truth;
} bench;

typedef struct column_case {
    es_slices layout;
    es_column_lines lines;
    size_t n_tokens, n_bytes, head_bytes, line_bytes;
    uint32_t share; /* of 8 inputs are not 0 */
    int pattern;
} column_case;

static size_t element_bytes(const es_slices *s) {
    return s->wide ? 4 : 2;
}

static size_t beside_bytes(const es_slices *s) {
    return s->zeros == ES_ZEROS_NONE ? 0 : s->zeros == ES_ZEROS_POINTS ? 1 : element_bytes(s);
}

static column_case random_case(bench *m) {
    static const int32_t groups[] = {1, 2, 4};
    column_case c = {.pattern = check_range(&m->random, 0, N_PATTERNS - 1)};
    es_slices *s = &c.layout;
    const int32_t g = check_range(&m->random, 0, 3);
    s->planes = check_range(&m->random, 2, 4);
    s->n_blocks = check_range(&m->random, 1, MAX_BLOCKS);
    s->group_blocks = g < 3 ? groups[g] : s->n_blocks;
    s->zeros = check_range(&m->random, 0, 2);
    s->wide = check_range(&m->random, 0, 1);
    c.lines.width = (size_t)check_range(&m->random, 1, MAX_WIDTH);
    c.lines.first = check_random(&m->random) % c.lines.width;
    c.lines.n = 1 + check_random(&m->random) % (c.lines.width - c.lines.first);
    c.n_tokens = (size_t)check_range(&m->random, 1, MAX_TOKENS);
    c.share = check_random(&m->random) % 9;
    c.line_bytes = s->planes == 2 ? 32 : 64;
    c.head_bytes = c.lines.width * LINE_ROWS * (element_bytes(s) + beside_bytes(s));
    const size_t n_groups = (size_t)((s->n_blocks + s->group_blocks - 1) / s->group_blocks);
    c.n_bytes = n_groups * c.head_bytes + (size_t)s->n_blocks * 32 * c.lines.width * c.line_bytes;
    return c;
}

static void put_number(bench *m, uint8_t *to, int wide) {
    const uint32_t bits = check_random(&m->random);
    const uint16_t half = (uint16_t)((bits & 0x83ff) | (0x0400 * (bits >> 20 & 15)));
    const float number = check_uniform(&m->random);
    if (wide) {
        memcpy(to, &number, sizeof number);
    } else {
        memcpy(to, &half, sizeof half);
    }
}

static void fill_weights(bench *m, column_case *c) {
    const es_slices *s = &c->layout;
    uint8_t *w = check_tail(&m->w, c->n_bytes);
    const int used = s->planes == 3 ? 0x77 : 0xff; /* three bits leave the fourth empty */
    for (size_t i = 0; i < c->n_bytes; i++) {
        const int any = c->pattern == LARGEST_CODES ? 0xff : (int)check_random(&m->random);
        w[i] = (uint8_t)(any & used);
    }
    uint8_t *at = w;
    for (int32_t b = 0; b < s->n_blocks; b++) {
        if (b % s->group_blocks == 0) {
            const size_t rows = c->lines.width * LINE_ROWS, step = element_bytes(s);
            for (size_t row = 0; row < rows; row++) {
                put_number(m, at + row * step, s->wide);
                if (s->zeros == ES_ZEROS_POINTS) {
                    at[rows * step + row] = (uint8_t)check_random(&m->random);
                } else if (s->zeros == ES_ZEROS_OFFSETS) {
                    put_number(m, at + (rows + row) * step, s->wide);
                }
            }
            at += c->head_bytes;
        }
        at += 32 * c->lines.width * c->line_bytes;
    }
    c->lines.tile = w;
}

/* A quarter of the blocks, and sometimes groups, have no live input at all. */
static es_q8 fill_inputs(bench *m, const column_case *c) {
    const size_t blocks = (size_t)c->layout.n_blocks,
                 stride = blocks + check_random(&m->random) % 3;
    const size_t all = c->n_tokens * stride;
    int8_t *q = check_tail(&m->q, all * 32);
    float *d = check_tail(&m->d, all * 4), *xsum = check_tail(&m->xsum, all * 4);
    int32_t *sum = check_tail(&m->sum, all * 4);
    const int same = (int)(check_random(&m->random) & 1);
    for (size_t b = 0; b < all; b++) {
        const int dead = c->share < 8 && check_random(&m->random) % 4 == 0;
        sum[b] = 0;
        for (size_t i = 0; i < 32; i++) {
            const int live = !dead && check_random(&m->random) % 8 < c->share;
            const int32_t any = check_range(&m->random, -127, 127);
            const int32_t edge = (c->pattern == SAME_SIGN ? same : any & 1) ? 127 : -127;
            q[32 * b + i] = (int8_t)(!live ? 0 : c->pattern == RANDOM ? any : edge);
            sum[b] += q[32 * b + i];
        }
        d[b] = check_uniform(&m->random) + 1.0f;
        xsum[b] = d[b] * (float)sum[b];
    }
    return (es_q8){
        .q = q, .d = d, .sum = sum, .xsum = xsum, .q_stride = stride * 32, .stride_blocks = stride};
}

static float number_at(const uint8_t *p, size_t i, int wide) {
    float number;
    uint16_t half;
    if (wide) {
        memcpy(&number, p + 4 * i, sizeof number);
        return number;
    }
    memcpy(&half, p + 2 * i, sizeof half);
    return (float)check_half(half);
}

/* The code of row `row` of the tile in column `i` of the block at p, by the byte picture. */
static int32_t code_at(const column_case *c, const uint8_t *p, size_t i, size_t row) {
    const uint8_t *line = p + (i * c->lines.width + row / LINE_ROWS) * c->line_bytes;
    const size_t r = row % LINE_ROWS;
    if (c->layout.planes == 2) {
        const size_t s = r % 32;
        return line[16 * (s / 4 % 2) + 4 * (s / 8) + s % 4] >> (2 * (r / 32)) & 3;
    }
    const size_t s = r % 64;
    return line[16 * (s / 4 % 4) + 4 * (s / 16) + s % 4] >> (4 * (r / 64)) & 15;
}

/* One output by the rules of edgesparse/ops/README.md; `row` counts from the tile's first. */
static float true_output(const column_case *c, const es_q8 *x, size_t token, size_t row) {
    const es_slices *s = &c->layout;
    const size_t rows = c->lines.width * LINE_ROWS;
    const int32_t middle = 1 << (s->planes - 1);
    const uint8_t *at = c->lines.tile, *head = at;
    float acc = 0.0f, part = 0.0f, xs = 0.0f;
    for (int32_t b = 0; b < s->n_blocks; b++) {
        const int first = b % s->group_blocks == 0;
        if (first) {
            head = at;
            at += c->head_bytes;
        }
        int32_t isum = 0;
        for (size_t i = 0; i < 32; i++) {
            const int32_t q = x->q[token * x->q_stride + (size_t)b * 32 + i];
            isum += (code_at(c, at, i, row) - middle) * q;
        }
        const size_t block = token * x->stride_blocks + (size_t)b;
        const float term = (float)isum * x->d[block];
        part = first ? term : part + term;
        xs = first ? x->xsum[block] : xs + x->xsum[block];
        at += 32 * c->lines.width * c->line_bytes;
        if ((b + 1) % s->group_blocks != 0 && b + 1 != s->n_blocks) {
            continue;
        }
        const float step = number_at(head, row, s->wide);
        const uint8_t *beside = head + rows * element_bytes(s);
        if (s->zeros == ES_ZEROS_POINTS) {
            part = part - (float)(int8_t)beside[row] * xs;
        }
        acc = acc + step * part;
        if (s->zeros == ES_ZEROS_OFFSETS) {
            acc = acc + (number_at(beside, row, s->wide) + step * (float)middle) * xs;
        }
    }
    return acc;
}

static void dot_case(bench *m, const column_case *c, const es_q8 *x) {
    const size_t n_rows = c->lines.n * LINE_ROWS;
    const size_t y_stride = n_rows + check_random(&m->random) % 20;
    const size_t bytes = ((c->n_tokens - 1) * y_stride + n_rows) * sizeof(float);
    float *y = check_tail(&m->y, bytes), *expected = check_tail(&m->expected, bytes);
    const int32_t n_tokens = (int32_t)c->n_tokens;
    memset(y, 0x55, bytes);
    memset(expected, 0x55, bytes);
    m->table->slice_column_dot(y, y_stride, &c->lines, &c->layout, x, n_tokens);
    if (m->truth) {
        for (size_t i = 0; i < c->n_tokens * n_rows; i++) {
            const size_t row = i % n_rows, t = i / n_rows;
            expected[t * y_stride + row] = true_output(c, x, t, c->lines.first * LINE_ROWS + row);
        }
    } else {
        m->scalar->slice_column_dot(expected, y_stride, &c->lines, &c->layout, x, n_tokens);
    }
    check_case(m->count, memcmp(y, expected, bytes) == 0, "slice_column_dot",
               c->layout.planes * 100 + c->layout.zeros * 10 + c->layout.wide,
               c->layout.n_blocks * 100 + c->layout.group_blocks, (int64_t)c->n_tokens);
}

/* The first token's live columns against all columns. */
static void list_case(bench *m, const column_case *c, const es_q8 *x) {
    const size_t n_blocks = (size_t)c->layout.n_blocks;
    const size_t bytes = c->lines.n * LINE_ROWS * sizeof(float);
    float *y = check_tail(&m->y, bytes), *expected = check_tail(&m->expected, bytes);
    es_live_pair *pairs = check_tail(&m->pairs, 16 * n_blocks * sizeof *pairs);
    int32_t *begin = check_tail(&m->begin, (n_blocks + 1) * sizeof *begin), n_live = 0;
    for (size_t i = 0; i < 32 * n_blocks; i++) {
        n_live += x->q[i] != 0;
    }
    memset(pairs, 0, 16 * n_blocks * sizeof *pairs); /* none, if nobody lists any */
    memset(begin, 0, (n_blocks + 1) * sizeof *begin);
    const int32_t listed = m->table->list_bytes(pairs, begin, x->q, c->layout.n_blocks);
    const es_columns live = {pairs, begin};
    memset(y, 0x55, bytes);
    memset(expected, 0xaa, bytes);
    m->table->slice_list(y, &c->lines, &c->layout, &live, x);
    m->scalar->slice_column_dot(expected, c->lines.n * LINE_ROWS, &c->lines, &c->layout, x, 1);
    check_case(m->count, listed == n_live && memcmp(y, expected, bytes) == 0, "slice_list",
               c->layout.planes * 100 + c->layout.zeros * 10 + c->layout.wide,
               c->layout.n_blocks * 100 + c->layout.group_blocks, c->share);
}

static void cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                  int32_t isa) {
    bench m = {.random = 20261127, .count = count, .table = table, .scalar = scalar};
    m.truth = isa == ES_ISA_SCALAR;
    m.w = check_buffer_new((size_t)MAX_BLOCKS * MAX_WIDTH * (2048 + 1024));
    m.y = check_buffer_new(MAX_TOKENS * (MAX_ROWS + 20) * sizeof(float));
    m.expected = check_buffer_new(MAX_TOKENS * (MAX_ROWS + 20) * sizeof(float));
    m.q = check_buffer_new(MAX_TOKENS * (MAX_BLOCKS + 3) * 32);
    m.d = check_buffer_new(MAX_TOKENS * (MAX_BLOCKS + 3) * 4);
    m.sum = check_buffer_new(MAX_TOKENS * (MAX_BLOCKS + 3) * 4);
    m.xsum = check_buffer_new(MAX_TOKENS * (MAX_BLOCKS + 3) * 4);
    m.pairs = check_buffer_new(16 * MAX_BLOCKS * sizeof(es_live_pair));
    m.begin = check_buffer_new((MAX_BLOCKS + 1) * sizeof(int32_t));
#if defined(__x86_64__) || defined(__aarch64__)
    const int kept = table->slice_list == scalar->slice_list ||
                     table->slice_column_dot == scalar->slice_column_dot ||
                     table->list_bytes == scalar->list_bytes;
    check_case(count, m.truth || !kept, "level has kernels of its own", isa, 0, 0);
#endif
    for (int i = 0; i < N_CASES; i++) {
        const int lists = check_wants((check_any_kernel *)table->slice_list) ||
                          check_wants((check_any_kernel *)table->list_bytes);
        const int dots = check_wants((check_any_kernel *)table->slice_column_dot);
        if (check_skips() || !(lists || dots)) {
            continue;
        }
        column_case c = random_case(&m);
        fill_weights(&m, &c);
        const es_q8 x = fill_inputs(&m, &c);
        if (lists) {
            list_case(&m, &c, &x);
        }
        if (dots) {
            dot_case(&m, &c, &x);
        }
    }
    check_buffer *all[] = {&m.w,   &m.y,    &m.expected, &m.q,    &m.d,
                           &m.sum, &m.xsum, &m.pairs,    &m.begin};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        check_buffer_free(all[i]);
    }
}

int check_slice_columns(void) {
    return check_each_isa("slice columns", cases);
}
