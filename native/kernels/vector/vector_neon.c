/* Vector kernels for NEON (ARMv8.0). */
#include "kernels/vector/vector_neon.h"

#include "kernels.h"
#include "kernels/half.h"
#include "kernels/vector/vector.h"

#include <math.h>

static float sum_of_squares(const float *x, int32_t n) {
    const float32x4_t zero = vdupq_n_f32(0.0f);
    float32x4_t lane[4] = {zero, zero, zero, zero};
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int l = 0; l < 4; l++) {
            const float32x4_t v = vld1q_f32(x + i + 4 * l);
            lane[l] = vaddq_f32(lane[l], vmulq_f32(v, v));
        }
    }
    for (int l = 0; i < n; i += 4, l++) {
        const float32x4_t v = es_load_first(x + i, n - i);
        lane[l] = vaddq_f32(lane[l], vmulq_f32(v, v));
    }
    return es_fold16_neon(lane);
}

static void rmsnorm(float *y, const float *x, const float *w, int32_t n, float eps) {
    const float r = 1.0f / sqrtf(sum_of_squares(x, n) / (float)n + eps);
    for (int32_t i = 0; i < n; i += 4) {
        const float32x4_t scaled = vmulq_n_f32(es_load_first(x + i, n - i), r);
        es_store_first(y + i, vmulq_f32(scaled, es_load_first(w + i, n - i)), n - i);
    }
}

static float largest_magnitude(const float *x, int32_t n) {
    const float32x4_t zero = vdupq_n_f32(0.0f);
    float32x4_t m[4] = {zero, zero, zero, zero};
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int l = 0; l < 4; l++) {
            m[l] = vmaxnmq_f32(m[l], vabsq_f32(vld1q_f32(x + i + 4 * l)));
        }
    }
    for (; i < n; i += 4) {
        m[0] = vmaxnmq_f32(m[0], vabsq_f32(es_load_first(x + i, n - i)));
    }
    return vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(m[0], m[1]), vmaxnmq_f32(m[2], m[3])));
}

/* Rounded codes of four values, within [low, high]. */
ES_INLINE_NEON int32x4_t round_codes(float32x4_t x, float factor, float low, float high) {
    const float32x4_t v = vminnmq_f32(vmulq_n_f32(x, factor), vdupq_n_f32(high));
    return vcvtnq_s32_f32(vmaxnmq_f32(v, vdupq_n_f32(low)));
}

/* Sixteen codes as int8. */
ES_INLINE_NEON int8x16_t pack_i8(const int32x4_t code[4]) {
    const int16x8_t a = vcombine_s16(vmovn_s32(code[0]), vmovn_s32(code[1]));
    const int16x8_t b = vcombine_s16(vmovn_s32(code[2]), vmovn_s32(code[3]));
    return vcombine_s8(vmovn_s16(a), vmovn_s16(b));
}

static float quantize_i8(int8_t *q, int32_t *sum, const float *x, int32_t n, int32_t n_padded) {
    const float amax = largest_magnitude(x, n);
    const float s = 127.0f / (amax > 1e-5f ? amax : 1e-5f);
    int32x4_t total = vdupq_n_s32(0);
    int32x4_t code[4];
    int32_t i = 0;
    for (; i < n; i += 16) {
        for (int l = 0; l < 4; l++) {
            const float32x4_t v = es_load_first(x + i + 4 * l, n - i - 4 * l);
            code[l] = round_codes(v, s, -128.0f, 127.0f);
            total = vaddq_s32(total, code[l]);
        }
        if (i + 16 <= n) {
            vst1q_s8(q + i, pack_i8(code));
        } else {
            int8_t tail[16];
            vst1q_s8(tail, pack_i8(code));
            memcpy(q + i, tail, (size_t)(n - i));
        }
    }
    memset(q + n, 0, (size_t)(n_padded - n));
    *sum = vaddvq_s32(total);
    return s;
}

/* Up to 32 values of a block, zeros beyond n; returns the largest magnitude. */
ES_INLINE_NEON float load_block(float32x4_t v[8], const float *x, int32_t n) {
    float32x4_t m = vdupq_n_f32(0.0f);
    for (int l = 0; l < 8; l++) {
        v[l] = es_load_first(x + 4 * l, n - 4 * l);
        m = vmaxnmq_f32(m, vabsq_f32(v[l]));
    }
    return vmaxnmvq_f32(m);
}

/* A block's codes, and their sum. */
ES_INLINE_NEON int32_t round_block(int32x4_t code[8], const float32x4_t v[8], float factor,
                                   float limit) {
    int32x4_t total = vdupq_n_s32(0);
    for (int l = 0; l < 8; l++) {
        code[l] = round_codes(v[l], factor, -limit, limit);
        total = vaddq_s32(total, code[l]);
    }
    return vaddvq_s32(total);
}

static void quantize_i8_blocks(int8_t *q, float *d, int32_t *sum, float *xsum, const float *x,
                               int32_t n) {
    for (int32_t b = 0; 32 * b < n; b++, q += 32) {
        float32x4_t v[8];
        int32x4_t code[8];
        const float amax = load_block(v, x + 32 * b, n - 32 * b);
        if (amax < 1e-30f) {
            memset(q, 0, 32);
            d[b] = xsum[b] = 0.0f;
            sum[b] = 0;
            continue;
        }
        sum[b] = round_block(code, v, 127.0f / amax, 127.0f);
        vst1q_s8(q, pack_i8(code));
        vst1q_s8(q + 16, pack_i8(code + 4));
        d[b] = amax / 127.0f;
        xsum[b] = d[b] * (float)sum[b];
    }
}

static void quantize_i16(int16_t *q, float *d, int32_t *sum, float *xsum, const float *x,
                         int32_t n) {
    for (int32_t b = 0; 32 * b < n; b++, q += 32) {
        float32x4_t v[8];
        int32x4_t code[8];
        const float amax = load_block(v, x + 32 * b, n - 32 * b);
        if (amax < 1e-30f) {
            memset(q, 0, 32 * sizeof *q);
            d[b] = xsum[b] = 0.0f;
            sum[b] = 0;
            continue;
        }
        sum[b] = round_block(code, v, 32767.0f / amax, 32767.0f);
        for (int l = 0; l < 8; l++) {
            vst1_s16(q + 4 * l, vmovn_s32(code[l]));
        }
        d[b] = amax / 32767.0f;
        xsum[b] = d[b] * (float)sum[b];
    }
}

ES_INLINE_NEON float32x4_t relu2(float32x4_t gate, float32x4_t up) {
    const float32x4_t m = vmaxnmq_f32(gate, vdupq_n_f32(0.0f));
    return vmulq_f32(vmulq_f32(m, m), up);
}

ES_INLINE_NEON float32x4_t relu(float32x4_t gate, float32x4_t up) {
    return vmulq_f32(vmaxnmq_f32(gate, vdupq_n_f32(0.0f)), up);
}

ES_INLINE_NEON float32x4_t silu(float32x4_t gate, float32x4_t up) {
    const float32x4_t e = es_exp_neon(vnegq_f32(gate));
    return vmulq_f32(vdivq_f32(gate, vaddq_f32(vdupq_n_f32(1.0f), e)), up);
}

ES_INLINE_NEON float32x4_t gelu(float32x4_t gate, float32x4_t up) {
    const float32x4_t one = vdupq_n_f32(1.0f);
    const float32x4_t cube = vmulq_n_f32(vmulq_f32(gate, gate), ES_GELU_CUBE);
    const float32x4_t t = vmulq_f32(vaddq_f32(cube, one), vmulq_n_f32(gate, ES_GELU_SLOPE));
    const float32x4_t e = es_exp_neon(vnegq_f32(t));
    return vmulq_f32(vdivq_f32(gate, vaddq_f32(one, e)), up);
}

/* y[i] = function(a[i], b[i]) */
#define EACH(function, y, a, b, n)                                                                \
    for (int32_t i = 0; i < (n); i += 4) {                                                        \
        const int32_t left = (n) - i;                                                             \
        es_store_first(                                                                           \
            (y) + i, function(es_load_first((a) + i, left), es_load_first((b) + i, left)), left); \
    }

static void glu_relu2(float *y, const float *gate, const float *up, int32_t n) {
    EACH(relu2, y, gate, up, n)
}

static void glu_relu(float *y, const float *gate, const float *up, int32_t n) {
    EACH(relu, y, gate, up, n)
}

static void glu_silu(float *y, const float *gate, const float *up, int32_t n) {
    EACH(silu, y, gate, up, n)
}

static void glu_gelu(float *y, const float *gate, const float *up, int32_t n) {
    EACH(gelu, y, gate, up, n)
}

static void add(float *y, const float *x, int32_t n){EACH(vaddq_f32, y, y, x, n)}

/* One token; `live` is NULL, or of a kind that does not add. */
ES_INLINE_NEON void scale_token(float *y, const int32_t *sums, int32_t offset, const float *scales,
                                const int shared, float s, const float *live, int32_t n_rows,
                                const es_store_kind kind) {
    const float32x4_t first = vdupq_n_f32(scales[0] / s), divisor = vdupq_n_f32(s);
    const int32x4_t taken = vdupq_n_s32(offset);
    int32_t r = 0;
    for (; r + 4 <= n_rows; r += 4) {
        const float32x4_t factor = shared ? first : vdivq_f32(vld1q_f32(scales + r), divisor);
        const float32x4_t sum = vcvtq_f32_s32(vsubq_s32(vld1q_s32(sums + r), taken));
        float32x4_t value = vmulq_f32(sum, factor);
        if (live != NULL) {
            const uint32x4_t kept = vcgtzq_f32(vld1q_f32(live + r));
            value = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(value), kept));
        }
        vst1q_f32(y + r, kind == ES_STORE_ADD ? vaddq_f32(vld1q_f32(y + r), value) : value);
    }
    for (; r < n_rows; r++) {
        const float value = (float)(sums[r] - offset) * ((shared ? scales[0] : scales[r]) / s);
        if (kind == ES_STORE_ADD) {
            y[r] = y[r] + value;
        } else {
            y[r] = live == NULL || live[r] > 0.0f ? value : 0.0f;
        }
    }
}

/* Far stores are stores: there is none here that passes the caches by. */
static void scale_sums(float *y, size_t y_stride, const int32_t *sums, size_t sums_stride,
                       const es_scaling *by, int32_t n_rows, int32_t n_tokens, es_store_kind kind) {
    for (int32_t t = 0; t < n_tokens; t++, y += y_stride, sums += sums_stride) {
        const int32_t offset = by->qsum != NULL ? by->qsum[t] : 0;
        const float s = by->s[t];
        const float *live = by->live == NULL ? NULL : by->live + (size_t)t * by->live_stride;
        if (kind == ES_STORE_ADD && by->shared) {
            scale_token(y, sums, offset, by->scales, 1, s, NULL, n_rows, ES_STORE_ADD);
        } else if (kind == ES_STORE_ADD) {
            scale_token(y, sums, offset, by->scales, 0, s, NULL, n_rows, ES_STORE_ADD);
        } else if (by->shared) {
            scale_token(y, sums, offset, by->scales, 1, s, live, n_rows, ES_STORE);
        } else {
            scale_token(y, sums, offset, by->scales, 0, s, live, n_rows, ES_STORE);
        }
    }
}

static void rope_neox(float *x, const float *table, int32_t n_rot) {
    const int32_t half = n_rot / 2;
    for (int32_t i = 0; i < half; i += 4) {
        const int32_t left = half - i;
        const float32x4_t a = es_load_first(x + i, left), b = es_load_first(x + half + i, left);
        const float32x4_t c = es_load_first(table + i, left);
        const float32x4_t s = es_load_first(table + half + i, left);
        es_store_first(x + i, vsubq_f32(vmulq_f32(a, c), vmulq_f32(b, s)), left);
        es_store_first(x + half + i, vaddq_f32(vmulq_f32(b, c), vmulq_f32(a, s)), left);
    }
}

static void rope_norm(float *x, const float *table, int32_t n_rot) {
    const int32_t half = n_rot / 2;
    int32_t i = 0;
    for (; i + 4 <= half; i += 4) {
        const float32x4x2_t ab = vld2q_f32(x + 2 * i);
        const float32x4_t c = vld1q_f32(table + i), s = vld1q_f32(table + half + i);
        const float32x4x2_t turned = {
            {vsubq_f32(vmulq_f32(ab.val[0], c), vmulq_f32(ab.val[1], s)),
             vaddq_f32(vmulq_f32(ab.val[1], c), vmulq_f32(ab.val[0], s))}};
        vst2q_f32(x + 2 * i, turned);
    }
    for (; i < half; i++) {
        const float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * table[i] - b * table[half + i];
        x[2 * i + 1] = b * table[i] + a * table[half + i];
    }
}

static void f32_to_f16(uint16_t *y, const float *x, int32_t n) {
    int32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1_u16(y + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
    }
    for (; i < n; i++) {
        y[i] = es_float_to_half(x[i]);
    }
}

static void f16_to_f32(float *y, const uint16_t *x, int32_t n) {
    int32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        vst1q_f32_x2(y + i, es_widen_halfs(x + i));
    }
    for (; i < n; i++) {
        y[i] = es_half_to_float(x[i]);
    }
}

void es_vector_neon(es_kernels *table) {
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
    table->vector_variant = "neon";
}
