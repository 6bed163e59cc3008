/* Formats without zeros: scalar against the codes that were packed, every other instruction set against scalar,
 * products of expanded tiles against products of what is stored, and damaged offsets, words, columns and
 * places refused. */
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
static const int DENSITIES[] = {0, 1, 5, 13, 77, 128, 200, 256, FULL_OR_EMPTY, EVERY_BYTE};
#define LENGTH(array) ((int)(sizeof(array) / sizeof((array)[0])))
enum { MAX_BYTES = 64 + MAX_TILES * MAX_BLOCKS * 1122 + 128 };
/* What is packed from what: csr holds both kinds of codes. */
static const struct {
    int32_t format, dense;
} FORMATS[] = {{ES_FORMAT_BMP8, ES_FORMAT_Q8}, {ES_FORMAT_BMP4, ES_FORMAT_Q4},
               {ES_FORMAT_CSR, ES_FORMAT_Q8},  {ES_FORMAT_CSR, ES_FORMAT_Q4},
               {ES_FORMAT_NM8, ES_FORMAT_Q8},  {ES_FORMAT_NM4, ES_FORMAT_Q4}};

typedef struct functions {
    es_bitmap_dot *dot;
    es_bitmap_expand *expand;
} functions;

static functions functions_of(const es_kernels *table, int32_t format) {
    switch (format) {
    case ES_FORMAT_BMP8:
        return (functions){table->bmp8_dot, table->bmp8_expand};
    case ES_FORMAT_BMP4:
        return (functions){table->bmp4_dot, table->bmp4_expand};
    case ES_FORMAT_CSR:
        return (functions){table->csr_dot, table->csr_expand};
    case ES_FORMAT_NM8:
        return (functions){table->nm8_dot, table->nm8_expand};
    default:
        return (functions){table->nm4_dot, table->nm4_expand};
    }
}

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
static size_t fill_dense(bench *m, int32_t n_rows, int32_t k, int format, int density,
                         int two_of_four) {
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
            int n_kept = 0; /* of the group of four */
            for (int32_t i = 0; i < 32; i++) {
                const int32_t column = (int32_t)b * 32 + i, most = nibble ? 7 : 127;
                int32_t code = check_range(&m->random, -most - 1, most);
                code = m->pattern == EXTREME ? (code & 1 ? most : -most - 1) : code;
                code = column < k && is_live(m, density, row, column) ? code : 0;
                n_kept = i % 4 == 0 ? 0 : n_kept;
                code = two_of_four && n_kept == 2 ? 0 : code;
                n_kept += code != 0;
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

/* Whether a matrix is refused with one bit of a byte changed. */
static int refuses(uint8_t *w, size_t at, uint8_t bit, const es_weight *weight) {
    w[at] ^= bit;
    const int valid = weight->format == ES_FORMAT_CSR     ? es_csr_is_valid(weight)
                      : es_is_two_of_four(weight->format) ? es_nm_is_valid(weight)
                                                          : es_bitmap_is_valid(weight);
    w[at] ^= bit;
    return !valid;
}

/* A damaged offset, word, column, place or length is refused; undamaged again it is accepted. */
static int is_guarded(bench *m, uint8_t *w, size_t n_bytes, es_weight weight) {
    int passed = !refuses(w, 0, 0, &weight);
    const size_t n_tiles = ((size_t)weight.n_rows + 15) / 16, first = 8 * (n_tiles + 1);
    if (es_is_two_of_four(weight.format)) {
        /* Both places of a group are made to be the same, or to stand the wrong way round. */
        uint16_t *places = (uint16_t *)(void *)(w + ES_BITMAP_ROWS * 2);
        const uint16_t second = places[1];
        places[1] = places[0];
        passed &= refuses(w, 0, 0, &weight);
        places[1] = second;
    } else {
        passed &= refuses(w, 8 * n_tiles + check_random(&m->random) % 8, 1, &weight);
        passed &= refuses(w, 8 * (check_random(&m->random) % (n_tiles + 1)) + 7, 1, &weight);
    }
    if (weight.format == ES_FORMAT_CSR) {
        passed &= refuses(w, first, 1, &weight);        /* length of a block */
        passed &= refuses(w, first + 1, 0x80, &weight); /* number of words */
        const unsigned n_words = w[first + 1] >> 3;
        passed &=
            n_words == 0 || refuses(w, first + 2, 1, &weight); /* the first row's first entry */
        /* The last entry of the first block: no such column, a code of 0. */
        const size_t end = first + (w[first] | (w[first + 1] & 7u) << 8);
        passed &= n_words == 0 || refuses(w, end - 2, 0x20, &weight);
        if (n_words > 0) {
            const uint8_t code = w[end - 1];
            w[end - 1] = 0;
            passed &= refuses(w, 0, 0, &weight);
            w[end - 1] = code;
        }
    } else if (!es_is_two_of_four(weight.format)) {
        /* A lost bit moves what follows by a byte, or in bmp4 maybe not at all; blocks that follow are then
         * read elsewhere and could by chance end where they should. */
        passed &=
            weight.format == ES_FORMAT_BMP4 || weight.k > 32 || refuses(w, first + 32, 1, &weight);
    }
    weight.n_bytes = n_bytes - 64;
    passed &= refuses(w, 0, 0, &weight);
    weight.n_bytes = n_bytes;
    return passed && !refuses(w, 0, 0, &weight);
}

static void one_case(bench *m, int32_t n_rows, int32_t k, int32_t format, int32_t dense,
                     int density) {
    const functions own = functions_of(m->table, format);
    if (check_skips() ||
        !(check_wants((check_any_kernel *)own.dot) || check_wants((check_any_kernel *)own.expand) ||
          check_wants((check_any_kernel *)m->table->split_q16))) {
        return;
    }
    const size_t n_blocks = ((size_t)k + 31) / 32;
    const size_t src_bytes = fill_dense(m, n_rows, k, dense, density, es_is_two_of_four(format));
    const uint8_t *src = check_tail(&m->dense, src_bytes);
    es_bitmap_job job = {.src_format = dense,
                         .dst_format = format,
                         .n_rows = n_rows,
                         .k = k,
                         .src = src,
                         .src_bytes = src_bytes};
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
    const size_t y_bytes = (size_t)n_tiles * 16 * sizeof(float);
    const size_t first = es_is_two_of_four(format) ? 0 : 8 * (size_t)(n_tiles + 1);
    const size_t nm_bytes = n_blocks * es_nm_block_bytes(format);
    float *y = check_tail(&m->y, y_bytes), *expected = check_tail(&m->expected, y_bytes);
    const es_q16 x = fill_q16(m, n_blocks);
    uint8_t *halves = check_tail(&m->split, n_blocks * 64);
    const es_split split = {halves, m->centre};
    memset(halves, 0x55, n_blocks * 64);
    memset(m->centre, 0x55, sizeof m->centre);
    if (m->table->split_q16 != NULL) {
        m->table->split_q16(halves, m->centre, x.q, (int32_t)n_blocks);
    }
    memset(y, 0x55, y_bytes);
    own.dot(y, w + first, n_tiles, &x, &split, (int32_t)n_blocks);
    functions_of(m->scalar, format)
        .dot(expected, w + first, n_tiles, &x, &split, (int32_t)n_blocks);
    passed = memcmp(y, expected, y_bytes) == 0;
    for (int32_t row = 0; m->truth && passed && row < n_rows; row++) {
        passed = is_product(m, y[row], row, src, &x, n_blocks, dense);
    }
    check_case(m->count, passed, "dot", format, n_rows, k);

    /* Every tile expanded, and the dense product of it. */
    const size_t tile_bytes = 2 * n_blocks * es_block_bytes(es_dense_format(format));
    uint8_t *tiles = check_tail(&m->tiles, tile_bytes);
    passed = 1;
    for (int32_t tile = 0; tile < n_tiles; tile++) {
        uint64_t start = nm_bytes * (size_t)tile;
        float product[16];
        if (!es_is_two_of_four(format)) {
            memcpy(&start, w + 8 * tile, sizeof start);
        }
        memset(tiles, 0x55, tile_bytes);
        own.expand(tiles, w + start, (int32_t)n_blocks);
        (es_dense_format(format) == ES_FORMAT_Q8 ? m->table->q8_dot : m->table->q4_dot)(
            product, 16, tiles, 2, &x, 1, (int32_t)n_blocks);
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
    int kept = 0;
    for (int i = 0; i < LENGTH(FORMATS); i++) {
        const functions own = functions_of(table, FORMATS[i].format);
        const functions plain = functions_of(scalar, FORMATS[i].format);
        kept |= own.dot == plain.dot ||
                (own.expand == plain.expand && FORMATS[i].format != ES_FORMAT_CSR);
    }
    check_case(count, isa == ES_ISA_SCALAR || !kept, "level has kernels of its own", isa, 0, 0);
    static const int32_t ROWS[] = {1, 7, 8, 9, 16, 17, 24, 33, 48};
    static const int32_t COLUMNS[] = {1, 31, 32, 33, 65, 96, 257, 288};
    for (m.pattern = 0; m.pattern < N_PATTERNS; m.pattern++) {
        for (int d = 0; d < LENGTH(DENSITIES); d++) {
            for (int r = 0; r < LENGTH(ROWS); r++) {
                for (int c = 0; c < LENGTH(COLUMNS); c++) {
                    for (int i = 0; i < LENGTH(FORMATS); i++) {
                        one_case(&m, ROWS[r], COLUMNS[c], FORMATS[i].format, FORMATS[i].dense,
                                 DENSITIES[d]);
                    }
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
