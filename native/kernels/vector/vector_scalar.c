/* Vector kernels in plain C: the definition for every other instruction set. */
#include "kernels.h"
#include "kernels/vector/vector.h"

#include <math.h>
#include <string.h>

static float sum_of_squares(const float *x, int32_t n) {
    float lane[ES_LANES] = {0};
    int32_t i = 0;
    for (; i + ES_LANES <= n; i += ES_LANES) {
        for (int l = 0; l < ES_LANES; l++) {
            lane[l] += x[i + l] * x[i + l];
        }
    }
    for (int l = 0; i < n; i++, l++) {
        lane[l] += x[i] * x[i];
    }
    return es_fold16(lane);
}

static void rmsnorm(float *y, const float *x, const float *w, int32_t n, float eps) {
    const float r = 1.0f / sqrtf(sum_of_squares(x, n) / (float)n + eps);
    for (int32_t i = 0; i < n; i++) {
        y[i] = (x[i] * r) * w[i];
    }
}

static float largest_magnitude(const float *x, int32_t n) {
    float largest = 0.0f;
    for (int32_t i = 0; i < n; i++) {
        const float magnitude = fabsf(x[i]);
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

static float quantize_i8(int8_t *q, int32_t *sum, const float *x, int32_t n, int32_t n_padded) {
    const float amax = largest_magnitude(x, n);
    const float s = 127.0f / (amax > 1e-5f ? amax : 1e-5f);
    int32_t total = 0;
    for (int32_t i = 0; i < n; i++) {
        const int32_t code = (int32_t)es_round(es_clamp(x[i] * s, -128.0f, 127.0f));
        q[i] = (int8_t)code;
        total += code;
    }
    memset(q + n, 0, (size_t)(n_padded - n));
    *sum = total;
    return s;
}

/* One block of which n values are there. */
static void quantize_block(int16_t *q, float *d, int32_t *sum, const float *x, int32_t n) {
    const float amax = largest_magnitude(x, n);
    memset(q, 0, 32 * sizeof *q);
    *d = 0.0f;
    *sum = 0;
    if (amax < 1e-30f) {
        return;
    }
    const float inverse = 32767.0f / amax;
    int32_t total = 0;
    for (int32_t i = 0; i < n; i++) {
        const int32_t code = (int32_t)es_round(es_clamp(x[i] * inverse, -32767.0f, 32767.0f));
        q[i] = (int16_t)code;
        total += code;
    }
    *d = amax / 32767.0f;
    *sum = total;
}

static void quantize_i16(int16_t *q, float *d, int32_t *sum, float *xsum, const float *x,
                         int32_t n) {
    for (int32_t b = 0; 32 * b < n; b++) {
        const int32_t left = n - 32 * b;
        quantize_block(q + 32 * b, d + b, sum + b, x + 32 * b, left < 32 ? left : 32);
        xsum[b] = d[b] * (float)sum[b];
    }
}

static void quantize_i8_blocks(int8_t *q, float *d, int32_t *sum, float *xsum, const float *x,
                               int32_t n) {
    for (int32_t b = 0; 32 * b < n; b++, q += 32, x += 32) {
        const int32_t n_here = n - 32 * b < 32 ? n - 32 * b : 32;
        const float amax = largest_magnitude(x, n_here);
        const int live = amax >= 1e-30f;
        const float inverse = live ? 127.0f / amax : 0.0f;
        int32_t total = 0;
        memset(q, 0, 32);
        for (int32_t i = 0; live && i < n_here; i++) {
            const int32_t code = (int32_t)es_round(es_clamp(x[i] * inverse, -127.0f, 127.0f));
            q[i] = (int8_t)code;
            total += code;
        }
        d[b] = live ? amax / 127.0f : 0.0f;
        sum[b] = total;
        xsum[b] = d[b] * (float)total;
    }
}

static void glu_relu2(float *y, const float *gate, const float *up, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        const float m = gate[i] > 0.0f ? gate[i] : 0.0f;
        y[i] = (m * m) * up[i];
    }
}

static void glu_relu(float *y, const float *gate, const float *up, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        y[i] = (gate[i] > 0.0f ? gate[i] : 0.0f) * up[i];
    }
}

static void glu_silu(float *y, const float *gate, const float *up, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        y[i] = (gate[i] / (1.0f + es_exp(-gate[i]))) * up[i];
    }
}

static void glu_gelu(float *y, const float *gate, const float *up, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        const float g = gate[i];
        const float t = ((g * g) * ES_GELU_CUBE + 1.0f) * (g * ES_GELU_SLOPE);
        y[i] = (g / (1.0f + es_exp(-t))) * up[i];
    }
}

static void add(float *y, const float *x, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        y[i] += x[i];
    }
}

static void scale_sums(float *y, size_t y_stride, const int32_t *sums, size_t sums_stride,
                       const es_scaling *by, int32_t n_rows, int32_t n_tokens, es_store_kind kind) {
    for (int32_t t = 0; t < n_tokens; t++, y += y_stride, sums += sums_stride) {
        const int32_t offset = by->qsum != NULL ? by->qsum[t] : 0;
        const float first = by->scales[0] / by->s[t];
        for (int32_t r = 0; r < n_rows; r++) {
            const float factor = by->shared ? first : by->scales[r] / by->s[t];
            const float value = (float)(sums[r] - offset) * factor;
            if (kind == ES_STORE_ADD) {
                y[r] = y[r] + value;
            } else {
                y[r] = by->live == NULL || by->live[(size_t)t * by->live_stride + (size_t)r] > 0.0f
                           ? value
                           : 0.0f;
            }
        }
    }
}

static void rope_neox(float *x, const float *table, int32_t n_rot) {
    const int32_t half = n_rot / 2;
    for (int32_t i = 0; i < half; i++) {
        const float a = x[i], b = x[half + i];
        const float c = table[i], s = table[half + i];
        x[i] = a * c - b * s;
        x[half + i] = b * c + a * s;
    }
}

static void rope_norm(float *x, const float *table, int32_t n_rot) {
    const int32_t half = n_rot / 2;
    for (int32_t i = 0; i < half; i++) {
        const float a = x[2 * i], b = x[2 * i + 1];
        const float c = table[i], s = table[half + i];
        x[2 * i] = a * c - b * s;
        x[2 * i + 1] = b * c + a * s;
    }
}

static void f32_to_f16(uint16_t *y, const float *x, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        y[i] = es_float_to_half(x[i]);
    }
}

static void f16_to_f32(float *y, const uint16_t *x, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        y[i] = es_half_to_float(x[i]);
    }
}

void es_vector_scalar(es_kernels *table) {
    table->rmsnorm = rmsnorm;
    table->quantize_i8 = quantize_i8;
    table->quantize_i16 = quantize_i16;
    table->quantize_i8_blocks = quantize_i8_blocks;
    table->glu_relu2 = glu_relu2;
    table->glu_relu = glu_relu;
    table->glu_silu = glu_silu;
    table->glu_gelu = glu_gelu;
    table->add = add;
    table->scale_sums = scale_sums;
    table->rope_neox = rope_neox;
    table->rope_norm = rope_norm;
    table->f32_to_f16 = f32_to_f16;
    table->f16_to_f32 = f16_to_f32;
    table->vector_variant = "scalar";
}
