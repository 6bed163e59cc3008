/* Attention: blocks of tokens and heads that share one kv head, against the scalar kernel; rows of the
 * q8_0 cache, against their definition. */
#include "check/check_support.h"

#include <math.h>
#include <string.h>

enum { MAX_DIM = 256, MAX_ROWS_BYTES = 1 << 20, N_STORED = 2100 };
enum { UNIFORM, PEAKED, EQUAL, WILD, N_PATTERNS };

#define LENGTH(array) ((int)(sizeof(array) / sizeof((array)[0])))

typedef struct bench {
    check_buffer q, k, v, pruned_k, pruned_v, scratch, out, expected;
    uint64_t random;
    const es_kernels *table, *scalar;
    int held_to_truth;
    int types;    /* of the next case: bit 0 keys, bit 1 values */
    int prunes;   /* whether rows of the next case are pruned, which are halfs then */
    int n_pruned; /* cases in which some were */
} bench;

/* n_tokens tokens of n_heads heads; the last token ends at row n_pos. */
typedef struct shape {
    int32_t dim, n_pos, n_tokens, n_heads, window;
} shape;

/* A half of magnitude below 2, or with `wild` any finite one. */
static uint16_t random_half(uint64_t *random, int wild) {
    const uint16_t bits = (uint16_t)check_random(random);
    if (wild) {
        return (bits & 0x7c00) == 0x7c00 ? (uint16_t)(bits & 0x83ff) : bits;
    }
    return (uint16_t)(bits & 0xbfff);
}

/* Fills n rows of the cache; codes and halfs are random, also those beyond a ragged head. */
static void random_rows(const es_cache_rows *rows, int32_t n, uint64_t *random, int wild) {
    uint8_t *to = (void *)rows->data;
    const size_t n_bytes = (size_t)n * rows->row_bytes;
    for (size_t i = 0; i < n_bytes; i++) {
        to[i] = (uint8_t)check_random(random);
    }
    const size_t every = rows->type == ES_CACHE_Q8_0 ? ES_CACHE_BLOCK_BYTES : sizeof(uint16_t);
    for (size_t i = 0; i < n_bytes; i += every) {
        uint16_t half = random_half(random, wild);
        if (rows->type == ES_CACHE_Q8_0 && !wild) {
            half &= 0x9fff; /* steps below 2^-7: values below 1 */
        }
        memcpy(to + i, &half, sizeof half);
    }
}

/* Element i of row j, by the definition of its type. */
static double element(const es_cache_rows *rows, int32_t j, int32_t i) {
    const uint8_t *row = rows->data + (size_t)j * rows->row_bytes;
    uint16_t half;
    if (rows->type == ES_CACHE_F16) {
        memcpy(&half, row + 2 * i, sizeof half);
        return check_half(half);
    }
    row += i / ES_CACHE_BLOCK * ES_CACHE_BLOCK_BYTES;
    memcpy(&half, row, sizeof half);
    return check_half(half) * (int8_t)row[2 + i % ES_CACHE_BLOCK];
}

/* Whether the part's values over its sum are softmax(scale * K q) V over rows [first, end), in double
 * precision, within float rounding; and its maximum the largest score. */
static int truth(const float *part, const float *q, const es_cache_rows *k, const es_cache_rows *v,
                 int32_t dim, int32_t first, int32_t end, float scale) {
    static double weight[ES_CACHE_CHUNK], total[MAX_DIM];
    double top = -INFINITY, sum = 0;
    for (int32_t j = first; j < end; j++) {
        weight[j] = 0;
        for (int32_t i = 0; i < dim; i++) {
            weight[j] += (double)q[i] * element(k, j, i);
        }
        weight[j] *= (double)scale;
        top = fmax(top, weight[j]);
    }
    memset(total, 0, sizeof total);
    for (int32_t j = first; j < end; j++) {
        const double e = exp(weight[j] - top);
        sum += e;
        for (int32_t i = 0; i < dim; i++) {
            total[i] += e * element(v, j, i);
        }
    }
    int passed = fabs((double)part[ES_PART_TOP] - top) <= 1e-4 * (1 + fabs(top));
    for (int32_t i = 0; i < dim; i++) {
        /* |v| < 2, and a score of some tens is off by some 1e-5. */
        const double out = (double)part[ES_PART_VALUES + i] / (double)part[ES_PART_SUM];
        passed = passed && fabs(out - total[i] / sum) <= 2e-4;
    }
    return passed;
}

/* Consecutive tokens, as of a prompt; with a window, or with ranges that have nothing in common. */
static void place_tokens(es_attention_token *tokens, const shape *s, uint64_t *random,
                         int scattered) {
    for (int32_t t = 0; t < s->n_tokens; t++) {
        const int32_t end = s->n_pos - (s->n_tokens - 1 - t);
        tokens[t].end = end > 1 ? end : 1;
        tokens[t].first = s->window > 0 && end > s->window ? end - s->window : 0;
        if (scattered) {
            tokens[t].first = check_range(random, 0, s->n_pos - 1);
            tokens[t].end = check_range(random, tokens[t].first + 1, s->n_pos);
        }
    }
}

/* Whether two kernels' parts are the same bits; what lies between sum and values is nobody's. */
static int same_part(const float *a, const float *b, int32_t dim) {
    return memcmp(a, b, 2 * sizeof *a) == 0 &&
           memcmp(a + ES_PART_VALUES, b + ES_PART_VALUES, (size_t)dim * sizeof *a) == 0;
}

/* Prunes rows [0, n) in `to`, with what may be read behind them; the whole ones become as pruned. */
static void prune_rows(bench *m, es_cache_rows *rows, int32_t n, int32_t dim, check_buffer *to) {
    const int32_t n_kept = check_range(&m->random, 1, dim);
    rows->n_pruned = n;
    rows->pruned_bytes = es_sparse_row_bytes(dim, n_kept);
    uint8_t *pruned = check_tail(to, (size_t)n * rows->pruned_bytes + ES_PRUNED_SLACK);
    rows->pruned = pruned;
    for (int32_t j = 0; j < n; j++) {
        uint16_t *whole = (void *)(rows->data + (size_t)j * rows->row_bytes);
        m->scalar->prune_row(pruned + (size_t)j * rows->pruned_bytes, whole, dim, n_kept);
    }
    m->scalar->expand_rows((void *)rows->data, pruned, rows->pruned_bytes, n, dim);
}

/* Gives a kernel that reads pruned rows no others: NaN lies in their places meanwhile. */
static void attend_pruned(bench *m, const es_attention_token *tokens, const shape *s,
                          const es_cache_rows *k, const es_cache_rows *v, float scale,
                          float *scratch) {
    static uint8_t kept[2][ES_CACHE_CHUNK * MAX_DIM * sizeof(uint16_t)];
    const size_t n_bytes = (size_t)k->n_pruned * k->row_bytes;
    memcpy(kept[0], k->data, n_bytes);
    memcpy(kept[1], v->data, n_bytes);
    memset((void *)k->data, 0x7e, n_bytes);
    memset((void *)v->data, 0x7e, n_bytes);
    m->table->attention(tokens, s->n_tokens, s->n_heads, k, v, s->dim, scale, scratch);
    memcpy((void *)k->data, kept[0], n_bytes);
    memcpy((void *)v->data, kept[1], n_bytes);
}

static void one_case(bench *m, check_count *count, const shape *s, int pattern, int scattered) {
    if (check_skips() || !check_wants((check_any_kernel *)m->table->attention)) {
        return;
    }
    const size_t head = (size_t)s->dim, n_queries = (size_t)(s->n_tokens * s->n_heads);
    const size_t part_floats = es_attention_part_floats(head);
    const size_t q_bytes = n_queries * head * sizeof(float);
    const size_t out_bytes = n_queries * part_floats * sizeof(float);
    float *q = check_tail(&m->q, q_bytes);
    const int types = m->prunes ? 0 : m->types++;
    es_cache_rows k = {.type = types & 1, .row_bytes = es_cache_row_bytes(types & 1, s->dim)};
    const int type_v = types >> 1 & 1;
    es_cache_rows v = {.type = type_v, .row_bytes = es_cache_row_bytes(type_v, s->dim)};
    k.data = check_tail(&m->k, (size_t)s->n_pos * k.row_bytes);
    v.data = check_tail(&m->v, (size_t)s->n_pos * v.row_bytes);
    float *out = check_tail(&m->out, out_bytes), *expected = check_tail(&m->expected, out_bytes);
    const size_t n_scratch = es_attention_scratch(n_queries, head);
    float *scratch = check_tail(&m->scratch, n_scratch * sizeof(float));
    const float scale = (pattern == PEAKED ? 8.0f : 1.0f) / sqrtf((float)s->dim);
    for (size_t i = 0; i < n_queries * head; i++) {
        q[i] = pattern == EQUAL ? 0.0f : 2.0f * check_uniform(&m->random);
    }
    random_rows(&k, s->n_pos, &m->random, pattern == WILD);
    random_rows(&v, s->n_pos, &m->random, pattern == WILD);
    if (m->prunes) {
        const int32_t n_groups = check_range(&m->random, 1, (s->n_pos - 1) / ES_KV_GROUP);
        const int32_t n_pruned = n_groups * ES_KV_GROUP;
        prune_rows(m, &k, n_pruned, s->dim, &m->pruned_k);
        prune_rows(m, &v, n_pruned, s->dim, &m->pruned_v);
        m->n_pruned++;
    }
    es_attention_token tokens[ES_ATTENTION_QUERIES];
    place_tokens(tokens, s, &m->random, scattered);
    memset(out, 0x55, out_bytes);
    memset(expected, 0xaa, out_bytes);
    float *results[] = {out, expected};
    for (int r = 0; r < 2; r++) {
        for (int32_t t = 0; t < s->n_tokens; t++) {
            tokens[t].q = q + (size_t)(t * s->n_heads) * head;
            tokens[t].part = results[r] + (size_t)(t * s->n_heads) * part_floats;
        }
        if (r == 0 && k.n_pruned > 0) {
            attend_pruned(m, tokens, s, &k, &v, scale, scratch);
        } else {
            (r == 0 ? m->table : m->scalar)
                ->attention(tokens, s->n_tokens, s->n_heads, &k, &v, s->dim, scale, scratch);
        }
    }
    int passed = 1;
    for (size_t i = 0; i < n_queries; i++) {
        const es_attention_token *token = &tokens[i / (size_t)s->n_heads];
        const float *part = out + i * part_floats;
        passed = passed && same_part(part, expected + i * part_floats, s->dim);
        if (m->held_to_truth && pattern != WILD) {
            passed = passed &&
                     truth(part, q + i * head, &k, &v, s->dim, token->first, token->end, scale);
        }
    }
    check_case(count, passed, "head_dim, positions, 100 * tokens + 10 * heads + pattern", s->dim,
               s->n_pos, 100 * s->n_tokens + 10 * s->n_heads + pattern);
}

/* Heads of one token, as in decoding: every length near a tile's ends. */
static void decode_cases(bench *m, check_count *count, int32_t dim, int pattern) {
    static const int32_t lengths[] = {
        1, 2, 3, 7, 8, 9, 15, 16, 17, 23, 31, 32, 33, 47, 48, 49, 63, 64, 65, 200, ES_CACHE_CHUNK};
    for (int n = 0; n < LENGTH(lengths); n++) {
        const shape s = {dim, lengths[n], 1, 1 + (n + dim) % 5, 0};
        one_case(m, count, &s, pattern, 0);
    }
}

/* Blocks of 1 to 9 tokens, and a full one, with and without a window. */
static void block_cases(bench *m, check_count *count, int32_t dim, int pattern) {
    static const int32_t windows[] = {0, 1, 5, 20};
    for (int32_t n_tokens = 1; n_tokens <= 9; n_tokens++) {
        for (int w = 0; w < LENGTH(windows); w++) {
            const int32_t n_heads = check_range(&m->random, 1, ES_ATTENTION_QUERIES / n_tokens);
            const shape s = {dim, check_range(&m->random, n_tokens, 70), n_tokens, n_heads,
                             windows[w]};
            one_case(m, count, &s, pattern, 0);
            one_case(m, count, &s, pattern, 1);
        }
    }
    const shape full = {dim, 40, ES_ATTENTION_QUERIES, 1, 0};
    one_case(m, count, &full, pattern, 0);
    const shape wide = {dim, 40, 1, ES_ATTENTION_QUERIES, 0};
    one_case(m, count, &wide, pattern, 0);
}

/* One row: steps are halfs of the largest magnitude over 127, codes the nearest multiples of it before it
 * was rounded to a half. */
static void store_case(bench *m, check_count *count, int32_t n, int kind) {
    if (check_skips() || !check_wants((check_any_kernel *)m->table->store_q8_0)) {
        return;
    }
    const size_t row_bytes = es_cache_row_bytes(ES_CACHE_Q8_0, n);
    uint8_t *row = check_tail(&m->k, row_bytes), *other = check_tail(&m->v, row_bytes);
    float *x = check_tail(&m->q, (size_t)n * sizeof *x);
    for (int32_t i = 0; i < n; i++) {
        const int zero = kind == 2 && check_random(&m->random) % 4 != 0;
        x[i] = zero ? 0.0f
                    : ldexpf(check_uniform(&m->random),
                             kind == 1 ? check_range(&m->random, -110, 20) : 3);
    }
    memset(row, 0x55, row_bytes);
    memset(other, 0xaa, row_bytes);
    m->table->store_q8_0(row, x, n);
    m->scalar->store_q8_0(other, x, n);
    int passed = memcmp(row, other, row_bytes) == 0;
    for (int32_t first = 0; first < n; first += ES_CACHE_BLOCK, row += ES_CACHE_BLOCK_BYTES) {
        double amax = 0;
        for (int32_t i = first; i < n && i < first + ES_CACHE_BLOCK; i++) {
            amax = fmax(amax, fabs((double)x[i]));
        }
        uint16_t half;
        memcpy(&half, row, sizeof half);
        const double step = amax < 1e-30 ? 0 : amax / 127;
        passed = passed && fabs(check_half(half) - step) <= step * 0x1.01p-11 + 0x1p-25;
        for (int32_t i = 0; i < ES_CACHE_BLOCK; i++) {
            const double ratio = first + i < n && step > 0 ? (double)x[first + i] / step : 0;
            passed = passed && fabs((int8_t)row[2 + i] - ratio) <= 0.5001;
        }
    }
    check_case(count, passed, "store_q8_0: elements, kind", n, kind, 0);
}

/* Some groups of rows pruned, of one token and of several, with and without a window. */
static void pruned_cases(bench *m, check_count *count, int32_t dim, int pattern) {
    static const int32_t lengths[] = {65, 80, 127, 129, 193, ES_CACHE_CHUNK};
    m->prunes = m->table->attention_reads_pruned;
    for (int n = 0; m->prunes && n < LENGTH(lengths); n++) {
        for (int32_t n_heads = 1; n_heads <= 5; n_heads++) {
            const int32_t window = n_heads % 2 * 70;
            const shape one = {dim, lengths[n], 1, n_heads, window};
            one_case(m, count, &one, pattern, 0);
            const shape several = {dim, lengths[n], 3, n_heads, window};
            one_case(m, count, &several, pattern, n_heads == 2);
        }
    }
    m->prunes = 0;
}

static void attention_cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                            int32_t isa) {
    static const int32_t dims[] = {2,  3,  7,  8,  9,  15, 16,  17,  24,  31,  32, 33,
                                   48, 63, 64, 72, 80, 96, 100, 112, 128, 130, 256};
    bench m = {.random = 1729, .table = table, .scalar = scalar};
    m.held_to_truth = isa == ES_ISA_SCALAR;
    const size_t n_part_floats = es_attention_part_floats(MAX_DIM);
    m.q = check_buffer_new(ES_ATTENTION_QUERIES * MAX_DIM * sizeof(float));
    m.out = check_buffer_new(ES_ATTENTION_QUERIES * n_part_floats * sizeof(float));
    m.expected = check_buffer_new(ES_ATTENTION_QUERIES * n_part_floats * sizeof(float));
    m.k = check_buffer_new(MAX_ROWS_BYTES);
    m.v = check_buffer_new(MAX_ROWS_BYTES);
    m.pruned_k = check_buffer_new(MAX_ROWS_BYTES);
    m.pruned_v = check_buffer_new(MAX_ROWS_BYTES);
    m.scratch =
        check_buffer_new(es_attention_scratch(ES_ATTENTION_QUERIES, MAX_DIM) * sizeof(float));
    check_case(count, isa == ES_ISA_SCALAR || table->attention != scalar->attention,
               "level has kernels of its own", isa, 0, 0);
    for (int pattern = 0; pattern < N_PATTERNS; pattern++) {
        for (int d = 0; d < LENGTH(dims); d++) {
            decode_cases(&m, count, dims[d], pattern);
            block_cases(&m, count, dims[d], pattern);
            pruned_cases(&m, count, dims[d], pattern);
        }
        const shape distant[] = {{64, ES_CACHE_CHUNK, 5, 3, 0},
                                 {128, ES_CACHE_CHUNK, 1, 4, 100},
                                 {128, ES_CACHE_CHUNK, 4, 4, 30}};
        for (int i = 0; i < LENGTH(distant); i++) {
            one_case(&m, count, &distant[i], pattern, 0);
        }
    }
    for (int i = 0; i < N_STORED; i++) {
        store_case(&m, count, i < MAX_DIM ? i + 1 : check_range(&m.random, 1, MAX_DIM), i % 3);
    }
    const int prunes =
        table->attention_reads_pruned && check_wants((check_any_kernel *)table->attention);
    check_case(count, !prunes || m.n_pruned > 0, "pruned rows were met", isa, 0, 0);
    check_buffer *all[] = {&m.q,        &m.k,       &m.v,   &m.pruned_k,
                           &m.pruned_v, &m.scratch, &m.out, &m.expected};
    for (int i = 0; i < LENGTH(all); i++) {
        check_buffer_free(all[i]);
    }
}

int check_attention(void) {
    return check_each_isa("attention", attention_cases);
}
