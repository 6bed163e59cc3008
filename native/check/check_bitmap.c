/* Bitmap formats: scalar against the codes that were packed, every other instruction set against scalar,
 * products of expanded tiles against products of bitmaps, and damaged offsets and words refused. */
#include "check/check_support.h"
#include "kernels.h"
#include "kernels/dense/dense.h"
#include "validate.h"

#include <math.h>
#include <string.h>

enum { MAX_BLOCKS = 9, MAX_TILES = 3, MAX_ROWS = MAX_TILES * ES_BITMAP_ROWS };
enum { UNIFORM, EXTREME, WILD, N_PATTERNS };
/* Densities in 256ths, and two of words: only full and empty ones, and every byte in turn. */
enum { FULL_OR_EMPTY = 300, EVERY_BYTE = 301 };
static const int DENSITIES[] = {0, 1, 13, 77, 128, 200, 256, FULL_OR_EMPTY, EVERY_BYTE};
#define LENGTH(array) ((int)(sizeof(array) / sizeof((array)[0])))
enum { MAX_BYTES = 64 + MAX_TILES * MAX_BLOCKS * (ES_BITMAP_HEAD + 512) + 128 };

typedef struct bench {
    check_buffer dense, w, y, expected, q, split, tiles;
    float d[MAX_BLOCKS], xsum[MAX_BLOCKS];
    int32_t sum[MAX_BLOCKS], centre[MAX_BLOCKS];
    int8_t codes[MAX_ROWS][MAX_BLOCKS * 32];
    uint64_t random;
    check_count *count;
    const es_kernels *table, *scalar;
    int truth; /* the table is scalar: hold it against the codes */
    int pattern;
    unsigned byte;
} bench;

static int is_live(bench *m, int density, int32_t row, int32_t column) {
    const uint32_t random = check_random(&m->random) % 256;
    if (density == FULL_OR_EMPTY) {
        return (row / ES_BITMAP_ROWS + column / 4) % 2;
    }
    if (density == EVERY_BYTE) { /* two rows of four columns are a byte of the bitmap */
        const unsigned byte = (m->byte + (unsigned)(row / 2 * 8 + column / 4)) & 255;
        return byte >> (row % 2 * 4 + column % 4) & 1;
    }
    return (int)random < density;
}

/* Dense tiles with zeros in them, as the repacker gets them. */
static size_t fill_dense(bench *m, int32_t n_rows, int32_t k, int format, int density) {
    const size_t n_blocks = ((size_t)k + 31) / 32, block = es_block_bytes(format);
    const size_t n_bytes = ((size_t)n_rows + 7) / 8 * n_blocks * block;
    uint8_t *w = check_tail(&m->dense, n_bytes);
    const int nibble = format == ES_FORMAT_Q4;
    memset(w, 0, n_bytes);
    memset(m->codes, 0, sizeof m->codes);
    m->byte++;
    for (int32_t row = 0; row < n_rows; row++) {
        for (size_t b = 0; b < n_blocks; b++) {
            uint8_t *at = w + ((size_t)row / 8 * n_blocks + b) * block;
            uint16_t half = (uint16_t)check_random(&m->random);
            half = m->pattern == WILD ? half : (uint16_t)(0x2000 | (half & 0x83ff));
            half = (half & 0x7c00) == 0x7c00 ? (uint16_t)(half & 0xfbff) : half;
            memcpy(at + 2 * (row % 8), &half, 2);
            for (int32_t i = 0; i < 32; i++) {
                const int32_t column = (int32_t)b * 32 + i, most = nibble ? 7 : 127;
                int32_t code = check_range(&m->random, -most - 1, most);
                code = m->pattern == EXTREME ? (code & 1 ? most : -most - 1) : code;
                code = column < k && is_live(m, density, row, column) ? code : 0;
                m->codes[row][column] = (int8_t)code;
                uint8_t *codes = at + ES_SCALE_BYTES + 2 * (row % 8) + i % 2;
                if (nibble) {
                    codes[i % 16 / 2 * 16] |= (uint8_t)((code + 8) << (i < 16 ? 0 : 4));
                } else {
                    codes[i / 2 * 16] = (uint8_t)code;
                }
            }
        }
    }
    return n_bytes;
}

static es_q16 fill_q16(bench *m, size_t n_blocks) {
    int16_t *q = check_tail(&m->q, n_blocks * 64);
    for (size_t b = 0; b < n_blocks; b++) {
        m->sum[b] = 0;
        for (size_t i = 0; i < 32; i++) {
            const int16_t extreme = (int16_t)(check_random(&m->random) & 1 ? 32767 : -32767);
            q[b * 32 + i] =
                m->pattern == EXTREME ? extreme : (int16_t)check_range(&m->random, -32767, 32767);
            m->sum[b] += q[b * 32 + i];
        }
        const float near = check_uniform(&m->random) * 1e-4f;
        m->d[b] = m->pattern == WILD ? ldexpf(near, check_range(&m->random, -110, 60)) : near;
        m->xsum[b] = m->d[b] * (float)m->sum[b];
    }
    return (es_q16){.q = q, .d = m->d, .sum = m->sum, .xsum = m->xsum, .stride_blocks = n_blocks};
}

/* Whether y is the product of a row, in double precision. */
static int is_product(const bench *m, float y, int32_t row, const uint8_t *dense, const es_q16 *x,
                      size_t n_blocks, int format) {
    double total = 0, magnitude = 0;
    for (size_t b = 0; b < n_blocks; b++) {
        uint16_t half;
        memcpy(&half,
               dense + ((size_t)row / 8 * n_blocks + b) * es_block_bytes(format) + 2 * (row % 8),
               2);
        double sum = 0;
        for (size_t i = 0; i < 32; i++) {
            sum += (double)m->codes[row][b * 32 + i] * x->q[b * 32 + i];
        }
        const double term = check_half(half) * (double)x->d[b] * sum;
        total += term;
        magnitude += fabs(term);
    }
    return fabs((double)y - total) <=
           1e-6 * ((double)n_blocks + 2) * magnitude + (double)n_blocks * 0x1p-122;
}

/* A damaged offset, word or length is refused; undamaged again it is accepted. */
static int is_guarded(bench *m, uint8_t *w, size_t n_bytes, es_weight weight) {
    int passed = es_bitmap_is_valid(&weight);
    const size_t n_tiles = ((size_t)weight.n_rows + 15) / 16;
    const size_t places[] = {0, 8 * n_tiles + check_random(&m->random) % 8,
                             8 * (check_random(&m->random) % (n_tiles + 1)) + 7,
                             8 * (n_tiles + 1) + 32};
    for (int i = 0; i < LENGTH(places); i++) {
        /* A lost bit of the last place moves what follows by a byte, or in bmp4 maybe not at all; blocks
         * that follow are then read elsewhere and could by chance end where they should. */
        const int may_pass = i == 3 && (weight.format == ES_FORMAT_BMP4 || weight.k > 32);
        w[places[i]] ^= 0x01;
        passed &= may_pass || !es_bitmap_is_valid(&weight);
        w[places[i]] ^= 0x01;
    }
    weight.n_bytes = n_bytes - 64;
    passed &= !es_bitmap_is_valid(&weight);
    weight.n_bytes = n_bytes;
    return passed && es_bitmap_is_valid(&weight);
}

static void one_case(bench *m, int32_t n_rows, int32_t k, int format, int density) {
    if (check_skips()) {
        return;
    }
    const int dense = format == ES_FORMAT_BMP8 ? ES_FORMAT_Q8 : ES_FORMAT_Q4;
    const size_t n_blocks = ((size_t)k + 31) / 32;
    const size_t src_bytes = fill_dense(m, n_rows, k, dense, density);
    const uint8_t *src = check_tail(&m->dense, src_bytes);
    es_bitmap_job job = {
        .src_format = dense, .n_rows = n_rows, .k = k, .src = src, .src_bytes = src_bytes};
    const int64_t n_bytes = es_bitmap_pack(&job);
    uint8_t *w = check_tail(&m->w, (size_t)n_bytes);
    memset(w, 0, (size_t)n_bytes);
    job.dst = w;
    job.dst_bytes = (size_t)n_bytes;
    int passed = n_bytes > 0 && es_bitmap_pack(&job) == n_bytes;
    const es_weight weight = {
        .format = format, .n_rows = n_rows, .k = k, .data = w, .n_bytes = (size_t)n_bytes};
    if (m->truth) {
        passed &= is_guarded(m, w, (size_t)n_bytes, weight);
    }
    check_case(m->count, passed, "pack", format, n_rows, k);

    const int32_t n_tiles = (n_rows + 15) / 16;
    const size_t y_bytes = (size_t)n_tiles * 16 * sizeof(float), first = 8 * (size_t)(n_tiles + 1);
    float *y = check_tail(&m->y, y_bytes), *expected = check_tail(&m->expected, y_bytes);
    const es_q16 x = fill_q16(m, n_blocks);
    es_split split = {check_tail(&m->split, n_blocks * 64), m->centre};
    if (m->table->split_q16 != NULL) {
        m->table->split_q16(check_tail(&m->split, n_blocks * 64), m->centre, x.q,
                            (int32_t)n_blocks);
    }
    const int is_bmp8 = format == ES_FORMAT_BMP8;
    memset(y, 0x55, y_bytes);
    (is_bmp8 ? m->table->bmp8_dot : m->table->bmp4_dot)(y, w + first, n_tiles, &x, &split,
                                                        (int32_t)n_blocks);
    (is_bmp8 ? m->scalar->bmp8_dot : m->scalar->bmp4_dot)(expected, w + first, n_tiles, &x, &split,
                                                          (int32_t)n_blocks);
    passed = memcmp(y, expected, y_bytes) == 0;
    for (int32_t row = 0; m->truth && passed && row < n_rows; row++) {
        passed = is_product(m, y[row], row, src, &x, n_blocks, dense);
    }
    check_case(m->count, passed, "dot", format, n_rows, k);

    /* Every tile expanded, and the dense product of it. */
    const size_t tile_bytes = 2 * n_blocks * es_block_bytes(dense);
    uint8_t *tiles = check_tail(&m->tiles, tile_bytes);
    passed = 1;
    for (int32_t tile = 0; tile < n_tiles; tile++) {
        uint64_t start;
        float product[16];
        memcpy(&start, w + 8 * tile, sizeof start);
        memset(tiles, 0x55, tile_bytes);
        (is_bmp8 ? m->table->bmp8_expand : m->table->bmp4_expand)(tiles, w + start,
                                                                  (int32_t)n_blocks);
        (is_bmp8 ? m->table->q8_dot : m->table->q4_dot)(product, 16, tiles, 2, &x, 1,
                                                        (int32_t)n_blocks);
        passed &= memcmp(product, expected + 16 * tile, sizeof product) == 0;
    }
    check_case(m->count, passed, "expand", format, n_rows, k);
}

static void cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                  int32_t isa) {
    static bench m;
    memset(&m, 0, sizeof m);
    m.random = 20241127;
    m.count = count;
    m.table = table;
    m.scalar = scalar;
    m.truth = isa == ES_ISA_SCALAR;
    m.dense = check_buffer_new((MAX_ROWS / 8 + 1) * MAX_BLOCKS * 272);
    m.w = check_buffer_new(MAX_BYTES);
    m.y = check_buffer_new(MAX_ROWS * sizeof(float));
    m.expected = check_buffer_new(MAX_ROWS * sizeof(float));
    m.q = check_buffer_new(MAX_BLOCKS * 64);
    m.split = check_buffer_new(MAX_BLOCKS * 64);
    m.tiles = check_buffer_new(2 * MAX_BLOCKS * 272);
    const int kept = table->bmp8_dot == scalar->bmp8_dot || table->bmp4_dot == scalar->bmp4_dot ||
                     table->bmp8_expand == scalar->bmp8_expand ||
                     table->bmp4_expand == scalar->bmp4_expand;
    check_case(count, isa == ES_ISA_SCALAR || !kept, "level has kernels of its own", isa, 0, 0);
    static const int32_t ROWS[] = {1, 7, 8, 9, 16, 17, 24, 33, 48};
    static const int32_t COLUMNS[] = {1, 31, 32, 33, 65, 96, 257, 288};
    for (m.pattern = 0; m.pattern < N_PATTERNS; m.pattern++) {
        for (int d = 0; d < LENGTH(DENSITIES); d++) {
            for (int r = 0; r < LENGTH(ROWS); r++) {
                for (int c = 0; c < LENGTH(COLUMNS); c++) {
                    one_case(&m, ROWS[r], COLUMNS[c], ES_FORMAT_BMP8, DENSITIES[d]);
                    one_case(&m, ROWS[r], COLUMNS[c], ES_FORMAT_BMP4, DENSITIES[d]);
                }
            }
        }
    }
    check_buffer *all[] = {&m.dense, &m.w, &m.y, &m.expected, &m.q, &m.split, &m.tiles};
    for (int i = 0; i < LENGTH(all); i++) {
        check_buffer_free(all[i]);
    }
}

int check_bitmap(void) {
    return check_each_isa("bitmap", cases);
}
