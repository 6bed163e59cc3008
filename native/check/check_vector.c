/* Vector kernels: norm, quantisers, gates, rotations. */
#include "check/check_support.h"
#include "check/check_vector.h"

#include <math.h>
#include <string.h>

enum { MAX_N = 1536, N_RANDOM = 600 };
enum { UNIFORM, ZERO, TINY, LARGE, SPARSE, N_PATTERNS };

static float sample(uint64_t *random, int pattern) {
    const float x = check_uniform(random);
    switch (pattern) {
    case UNIFORM:
        return 4.0f * x;
    case ZERO:
        return x < 0.0f ? -0.0f : 0.0f;
    case TINY:
        return ldexpf(x, check_range(random, -149, -90)); /* subnormal, and below 1e-30 */
    case LARGE:
        return ldexpf(x, check_range(random, 0, 55)); /* its square summed stays finite */
    default:
        return check_random(random) % 4 != 0 ? 0.0f : 100.0f * x;
    }
}

/* Buffers that end at a guard page; `n` floats of each are in use. */
typedef struct bench {
    check_buffer x, w, y, expected, q, q_expected;
    uint64_t random;
    check_count *count;
    const es_kernels *table, *scalar;
    int truth; /* hold the scalar kernels against double precision */
    int pattern;
    int32_t n;
} bench;

static float *filled(bench *m, const check_buffer *buffer, int32_t n) {
    float *p = check_tail(buffer, (size_t)n * sizeof *p);
    for (int32_t i = 0; i < n; i++) {
        p[i] = sample(&m->random, m->pattern);
    }
    return p;
}

static void compare(bench *m, const void *a, const void *b, size_t n_bytes, int true_enough,
                    const char *what) {
    check_case(m->count, memcmp(a, b, n_bytes) == 0 && true_enough, what, m->n, m->pattern, 0);
}

static int near(double value, double expected, double relative, double absolute) {
    return fabs(value - expected) <= relative * fabs(expected) + absolute;
}

static void norm_case(bench *m) {
    if (!check_wants((check_any_kernel *)m->table->rmsnorm)) {
        return;
    }
    const int32_t n = m->n;
    const size_t bytes = (size_t)n * sizeof(float);
    const float eps = m->pattern == UNIFORM ? 1e-5f : 1e-6f;
    const float *x = filled(m, &m->x, n), *w = filled(m, &m->w, n);
    float *y = check_tail(&m->y, bytes), *expected = check_tail(&m->expected, bytes);
    memcpy(y, x, bytes); /* in place */
    m->table->rmsnorm(y, y, w, n, eps);
    m->scalar->rmsnorm(expected, x, w, n, eps);
    double squares = 0;
    for (int32_t i = 0; i < n; i++) {
        squares += (double)x[i] * (double)x[i];
    }
    int good = 1;
    for (int32_t i = 0; m->truth && i < n; i++) {
        const double r = 1 / sqrt(squares / n + (double)eps);
        good &= near((double)y[i], (double)x[i] * r * (double)w[i], 1e-5, 1e-38);
    }
    compare(m, y, expected, bytes, good, "rmsnorm");
}

static void i8_case(bench *m) {
    if (!check_wants((check_any_kernel *)m->table->quantize_i8)) {
        return;
    }
    const int32_t n = m->n, padded = (n + 127) / 128 * 128;
    const float *x = filled(m, &m->x, n);
    int8_t *q = check_tail(&m->q, (size_t)padded),
           *expected = check_tail(&m->q_expected, (size_t)padded);
    int32_t sum = 0, expected_sum = 0, total = 0;
    memset(q, 0x55, (size_t)padded);
    const float s = m->table->quantize_i8(q, &sum, x, n, padded);
    const float expected_s = m->scalar->quantize_i8(expected, &expected_sum, x, n, padded);
    int good = memcmp(&s, &expected_s, sizeof s) == 0 && sum == expected_sum;
    double amax = 1e-5;
    for (int32_t i = 0; i < n; i++) {
        amax = fmax(amax, fabs((double)x[i]));
    }
    for (int32_t i = 0; m->truth && i < padded; i++) {
        total += q[i];
        good &= i < n ? near(q[i], (double)x[i] * 127 / amax, 0, 0.5001) : q[i] == 0;
    }
    good &= !m->truth || (total == sum && near((double)s, 127 / amax, 1e-6, 0));
    compare(m, q, expected, (size_t)padded, good, "quantize_i8");
}

static void i16_case(bench *m) {
    if (!check_wants((check_any_kernel *)m->table->quantize_i16)) {
        return;
    }
    const int32_t n = m->n, n_blocks = (n + 31) / 32;
    const size_t bytes = (size_t)n_blocks * 64;
    const float *x = filled(m, &m->x, n);
    int16_t *q = check_tail(&m->q, bytes), *expected = check_tail(&m->q_expected, bytes);
    float d[2][MAX_N / 32], xsum[2][MAX_N / 32];
    int32_t sum[2][MAX_N / 32];
    memset(q, 0x55, bytes);
    m->table->quantize_i16(q, d[0], sum[0], xsum[0], x, n);
    m->scalar->quantize_i16(expected, d[1], sum[1], xsum[1], x, n);
    int good = memcmp(d[0], d[1], (size_t)n_blocks * 4) == 0 &&
               memcmp(sum[0], sum[1], (size_t)n_blocks * 4) == 0 &&
               memcmp(xsum[0], xsum[1], (size_t)n_blocks * 4) == 0;
    for (int32_t b = 0; m->truth && b < n_blocks; b++) {
        double amax = 0;
        int32_t total = 0;
        for (int32_t i = 32 * b; i < n && i < 32 * b + 32; i++) {
            amax = fmax(amax, fabs((double)x[i]));
        }
        const double factor = amax < 1e-30 ? 0 : 32767 / amax;
        for (int32_t i = 32 * b; i < 32 * b + 32; i++) {
            total += q[i];
            good &= near(q[i], i < n ? (double)x[i] * factor : 0, 0, 0.51);
        }
        good &= total == sum[0][b] && near((double)d[0][b], factor > 0 ? 1 / factor : 0, 1e-6, 0);
        good &= near((double)xsum[0][b], (double)d[0][b] * total, 1e-6, 1e-44);
    }
    compare(m, q, expected, bytes, good, "quantize_i16");
}

static void i8_blocks_case(bench *m) {
    if (!check_wants((check_any_kernel *)m->table->quantize_i8_blocks)) {
        return;
    }
    const int32_t n = m->n, n_blocks = (n + 31) / 32;
    const size_t bytes = (size_t)n_blocks * 32;
    const float *x = filled(m, &m->x, n);
    int8_t *q = check_tail(&m->q, bytes), *expected = check_tail(&m->q_expected, bytes);
    float d[2][MAX_N / 32], xsum[2][MAX_N / 32];
    int32_t sum[2][MAX_N / 32];
    memset(q, 0x55, bytes);
    m->table->quantize_i8_blocks(q, d[0], sum[0], xsum[0], x, n);
    m->scalar->quantize_i8_blocks(expected, d[1], sum[1], xsum[1], x, n);
    int good = memcmp(d[0], d[1], (size_t)n_blocks * 4) == 0 &&
               memcmp(sum[0], sum[1], (size_t)n_blocks * 4) == 0 &&
               memcmp(xsum[0], xsum[1], (size_t)n_blocks * 4) == 0;
    for (int32_t b = 0; m->truth && b < n_blocks; b++) {
        double amax = 0;
        int32_t total = 0;
        for (int32_t i = 32 * b; i < n && i < 32 * b + 32; i++) {
            amax = fmax(amax, fabs((double)x[i]));
        }
        const double factor = amax < 1e-30 ? 0 : 127 / amax;
        for (int32_t i = 32 * b; i < 32 * b + 32; i++) {
            total += q[i];
            good &= q[i] >= -127 && near(q[i], i < n ? (double)x[i] * factor : 0, 0, 0.5001);
        }
        good &= total == sum[0][b] && near((double)d[0][b], factor > 0 ? 1 / factor : 0, 1e-6, 0);
        good &= near((double)xsum[0][b], (double)d[0][b] * total, 1e-6, 1e-44);
    }
    compare(m, q, expected, bytes, good, "quantize_i8_blocks");
}

typedef enum { SILU, RELU2, RELU, GELU, N_GATES } gate_kind;

static double gated(gate_kind kind, double g, double u) {
    switch (kind) {
    case SILU:
        return g / (1 + exp(-g)) * u;
    case RELU2:
        return g > 0 ? g * g * u : 0;
    case RELU:
        return g > 0 ? g * u : 0;
    default:
        return g * u / (1 + exp(-2 * sqrt(2 / acos(-1)) * (g + 0.044715 * g * g * g)));
    }
}

typedef void gate_function(float *y, const float *gate, const float *up, int32_t n);

static gate_function *gate_of(const es_kernels *table, gate_kind kind) {
    return kind == SILU    ? table->glu_silu
           : kind == RELU2 ? table->glu_relu2
           : kind == RELU  ? table->glu_relu
                           : table->glu_gelu;
}

static void glu_case(bench *m, gate_kind kind) {
    static const char *const names[N_GATES] = {"glu_silu", "glu_relu2", "glu_relu", "glu_gelu"};
    gate_function *own = gate_of(m->table, kind);
    if (!check_wants((check_any_kernel *)own)) {
        return;
    }
    const int32_t n = m->n;
    const size_t bytes = (size_t)n * sizeof(float);
    const float *gate = filled(m, &m->x, n);
    const float *up = filled(m, &m->w, n);
    float *y = check_tail(&m->y, bytes), *expected = check_tail(&m->expected, bytes);
    const int over_up = n % 2; /* in place over either argument */
    memcpy(y, over_up ? up : gate, bytes);
    own(y, over_up ? gate : y, over_up ? y : up, n);
    gate_of(m->scalar, kind)(expected, gate, up, n);
    int good = 1;
    for (int32_t i = 0; m->truth && i < n; i++) {
        const double g = (double)gate[i], u = (double)up[i];
        const double true_y = gated(kind, g, u);
        /* exp is clamped at 88: what is below e^-87 of g * u counts as nothing */
        const double slack = fabs(kind == RELU2 ? u * 1e-7 : g * u) * 1e-37 + 1e-44;
        /* gelu's exponent is rounded four times and may reach 88 */
        if (fabs(true_y) < 1e38) {
            good &= near((double)y[i], true_y, kind == GELU ? 3e-5 : 1e-6, slack);
        }
    }
    compare(m, y, expected, bytes, good, names[kind]);
}

static void add_case(bench *m) {
    if (!check_wants((check_any_kernel *)m->table->add)) {
        return;
    }
    const int32_t n = m->n;
    const size_t bytes = (size_t)n * sizeof(float);
    const float *x = filled(m, &m->x, n), *start = filled(m, &m->w, n);
    float *y = check_tail(&m->y, bytes), *expected = check_tail(&m->expected, bytes);
    memcpy(y, start, bytes);
    memcpy(expected, start, bytes);
    m->table->add(y, x, n);
    m->scalar->add(expected, x, n);
    int good = 1;
    for (int32_t i = 0; m->truth && i < n; i++) {
        good &= y[i] == (float)((double)start[i] + (double)x[i]);
    }
    compare(m, y, expected, bytes, good, "add");
}

enum { SCALED_ROWS = 180 };

/* Two tokens of n_rows sums, as they are, masked or added, with a scale each or one for all. */
static void scale_case(bench *m, int32_t n_rows, int32_t stride, int shared, es_store_kind kind) {
    if (check_skips() || !check_wants((check_any_kernel *)m->table->scale_sums)) {
        return;
    }
    enum { TOKENS = 2, SCALE_LIVE = SCALED_ROWS + 1 };
    const size_t n_floats = (size_t)(TOKENS * stride), bytes = n_floats * sizeof(float);
    int32_t *sums = check_tail(&m->x, bytes);
    float *scales = check_tail(&m->w, (size_t)n_rows * sizeof *scales);
    float *y = check_tail(&m->y, bytes), *expected = check_tail(&m->expected, bytes);
    for (size_t i = 0; i < n_floats; i++) {
        sums[i] = check_range(&m->random, -2000000, 2000000);
        y[i] = expected[i] = check_uniform(&m->random);
    }
    for (int32_t r = 0; r < n_rows; r++) {
        scales[r] = shared && r > 0 ? scales[0] : 1.0f + check_uniform(&m->random);
    }
    const float s[TOKENS] = {0.37f, 1234.5f};
    const int32_t qsum[TOKENS] = {check_range(&m->random, -90000, 90000), 0};
    float live[TOKENS * SCALE_LIVE];
    for (size_t i = 0; i < TOKENS * SCALE_LIVE; i++) {
        live[i] = (float)check_range(&m->random, -1, 1) * check_uniform(&m->random);
    }
    const es_scaling by = {
        .scales = scales,
        .shared = shared,
        .s = s,
        .qsum = stride % 3 == 0 ? NULL : qsum,
        .live = kind != ES_STORE_ADD && n_rows % 4 > 1 ? live : NULL,
        .live_stride = SCALE_LIVE,
    };
    m->table->scale_sums(y, (size_t)stride, sums, (size_t)stride, &by, n_rows, TOKENS, kind);
    float *start = expected;
    for (int32_t t = 0; m->truth && t < TOKENS; t++, start += stride) {
        for (int32_t r = 0; r < n_rows; r++) {
            const int32_t offset = by.qsum != NULL ? qsum[t] : 0;
            const float value = (float)(sums[t * stride + r] - offset) * (scales[r] / s[t]);
            const int is_dead = by.live != NULL && !(live[t * SCALE_LIVE + r] > 0.0f);
            start[r] = kind == ES_STORE_ADD ? start[r] + value : is_dead ? 0.0f : value;
        }
    }
    if (!m->truth) {
        m->scalar->scale_sums(expected, (size_t)stride, sums, (size_t)stride, &by, n_rows, TOKENS,
                              kind);
    }
    check_case(m->count, memcmp(y, expected, bytes) == 0, "scale_sums", n_rows, stride, kind);
}

static void scale_cases(bench *m) {
    for (int32_t n_rows = 1; n_rows <= SCALED_ROWS; n_rows++) {
        for (int kind = ES_STORE; kind <= ES_STORE_ADD; kind++) {
            for (int shared = 0; shared < 2; shared++) {
                scale_case(m, n_rows, n_rows, shared, (es_store_kind)kind);
                scale_case(m, n_rows, (n_rows + 15) / 16 * 16, shared, (es_store_kind)kind);
            }
        }
    }
}

typedef void rope_function(float *x, const float *table, int32_t n_rot);

static rope_function *rope_of(const es_kernels *table, int neox) {
    return neox ? table->rope_neox : table->rope_norm;
}

static void rope_case(bench *m, int neox) {
    rope_function *own = rope_of(m->table, neox);
    if (!check_wants((check_any_kernel *)own)) {
        return;
    }
    const int32_t n = m->n / 2 * 2, half = n / 2;
    const size_t bytes = (size_t)n * sizeof(float);
    const float *x = filled(m, &m->x, n);
    float *table = check_tail(&m->w, bytes);
    float *y = check_tail(&m->y, bytes), *expected = check_tail(&m->expected, bytes);
    for (int32_t i = 0; i < half; i++) {
        const float angle = 3.0f * check_uniform(&m->random);
        table[i] = cosf(angle);
        table[half + i] = sinf(angle);
    }
    memcpy(y, x, bytes);
    memcpy(expected, x, bytes);
    own(y, table, n);
    rope_of(m->scalar, neox)(expected, table, n);
    int good = 1;
    for (int32_t i = 0; m->truth && i < half; i++) {
        const int32_t at = neox ? i : 2 * i, other = neox ? half + i : 2 * i + 1;
        const double a = (double)x[at], b = (double)x[other];
        const double c = (double)table[i], s = (double)table[half + i];
        const double slack = 3e-7 * (fabs(a) + fabs(b)) + 1e-44;
        good &= near((double)y[at], a * c - b * s, 0, slack);
        good &= near((double)y[other], b * c + a * s, 0, slack);
    }
    compare(m, y, expected, bytes, good, neox ? "rope_neox" : "rope_norm");
}

/* Halves go to the even neighbour: with a largest value of 127 (32767) the step is exactly 1. */
static void tie_case(bench *m) {
    static const float x[8] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f, 127.0f};
    static const int8_t expected[8] = {0, 2, 2, 0, -2, -2, 126, 127};
    float wide[8];
    int8_t q[8];
    int16_t q16[32];
    int32_t sum, sum16;
    float d, xsum;
    memcpy(wide, x, sizeof x);
    wide[7] = 32767.0f;
    m->table->quantize_i8(q, &sum, x, 8, 8);
    m->table->quantize_i16(q16, &d, &sum16, &xsum, wide, 8);
    int good = memcmp(q, expected, sizeof q) == 0 && sum == 253 && d == 1.0f;
    for (int i = 0; i < 7; i++) {
        good &= q16[i] == expected[i];
    }
    check_case(m->count, good && q16[7] == 32767, "ties to even", 0, 0, 0);
}

static void size_cases(bench *m, int32_t n) {
    if (check_skips()) {
        return;
    }
    m->n = n;
    for (m->pattern = 0; m->pattern < N_PATTERNS; m->pattern++) {
        norm_case(m);
        i8_case(m);
        i16_case(m);
        i8_blocks_case(m);
        for (gate_kind kind = SILU; kind < N_GATES; kind++) {
            glu_case(m, kind);
        }
        add_case(m);
        rope_case(m, 0);
        rope_case(m, 1);
    }
}

static void vector_cases(check_count *count, const es_kernels *table, const es_kernels *scalar,
                         int32_t isa) {
    static const int32_t sizes[] = {127, 128, 129, 768, 1000, 1535, MAX_N};
    bench m = {.random = 31337, .count = count, .table = table, .scalar = scalar};
    check_buffer *all[] = {&m.x, &m.w, &m.y, &m.expected, &m.q, &m.q_expected};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        *all[i] = check_buffer_new(MAX_N * sizeof(float));
    }
    m.truth = isa == ES_ISA_SCALAR;
    check_case(count, isa == ES_ISA_SCALAR || table->rmsnorm != scalar->rmsnorm,
               "level has kernels of its own", isa, 0, 0);
    tie_case(&m);
    scale_cases(&m);
    for (int32_t n = 1; n <= 70; n++) {
        size_cases(&m, n);
    }
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_cases(&m, sizes[i]);
    }
    for (int32_t i = 0; i < N_RANDOM; i++) {
        size_cases(&m, check_range(&m.random, 1, i % 8 == 0 ? MAX_N : 200));
    }
    check_halfs(count, table);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        check_buffer_free(all[i]);
    }
}

int check_vector(void) {
    return check_each_isa("vector", vector_cases);
}
