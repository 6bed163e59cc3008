/* Products with bit slices: the scalar look-up against a loop that decodes the byte picture bit by bit,
 * and every other kernel, looking up or multiplying, against that. Equal bits, floats included. */
#include "check/check_slices.h"
#include "check/check_support.h"
#include "kernels.h"

#include <string.h>

enum { MAX_TILES = 3, MAX_TOKENS = 64, N_CASES = 3000 };
enum { RANDOM, ALL_ONES, ALL_ZEROS, SAME_SIGN, N_PATTERNS };

typedef struct bench {
    check_buffer w, y, expected, q, d, sum, xsum, tables, scalar_tables;
    check_buffer rounded, rounded_d, rounded_y, scalar_d, scalar_y;
    uint64_t random;
    check_count *count;
    const es_kernels *table, *scalar;
    int truth;
} bench;

static size_t count_groups(const es_slices *s) {
    return (size_t)((s->n_blocks + s->group_blocks - 1) / s->group_blocks);
}

static slice_case random_case(bench *m, int ternary) {
    slice_case c = {.pattern = check_range(&m->random, 0, N_PATTERNS - 1)};
    es_slices *s = &c.layout;
    s->planes = ternary ? 2 : check_range(&m->random, 1, 4);
    s->n_blocks = check_range(&m->random, 1, MAX_SLICE_BLOCKS);
    static const int32_t groups[] = {1, 2, 4};
    const int32_t g = check_range(&m->random, 0, 3);
    s->group_blocks = g < 3 && !ternary ? groups[g] : s->n_blocks;
    s->zeros = ternary ? ES_ZEROS_NONE : check_range(&m->random, 0, 2);
    s->wide = ternary ? 0 : check_range(&m->random, 0, 1);
    c.n_tiles = check_range(&m->random, 0, MAX_TILES);
    static const int32_t tokens[] = {1, 1, 2, 3, 4, 5, 7, 8, 9};
    c.n_tokens =
        check_random(&m->random) % 32 == 0 ? MAX_TOKENS : tokens[check_range(&m->random, 0, 8)];
    c.head_bytes =
        ternary ? 0
                : SLICE_TILE_ROWS * (s->zeros == ES_ZEROS_NONE     ? slice_element_bytes(s)
                                     : s->zeros == ES_ZEROS_POINTS ? slice_element_bytes(s) + 1
                                                                   : 2 * slice_element_bytes(s));
    c.block_bytes = (size_t)s->planes * 256;
    c.tile_bytes = count_groups(s) * c.head_bytes + (size_t)s->n_blocks * c.block_bytes;
    return c;
}

static void put_number(bench *m, uint8_t *to, int wide) {
    const uint32_t bits = check_random(&m->random);
    if (wide) {
        const float number = check_uniform(&m->random);
        memcpy(to, &number, sizeof number);
    } else {
        const uint16_t half = (uint16_t)(bits & 0x83ff) | (uint16_t)(0x0400 * (bits >> 20 & 15));
        memcpy(to, &half, sizeof half);
    }
}

static const uint8_t *fill_weights(bench *m, const slice_case *c, int ternary) {
    const size_t n_bytes = (size_t)c->n_tiles * c->tile_bytes;
    uint8_t *w = check_tail(&m->w, n_bytes);
    for (size_t i = 0; i < n_bytes; i++) {
        const uint8_t any = (uint8_t)check_random(&m->random);
        w[i] = c->pattern == ALL_ONES ? 255 : c->pattern == ALL_ZEROS ? 0 : any;
    }
    /* Code 3 is no ternary code: where the upper plane has a bit, the lower one has none. */
    for (size_t i = 0; ternary && i < n_bytes; i += 128) {
        for (size_t j = 0; j < 64; j++) {
            w[i + j] = (uint8_t)(w[i + j] & ~w[i + 64 + j]);
        }
    }
    for (int32_t tile = 0; tile < c->n_tiles && !ternary; tile++) {
        uint8_t *at = w + (size_t)tile * c->tile_bytes;
        for (int32_t b = 0; b < c->layout.n_blocks; b++) {
            if (b % c->layout.group_blocks == 0) {
                const size_t step = slice_element_bytes(&c->layout);
                for (size_t row = 0; row < SLICE_TILE_ROWS; row++) {
                    put_number(m, at + row * step, c->layout.wide);
                    if (c->layout.zeros == ES_ZEROS_OFFSETS) {
                        put_number(m, at + (SLICE_TILE_ROWS + row) * step, c->layout.wide);
                    }
                }
                at += c->head_bytes;
            }
            at += c->block_bytes;
        }
    }
    return w;
}

/* Activations with their sums and tables; per token (-128 ... 127) for ternary weights. */
static es_q8 fill_activations(bench *m, const slice_case *c, int ternary) {
    const size_t blocks = (size_t)c->layout.n_blocks, n = (size_t)c->n_tokens * blocks;
    int8_t *q = check_tail(&m->q, n * 32);
    float *d = check_tail(&m->d, n * 4), *xsum = check_tail(&m->xsum, n * 4);
    int32_t *sum = check_tail(&m->sum, n * 4);
    uint8_t *tables = check_tail(&m->tables, n * ES_TABLE_BYTES);
    const int32_t least = ternary ? -128 : -127;
    const int same = (int)(check_random(&m->random) & 1);
    for (size_t b = 0; b < n; b++) {
        sum[b] = 0;
        for (size_t i = 0; i < 32; i++) {
            const int32_t any = check_range(&m->random, least, 127);
            const int32_t edge = (c->pattern == SAME_SIGN ? same : any & 1) ? 127 : least;
            q[32 * b + i] = (int8_t)(c->pattern == RANDOM ? any : edge);
            sum[b] += q[32 * b + i];
        }
        d[b] = check_uniform(&m->random) + 1.0f;
        xsum[b] = d[b] * (float)sum[b];
    }
    memset(tables, 0x55, n * ES_TABLE_BYTES);
    m->table->slice_tables(tables, q, (int32_t)n);
    return (es_q8){q, d, sum, xsum, tables, blocks * 32, blocks};
}

static void compare(bench *m, const slice_case *c, const void *found, const void *expected,
                    const char *what) {
    const size_t n_bytes = (size_t)c->n_tokens * (size_t)c->n_tiles * SLICE_TILE_ROWS * 4;
    check_case(m->count, memcmp(found, expected, n_bytes) == 0, what,
               c->layout.planes * 100 + c->layout.zeros * 10 + c->layout.wide,
               c->layout.n_blocks * 100 + c->layout.group_blocks, c->n_tiles * 100 + c->n_tokens);
}

/* Rounded tables: tables and steps equal scalar's, results its or the truth, and near the exact ones. */
static void rounded_case(bench *m, const slice_case *c, const uint8_t *w, es_q8 x, float *exact,
                         size_t stride) {
    const size_t n_blocks = (size_t)c->n_tokens * x.stride_blocks;
    const size_t n_floats = (size_t)c->n_tokens * stride;
    uint8_t *tables = check_tail(&m->rounded, n_blocks * ES_ROUNDED_BYTES);
    uint8_t *expected_tables = check_tail(&m->scalar_tables, n_blocks * ES_ROUNDED_BYTES);
    float *d = check_tail(&m->rounded_d, n_blocks * 4),
          *expected_d = check_tail(&m->scalar_d, n_blocks * 4);
    float *y = check_tail(&m->rounded_y, n_floats * 4),
          *expected = check_tail(&m->scalar_y, n_floats * 4);
    if (m->truth) {
        slice_true_outputs(expected, c, w, &x, 1);
    }
    memset(tables, 0x55, n_blocks * ES_ROUNDED_BYTES);
    memset(expected_tables, 0xaa, n_blocks * ES_ROUNDED_BYTES);
    memset(d, 0x55, n_blocks * 4);
    memset(y, 0x55, n_floats * 4);
    m->table->rounded_tables(tables, d, x.q, x.d, (int32_t)n_blocks);
    m->scalar->rounded_tables(expected_tables, expected_d, x.q, x.d, (int32_t)n_blocks);
    int good = memcmp(tables, expected_tables, n_blocks * ES_ROUNDED_BYTES) == 0 &&
               memcmp(d, expected_d, n_blocks * 4) == 0;
    x.tables = tables;
    x.d = d;
    m->table->slice_rounded(y, stride, w, &c->layout, c->n_tiles, &x, c->n_tokens);
    x.tables = expected_tables;
    x.d = expected_d;
    if (!m->truth) {
        m->scalar->slice_rounded(expected, stride, w, &c->layout, c->n_tiles, &x, c->n_tokens);
    }
    good &= memcmp(y, expected, n_floats * 4) == 0;
    double error = 0, norm = 0;
    for (size_t i = 0; i < n_floats; i++) {
        const double difference = (double)y[i] - (double)exact[i];
        error += difference * difference;
        norm += (double)exact[i] * (double)exact[i];
    }
    /* Small samples of one sign's extremes say little: only random ones of some size are judged. */
    good &= c->pattern != RANDOM || n_floats < 1000 || error < 0.02 * norm;
    check_case(m->count, good, "slice_rounded", c->layout.planes * 100 + c->layout.zeros * 10,
               c->layout.n_blocks * 100 + c->layout.group_blocks, c->n_tiles * 100 + c->n_tokens);
}

static void group_case(bench *m) {
    const int rounds = check_wants((check_any_kernel *)m->table->rounded_tables) ||
                       check_wants((check_any_kernel *)m->table->slice_rounded);
    if (check_skips() || !(rounds || check_wants((check_any_kernel *)m->table->slice_tables) ||
                           check_wants((check_any_kernel *)m->table->slice_lut) ||
                           check_wants((check_any_kernel *)m->table->slice_mad))) {
        return;
    }
    const slice_case c = random_case(m, 0);
    const uint8_t *w = fill_weights(m, &c, 0);
    es_q8 x = fill_activations(m, &c, 0);
    const size_t stride = (size_t)c.n_tiles * SLICE_TILE_ROWS;
    const size_t n_bytes = (size_t)c.n_tokens * stride * sizeof(float);
    float *y = check_tail(&m->y, n_bytes), *expected = check_tail(&m->expected, n_bytes);
    if (m->truth) {
        slice_true_outputs(expected, &c, w, &x, 0);
    } else {
        es_q8 plain = x;
        plain.tables =
            check_tail(&m->scalar_tables, (size_t)c.n_tokens * x.stride_blocks * ES_TABLE_BYTES);
        m->scalar->slice_tables((uint8_t *)(uintptr_t)plain.tables, x.q,
                                c.n_tokens * c.layout.n_blocks);
        m->scalar->slice_lut(expected, stride, w, &c.layout, c.n_tiles, &plain, c.n_tokens);
    }
    memset(y, 0x55, n_bytes);
    m->table->slice_lut(y, stride, w, &c.layout, c.n_tiles, &x, c.n_tokens);
    compare(m, &c, y, expected, "slice_lut");
    if (rounds) {
        rounded_case(m, &c, w, x, y, stride);
    }
    memset(y, 0x55, n_bytes);
    m->table->slice_mad(y, stride, w, &c.layout, c.n_tiles, &x, c.n_tokens);
    compare(m, &c, y, expected, "slice_mad");
}

static void ternary_case(bench *m) {
    if (check_skips() || !(check_wants((check_any_kernel *)m->table->slice_tables) ||
                           check_wants((check_any_kernel *)m->table->bst_lut) ||
                           check_wants((check_any_kernel *)m->table->bst_mad))) {
        return;
    }
    const slice_case c = random_case(m, 1);
    const uint8_t *w = fill_weights(m, &c, 1);
    const es_q8 x = fill_activations(m, &c, 1);
    const size_t stride = (size_t)c.n_tiles * SLICE_TILE_ROWS;
    const size_t n_bytes = (size_t)c.n_tokens * stride * sizeof(int32_t);
    int32_t *y = check_tail(&m->y, n_bytes), *expected = check_tail(&m->expected, n_bytes);
    for (size_t row = 0; row < stride; row++) {
        uint8_t codes[MAX_SLICE_BLOCKS * 32];
        slice_codes(codes, &c, w, row);
        for (size_t t = 0; t < (size_t)c.n_tokens; t++) {
            int32_t sum = 0;
            for (size_t i = 0; i < (size_t)c.layout.n_blocks * 32; i++) {
                sum += codes[i] * x.q[t * x.q_stride + i];
            }
            expected[t * stride + row] = sum;
        }
    }
    memset(y, 0x55, n_bytes);
    m->table->bst_lut(y, stride, w, c.n_tiles, &x, c.n_tokens, c.layout.n_blocks);
    compare(m, &c, y, expected, "bst_lut");
    memset(y, 0x55, n_bytes);
    m->table->bst_mad(y, stride, w, c.n_tiles, &x, c.n_tokens, c.layout.n_blocks);
    compare(m, &c, y, expected, "bst_mad");
}

static void bitslice_cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                           int32_t isa) {
    const size_t rows = MAX_TILES * SLICE_TILE_ROWS, blocks = MAX_TOKENS * MAX_SLICE_BLOCKS;
    bench m = {.random = 1968, .count = count, .table = table, .scalar = scalar};
    m.truth = isa == ES_ISA_SCALAR;
    m.w = check_buffer_new(MAX_TILES * MAX_SLICE_BLOCKS * (size_t)(1024 + 512));
    m.y = check_buffer_new(MAX_TOKENS * rows * 4);
    m.expected = check_buffer_new(MAX_TOKENS * rows * 4);
    m.q = check_buffer_new(blocks * 32);
    m.d = check_buffer_new(blocks * 4);
    m.sum = check_buffer_new(blocks * 4);
    m.xsum = check_buffer_new(blocks * 4);
    m.tables = check_buffer_new(blocks * ES_TABLE_BYTES);
    m.scalar_tables = check_buffer_new(blocks * ES_TABLE_BYTES);
    m.rounded = check_buffer_new(blocks * ES_ROUNDED_BYTES);
    m.rounded_d = check_buffer_new(blocks * 4);
    m.scalar_d = check_buffer_new(blocks * 4);
    m.rounded_y = check_buffer_new(MAX_TOKENS * rows * 4);
    m.scalar_y = check_buffer_new(MAX_TOKENS * rows * 4);
#if defined(__x86_64__) || defined(__aarch64__)
    check_case(count,
               m.truth || (table->slice_lut != scalar->slice_lut &&
                           table->slice_mad != scalar->slice_mad &&
                           table->bst_lut != scalar->bst_lut && table->bst_mad != scalar->bst_mad),
               "level has kernels of its own", isa, 0, 0);
#endif
    for (int i = 0; i < N_CASES; i++) {
        group_case(&m);
    }
    for (int i = 0; i < N_CASES; i++) {
        ternary_case(&m);
    }
    check_buffer *all[] = {
        &m.w,        &m.y,       &m.expected,      &m.q,       &m.d,         &m.sum,
        &m.xsum,     &m.tables,  &m.scalar_tables, &m.rounded, &m.rounded_d, &m.rounded_y,
        &m.scalar_d, &m.scalar_y};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        check_buffer_free(all[i]);
    }
}

int check_bitslice(void) {
    return check_each_isa("bitslice", bitslice_cases);
}
