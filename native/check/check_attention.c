/* Attention: blocks of tokens and heads that share one kv head, against the scalar kernel. */
#include "check/check_support.h"

#include <math.h>
#include <string.h>

enum { MAX_DIM = 256, MAX_POSITIONS = 1000, MAX_ROWS_BYTES = 1 << 20 };
enum { UNIFORM, PEAKED, EQUAL, WILD, N_PATTERNS };

#define LENGTH(array) ((int)(sizeof(array) / sizeof((array)[0])))

typedef struct bench {
    check_buffer q, k, v, scratch, scores, out, expected;
    uint64_t random;
    const es_kernels *table, *scalar;
    int held_to_truth;
    int types; /* of the next case: bit 0 keys, bit 1 values */
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

/* Whether `out` is softmax(scale * K q) V, in double precision, within float rounding. */
static int truth(const float *out, const float *q, const es_cache_rows *k, const es_cache_rows *v,
                 int32_t dim, int32_t n_pos, float scale) {
    static double weight[MAX_POSITIONS], total[MAX_DIM];
    double top = -INFINITY, sum = 0;
    for (int32_t j = 0; j < n_pos; j++) {
        weight[j] = 0;
        for (int32_t i = 0; i < dim; i++) {
            weight[j] += (double)q[i] * element(k, j, i);
        }
        weight[j] *= (double)scale;
        top = fmax(top, weight[j]);
    }
    memset(total, 0, sizeof total);
    for (int32_t j = 0; j < n_pos; j++) {
        const double e = exp(weight[j] - top);
        sum += e;
        for (int32_t i = 0; i < dim; i++) {
            total[i] += e * element(v, j, i);
        }
    }
    for (int32_t i = 0; i < dim; i++) {
        /* |v| < 2, and a score of some tens is off by some 1e-5. */
        if (!(fabs((double)out[i] - total[i] / sum) <= 2e-4)) {
            return 0;
        }
    }
    return 1;
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

/* One token in its three parts, positions and columns in pieces of random sizes. */
static void in_parts(bench *m, const shape *s, float *out, const float *q, const es_cache_rows *k,
                     const es_cache_rows *v, int32_t first, int32_t end, float scale,
                     float *scratch) {
    const int32_t n = end - first;
    const size_t stride = ((size_t)n + 15) / 16 * 16 + 32;
    float *scores = check_tail(&m->scores, (size_t)s->n_heads * stride * sizeof(float));
    float inverse[ES_ATTENTION_QUERIES];
    for (int32_t j = 0, count; j < n; j += count) {
        count = 16 * check_range(&m->random, 1, 5);
        count = count < n - j ? count : n - j;
        const es_cache_rows keys = es_cache_rows_from(k, first + j);
        m->table->attention_scores(scores + j, stride, q, s->n_heads, &keys, count, s->dim, scale,
                                   scratch);
    }
    for (int32_t h = 0; h < s->n_heads; h++) {
        inverse[h] = m->table->attention_weigh(scores + (size_t)h * stride, n);
    }
    const es_cache_rows values = es_cache_rows_from(v, first);
    for (int32_t i = 0, count; i < s->dim; i += count) {
        count = 32 * check_range(&m->random, 1, 3);
        count = count < s->dim - i ? count : s->dim - i;
        m->table->attention_values(out, scores, stride, inverse, s->n_heads, &values, n, s->dim, i,
                                   count, scratch);
    }
}

static void one_case(bench *m, check_count *count, const shape *s, int pattern, int scattered) {
    const size_t head = (size_t)s->dim, n_queries = (size_t)(s->n_tokens * s->n_heads);
    const size_t out_bytes = n_queries * head * sizeof(float);
    float *q = check_tail(&m->q, out_bytes);
    const int types = m->types++;
    es_cache_rows k = {.type = types & 1, .row_bytes = es_cache_row_bytes(types & 1, s->dim)};
    const int type_v = types >> 1 & 1;
    es_cache_rows v = {.type = type_v, .row_bytes = es_cache_row_bytes(type_v, s->dim)};
    k.data = check_tail(&m->k, (size_t)s->n_pos * k.row_bytes);
    v.data = check_tail(&m->v, (size_t)s->n_pos * v.row_bytes);
    float *out = check_tail(&m->out, out_bytes), *expected = check_tail(&m->expected, out_bytes);
    const size_t n_scratch = es_attention_scratch(n_queries, (size_t)s->n_pos, head);
    float *scratch = check_tail(&m->scratch, n_scratch * sizeof(float));
    const float scale = (pattern == PEAKED ? 8.0f : 1.0f) / sqrtf((float)s->dim);
    for (size_t i = 0; i < n_queries * head; i++) {
        q[i] = pattern == EQUAL ? 0.0f : 2.0f * check_uniform(&m->random);
    }
    random_rows(&k, s->n_pos, &m->random, pattern == WILD);
    random_rows(&v, s->n_pos, &m->random, pattern == WILD);
    es_attention_token tokens[ES_ATTENTION_QUERIES];
    place_tokens(tokens, s, &m->random, scattered);
    float *results[] = {out, expected};
    for (int r = 0; r < 2; r++) {
        for (int32_t t = 0; t < s->n_tokens; t++) {
            tokens[t].q = q + (size_t)(t * s->n_heads) * head;
            tokens[t].out = results[r] + (size_t)(t * s->n_heads) * head;
        }
        (r == 0 ? m->table : m->scalar)
            ->attention(tokens, s->n_tokens, s->n_heads, &k, &v, s->dim, scale, scratch);
    }
    int passed = memcmp(out, expected, out_bytes) == 0;
    for (size_t i = 0; m->held_to_truth && pattern != WILD && i < n_queries; i++) {
        const es_attention_token *token = &tokens[i / (size_t)s->n_heads];
        const es_cache_rows keys = es_cache_rows_from(&k, token->first);
        const es_cache_rows values = es_cache_rows_from(&v, token->first);
        passed = passed && truth(out + i * head, q + i * head, &keys, &values, s->dim,
                                 token->end - token->first, scale);
    }
    if (s->n_tokens == 1 && !scattered) {
        memset(out, 0, out_bytes);
        in_parts(m, s, out, q, &k, &v, tokens[0].first, tokens[0].end, scale, scratch);
        passed = passed && memcmp(out, expected, out_bytes) == 0;
    }
    check_case(count, passed, "head_dim, positions, 100 * tokens + 10 * heads + pattern", s->dim,
               s->n_pos, 100 * s->n_tokens + 10 * s->n_heads + pattern);
}

/* Heads of one token, as in decoding: every length near a tile's ends. */
static void decode_cases(bench *m, check_count *count, int32_t dim, int pattern) {
    static const int32_t lengths[] = {1,  2,  3,  7,  8,  9,  15, 16, 17,  23, 31,
                                      32, 33, 47, 48, 49, 63, 64, 65, 200, 257};
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

static void attention_cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                            int32_t isa) {
    static const int32_t dims[] = {2,  3,  7,  8,  9,  15, 16,  17,  24,  31,  32, 33,
                                   48, 63, 64, 72, 80, 96, 100, 112, 128, 130, 256};
    bench m = {.random = 1729, .table = table, .scalar = scalar};
    m.held_to_truth = isa == ES_ISA_SCALAR;
    const size_t heads_bytes = (size_t)ES_ATTENTION_QUERIES * MAX_DIM * sizeof(float);
    m.q = check_buffer_new(heads_bytes);
    m.out = check_buffer_new(heads_bytes);
    m.expected = check_buffer_new(heads_bytes);
    m.k = check_buffer_new(MAX_ROWS_BYTES);
    m.v = check_buffer_new(MAX_ROWS_BYTES);
    m.scores =
        check_buffer_new((size_t)ES_ATTENTION_QUERIES * (MAX_POSITIONS + 64) * sizeof(float));
    m.scratch = check_buffer_new(
        es_attention_scratch(ES_ATTENTION_QUERIES, MAX_POSITIONS, MAX_DIM) * sizeof(float));
#if defined(__x86_64__)
    check_case(count,
               isa == ES_ISA_SCALAR || (table->attention != scalar->attention &&
                                        table->attention_values != scalar->attention_values),
               "level has kernels of its own", isa, 0, 0);
#endif
    for (int pattern = 0; pattern < N_PATTERNS; pattern++) {
        for (int d = 0; d < LENGTH(dims); d++) {
            decode_cases(&m, count, dims[d], pattern);
            block_cases(&m, count, dims[d], pattern);
        }
        const shape distant[] = {{64, MAX_POSITIONS, 5, 3, 0}, {128, MAX_POSITIONS, 1, 4, 300}};
        for (int i = 0; i < LENGTH(distant); i++) {
            one_case(&m, count, &distant[i], pattern, 0);
        }
    }
    check_buffer *all[] = {&m.q, &m.k, &m.v, &m.scratch, &m.scores, &m.out, &m.expected};
    for (int i = 0; i < LENGTH(all); i++) {
        check_buffer_free(all[i]);
    }
}

int check_attention(void) {
    return check_each_isa("attention", attention_cases);
}
