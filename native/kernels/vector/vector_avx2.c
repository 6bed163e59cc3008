/* Vector kernels for AVX2 with F16C. */
#include "kernels.h"
#include "kernels/half.h"
#include "kernels/vector/vector.h"
#include "kernels/vector/vector_avx2.h"

#include <math.h>
#include <string.h>

static float sum_of_squares(const float *x, int32_t n) {
    __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + 8);
        low = _mm256_add_ps(low, _mm256_mul_ps(a, a));
        high = _mm256_add_ps(high, _mm256_mul_ps(b, b));
    }
    if (i < n) {
        const __m256 a = es_load_first(x + i, n - i);
        low = _mm256_add_ps(low, _mm256_mul_ps(a, a));
    }
    if (i + 8 < n) {
        const __m256 b = es_load_first(x + i + 8, n - i - 8);
        high = _mm256_add_ps(high, _mm256_mul_ps(b, b));
    }
    return es_fold16_avx2(low, high);
}

static void rmsnorm(float *y, const float *x, const float *w, int32_t n, float eps) {
    const float scalar = 1.0f / sqrtf(sum_of_squares(x, n) / (float)n + eps);
    const __m256 r = _mm256_set1_ps(scalar);
    int32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + i), r);
        _mm256_storeu_ps(y + i, _mm256_mul_ps(scaled, _mm256_loadu_ps(w + i)));
    }
    if (i < n) {
        const __m256 scaled = _mm256_mul_ps(es_load_first(x + i, n - i), r);
        es_store_first(y + i, _mm256_mul_ps(scaled, es_load_first(w + i, n - i)), n - i);
    }
}

static float largest_magnitude(const float *x, int32_t n) {
    __m256 m0 = _mm256_setzero_ps(), m1 = m0, m2 = m0, m3 = m0;
    int32_t i = 0;
    for (; i + 32 <= n; i += 32) {
        m0 = _mm256_max_ps(es_abs_avx2(_mm256_loadu_ps(x + i)), m0);
        m1 = _mm256_max_ps(es_abs_avx2(_mm256_loadu_ps(x + i + 8)), m1);
        m2 = _mm256_max_ps(es_abs_avx2(_mm256_loadu_ps(x + i + 16)), m2);
        m3 = _mm256_max_ps(es_abs_avx2(_mm256_loadu_ps(x + i + 24)), m3);
    }
    for (; i < n; i += 8) {
        m0 = _mm256_max_ps(es_abs_avx2(es_load_first(x + i, n - i)), m0);
    }
    return es_max8_avx2(_mm256_max_ps(_mm256_max_ps(m0, m1), _mm256_max_ps(m2, m3)));
}

/* Four registers of codes in 32-bit lanes to 32 int8: the packs work within 128-bit halves. */
ES_INLINE_AVX2 __m256i pack_i8(const __m256i code[4]) {
    const __m256i mixed = _mm256_packs_epi16(_mm256_packs_epi32(code[0], code[1]),
                                             _mm256_packs_epi32(code[2], code[3]));
    return _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

ES_INLINE_AVX2 int32_t sum8_i32(__m256i v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_unpackhi_epi64(s, s));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 1)));
}

/* Rounded codes of up to eight values, saturated to [low, high]. */
ES_INLINE_AVX2 __m256i round_codes(__m256 x, __m256 factor, float low, float high) {
    const __m256 v = _mm256_max_ps(_mm256_mul_ps(x, factor), _mm256_set1_ps(low));
    return _mm256_cvtps_epi32(_mm256_min_ps(v, _mm256_set1_ps(high)));
}

static float quantize_i8(int8_t *q, int32_t *sum, const float *x, int32_t n, int32_t n_padded) {
    const float amax = largest_magnitude(x, n);
    const float s = 127.0f / (amax > 1e-5f ? amax : 1e-5f);
    const __m256 factor = _mm256_set1_ps(s);
    __m256i total = _mm256_setzero_si256();
    __m256i code[4];
    int32_t i = 0;
    for (; i + 32 <= n; i += 32) {
        for (int c = 0; c < 4; c++) {
            code[c] = round_codes(_mm256_loadu_ps(x + i + 8 * c), factor, -128.0f, 127.0f);
            total = _mm256_add_epi32(total, code[c]);
        }
        _mm256_storeu_si256((__m256i *)(q + i), pack_i8(code));
    }
    if (i < n) {
        int8_t tail[32];
        for (int c = 0; c < 4; c++) {
            const __m256 v = es_load_first(x + i + 8 * c, n - i - 8 * c);
            code[c] = round_codes(v, factor, -128.0f, 127.0f);
            total = _mm256_add_epi32(total, code[c]);
        }
        _mm256_storeu_si256((__m256i *)tail, pack_i8(code));
        memcpy(q + i, tail, (size_t)(n - i));
    }
    memset(q + n, 0, (size_t)(n_padded - n));
    *sum = sum8_i32(total);
    return s;
}

/* Up to 32 values of a block, zeros beyond n; returns the largest magnitude. */
ES_INLINE_AVX2 float load_block(__m256 v[4], const float *x, int32_t n) {
    for (int c = 0; c < 4; c++) {
        const int32_t left = n - 8 * c;
        v[c] = left >= 8 ? _mm256_loadu_ps(x + 8 * c)
                         : (left > 0 ? es_load_first(x + 8 * c, left) : _mm256_setzero_ps());
    }
    const __m256 m01 = _mm256_max_ps(es_abs_avx2(v[0]), es_abs_avx2(v[1]));
    const __m256 m23 = _mm256_max_ps(es_abs_avx2(v[2]), es_abs_avx2(v[3]));
    return es_max8_avx2(_mm256_max_ps(m01, m23));
}

static void quantize_i8_blocks(int8_t *q, float *d, int32_t *sum, float *xsum, const float *x,
                               int32_t n) {
    for (int32_t b = 0; 32 * b < n; b++, q += 32) {
        __m256 v[4];
        __m256i code[4];
        const float amax = load_block(v, x + 32 * b, n - 32 * b);
        if (amax < 1e-30f) {
            memset(q, 0, 32);
            d[b] = xsum[b] = 0.0f;
            sum[b] = 0;
            continue;
        }
        const __m256 factor = _mm256_set1_ps(127.0f / amax);
        for (int c = 0; c < 4; c++) {
            code[c] = round_codes(v[c], factor, -127.0f, 127.0f);
        }
        _mm256_storeu_si256((__m256i *)q, pack_i8(code));
        d[b] = amax / 127.0f;
        sum[b] = sum8_i32(_mm256_add_epi32(_mm256_add_epi32(code[0], code[1]),
                                           _mm256_add_epi32(code[2], code[3])));
        xsum[b] = d[b] * (float)sum[b];
    }
}

static void quantize_i16(int16_t *q, float *d, int32_t *sum, float *xsum, const float *x,
                         int32_t n) {
    for (int32_t b = 0; 32 * b < n; b++, q += 32) {
        __m256 v[4];
        __m256i code[4];
        const float amax = load_block(v, x + 32 * b, n - 32 * b);
        if (amax < 1e-30f) {
            memset(q, 0, 32 * sizeof *q);
            d[b] = xsum[b] = 0.0f;
            sum[b] = 0;
            continue;
        }
        const __m256 factor = _mm256_set1_ps(32767.0f / amax);
        for (int c = 0; c < 4; c++) {
            code[c] = round_codes(v[c], factor, -32767.0f, 32767.0f);
        }
        for (int c = 0; c < 4; c += 2) {
            const __m256i mixed = _mm256_packs_epi32(code[c], code[c + 1]);
            _mm256_storeu_si256((__m256i *)(q + 8 * c), _mm256_permute4x64_epi64(mixed, 0xd8));
        }
        d[b] = amax / 32767.0f;
        sum[b] = sum8_i32(_mm256_add_epi32(_mm256_add_epi32(code[0], code[1]),
                                           _mm256_add_epi32(code[2], code[3])));
        xsum[b] = d[b] * (float)sum[b];
    }
}

ES_INLINE_AVX2 __m256 relu2(__m256 gate, __m256 up) {
    const __m256 m = _mm256_max_ps(gate, _mm256_setzero_ps());
    return _mm256_mul_ps(_mm256_mul_ps(m, m), up);
}

ES_INLINE_AVX2 __m256 relu(__m256 gate, __m256 up) {
    return _mm256_mul_ps(_mm256_max_ps(gate, _mm256_setzero_ps()), up);
}

ES_INLINE_AVX2 __m256 silu(__m256 gate, __m256 up) {
    const __m256 e = es_exp_avx2(_mm256_xor_ps(gate, _mm256_set1_ps(-0.0f)));
    return _mm256_mul_ps(_mm256_div_ps(gate, _mm256_add_ps(_mm256_set1_ps(1.0f), e)), up);
}

ES_INLINE_AVX2 __m256 gelu(__m256 gate, __m256 up) {
    const __m256 one = _mm256_set1_ps(1.0f);
    const __m256 cube = _mm256_mul_ps(_mm256_mul_ps(gate, gate), _mm256_set1_ps(ES_GELU_CUBE));
    const __m256 t =
        _mm256_mul_ps(_mm256_add_ps(cube, one), _mm256_mul_ps(gate, _mm256_set1_ps(ES_GELU_SLOPE)));
    const __m256 e = es_exp_avx2(_mm256_xor_ps(t, _mm256_set1_ps(-0.0f)));
    return _mm256_mul_ps(_mm256_div_ps(gate, _mm256_add_ps(one, e)), up);
}

ES_INLINE_AVX2 __m256 sum(__m256 a, __m256 b) {
    return _mm256_add_ps(a, b);
}

/* y[i] = function(a[i], b[i]) */
#define EACH(function, y, a, b, n)                                                               \
    do {                                                                                         \
        int32_t i = 0;                                                                           \
        for (; i + 8 <= (n); i += 8) {                                                           \
            _mm256_storeu_ps((y) + i,                                                            \
                             function(_mm256_loadu_ps((a) + i), _mm256_loadu_ps((b) + i)));      \
        }                                                                                        \
        if (i < (n)) {                                                                           \
            const int32_t left = (n) - i;                                                        \
            es_store_first((y) + i,                                                              \
                           function(es_load_first((a) + i, left), es_load_first((b) + i, left)), \
                           left);                                                                \
        }                                                                                        \
    } while (0)

static void glu_relu2(float *y, const float *gate, const float *up, int32_t n) {
    EACH(relu2, y, gate, up, n);
}

static void glu_relu(float *y, const float *gate, const float *up, int32_t n) {
    EACH(relu, y, gate, up, n);
}

static void glu_silu(float *y, const float *gate, const float *up, int32_t n) {
    EACH(silu, y, gate, up, n);
}

static void glu_gelu(float *y, const float *gate, const float *up, int32_t n) {
    EACH(gelu, y, gate, up, n);
}

static void add(float *y, const float *x, int32_t n) {
    EACH(sum, y, y, x, n);
}

ES_INLINE_AVX2 __m256 scaled(const int32_t *sums, int32_t offset, __m256 factor) {
    const __m256i sum = _mm256_loadu_si256((const __m256i *)(const void *)sums);
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(sum, _mm256_set1_epi32(offset))),
                         factor);
}

/* One token; far stores want whole lines of 64 bytes. `live` is of a kind that does not add. */
ES_INLINE_AVX2 void scale_token(float *y, const int32_t *sums, int32_t offset, const float *scales,
                                const int shared, float s, const float *live, const int masked,
                                int32_t n_rows, const es_store_kind kind) {
    const __m256 first = _mm256_set1_ps(scales[0] / s), divisor = _mm256_set1_ps(s);
    int32_t r = 0;
    for (; r + 8 <= n_rows; r += 8) {
        const __m256 factor = shared ? first : _mm256_div_ps(_mm256_loadu_ps(scales + r), divisor);
        __m256 value = scaled(sums + r, offset, factor);
        if (masked) {
            const __m256 gate = _mm256_loadu_ps(live + r);
            value = _mm256_and_ps(value, _mm256_cmp_ps(gate, _mm256_setzero_ps(), _CMP_GT_OQ));
        }
        if (kind == ES_STORE_FAR) {
            _mm256_stream_ps(y + r, value);
        } else if (kind == ES_STORE_ADD) {
            _mm256_storeu_ps(y + r, _mm256_add_ps(_mm256_loadu_ps(y + r), value));
        } else {
            _mm256_storeu_ps(y + r, value);
        }
    }
    for (; r < n_rows; r++) {
        const float value = (float)(sums[r] - offset) * ((shared ? scales[0] : scales[r]) / s);
        if (kind == ES_STORE_ADD) {
            y[r] = y[r] + value;
        } else {
            y[r] = !masked || live[r] > 0.0f ? value : 0.0f;
        }
    }
}

/* Tokens between the one that is scaled and the one whose gates are asked for: they come from memory, in
 * runs too short for a prefetcher. */
enum { LIVE_AHEAD = 8 };

ES_INLINE_AVX2 void scale_tokens(float *y, size_t y_stride, const int32_t *sums, size_t sums_stride,
                                 const es_scaling *by, const int shared, const int masked,
                                 int32_t n_rows, int32_t n_tokens, const es_store_kind kind) {
    const float *live = by->live;
    for (int32_t t = 0; t < n_tokens; t++, y += y_stride, sums += sums_stride) {
        const int32_t offset = by->qsum != NULL ? by->qsum[t] : 0;
        if (masked && t + LIVE_AHEAD < n_tokens) {
            for (int32_t r = 0; r < n_rows; r += 16) {
                __builtin_prefetch(live + LIVE_AHEAD * by->live_stride + r, 0, 3);
            }
        }
        scale_token(y, sums, offset, by->scales, shared, by->s[t], live, masked, n_rows, kind);
        live = masked ? live + by->live_stride : NULL;
    }
}

ES_INLINE_AVX2 void scale_kind(float *y, size_t y_stride, const int32_t *sums, size_t sums_stride,
                               const es_scaling *by, const int masked, int32_t n_rows,
                               int32_t n_tokens, es_store_kind kind) {
    const int whole_lines = (uintptr_t)y % 64 == 0 && y_stride % 16 == 0 && n_rows % 16 == 0;
    if (!by->shared) {
        scale_tokens(y, y_stride, sums, sums_stride, by, 0, masked, n_rows, n_tokens, ES_STORE);
    } else if (kind == ES_STORE_FAR && whole_lines) {
        scale_tokens(y, y_stride, sums, sums_stride, by, 1, masked, n_rows, n_tokens, ES_STORE_FAR);
        _mm_sfence(); /* far stores are not ordered: other threads read them after this job */
    } else {
        scale_tokens(y, y_stride, sums, sums_stride, by, 1, masked, n_rows, n_tokens, ES_STORE);
    }
}

static void scale_sums(float *y, size_t y_stride, const int32_t *sums, size_t sums_stride,
                       const es_scaling *by, int32_t n_rows, int32_t n_tokens, es_store_kind kind) {
    if (kind == ES_STORE_ADD && by->shared) {
        scale_tokens(y, y_stride, sums, sums_stride, by, 1, 0, n_rows, n_tokens, ES_STORE_ADD);
    } else if (kind == ES_STORE_ADD) {
        scale_tokens(y, y_stride, sums, sums_stride, by, 0, 0, n_rows, n_tokens, ES_STORE_ADD);
    } else if (by->live != NULL) {
        scale_kind(y, y_stride, sums, sums_stride, by, 1, n_rows, n_tokens, kind);
    } else {
        scale_kind(y, y_stride, sums, sums_stride, by, 0, n_rows, n_tokens, kind);
    }
}

static void rope_neox(float *x, const float *table, int32_t n_rot) {
    const int32_t half = n_rot / 2;
    for (int32_t i = 0; i < half; i += 8) {
        const int32_t left = half - i;
        const __m256 a = es_load_first(x + i, left), b = es_load_first(x + half + i, left);
        const __m256 c = es_load_first(table + i, left), s = es_load_first(table + half + i, left);
        const __m256 a1 = _mm256_sub_ps(_mm256_mul_ps(a, c), _mm256_mul_ps(b, s));
        const __m256 b1 = _mm256_add_ps(_mm256_mul_ps(b, c), _mm256_mul_ps(a, s));
        es_store_first(x + i, a1, left);
        es_store_first(x + half + i, b1, left);
    }
}

static void rope_norm(float *x, const float *table, int32_t n_rot) {
    const int32_t half = n_rot / 2;
    const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    for (int32_t i = 0; i < half; i += 4) {
        const int32_t left = half - i < 4 ? half - i : 4;
        const __m256 c = _mm256_permutevar8x32_ps(es_load_first(table + i, left), twice);
        const __m256 s = _mm256_permutevar8x32_ps(es_load_first(table + half + i, left), twice);
        const __m256 ab = es_load_first(x + 2 * i, 2 * left);
        const __m256 ba = _mm256_permute_ps(ab, 0xb1);
        /* even: a*c - b*s, odd: b*c + a*s */
        const __m256 turned = _mm256_addsub_ps(_mm256_mul_ps(ab, c), _mm256_mul_ps(ba, s));
        es_store_first(x + 2 * i, turned, 2 * left);
    }
}

static void f32_to_f16(uint16_t *y, const float *x, int32_t n) {
    int32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_loadu_ps(x + i);
        _mm_storeu_si128((__m128i *)(y + i), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
    for (; i < n; i++) {
        y[i] = es_float_to_half(x[i]);
    }
}

static void f16_to_f32(float *y, const uint16_t *x, int32_t n) {
    int32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + i))));
    }
    for (; i < n; i++) {
        y[i] = es_half_to_float(x[i]);
    }
}

void es_vector_avx2(es_kernels *table) {
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
    table->vector_variant = "avx2";
}
