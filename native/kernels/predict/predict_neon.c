/* Sign planes for NEON: eor, and cnt for the set bits of every byte. */
#include "predict.h"

#include "kernels/prefetch.h"
#include "kernels/vector/vector_neon.h"

/* Runs whose counts, at most 16 a byte and run, stay below 256. */
enum { FOLD_RUNS = 15 };

static void sign_bits(uint8_t *bits, size_t n_bytes, const float *x, int32_t n) {
    int32_t i = 0;
    memset(bits, 0, n_bytes);
    for (; i + 8 <= n; i += 8) {
        const uint32x4_t low = vcltzq_f32(vld1q_f32(x + i));
        const uint32x4_t high = vcltzq_f32(vld1q_f32(x + i + 4));
        bits[i / 8] = es_gather_bits(vcombine_u16(vmovn_u32(low), vmovn_u32(high)));
    }
    for (; i < n; i++) {
        bits[i / 8] = (uint8_t)(bits[i / 8] | (x[i] < 0.0f) << i % 8);
    }
}

/* Set bits of sixteen bytes that differ, by byte. */
ES_INLINE uint8x16_t differ(const uint8_t *w, size_t plane_bytes, const uint8_t *x,
                            const int masked) {
    uint8x16_t v = veorq_u8(vld1q_u8(w), vld1q_u8(x));
    if (masked) {
        v = vandq_u8(v, vld1q_u8(w + plane_bytes));
    }
    return vcntq_u8(v);
}

ES_INLINE int32_t count(const uint8_t *w, size_t plane_bytes, const uint8_t *x, const int masked) {
    uint32x4_t total = vdupq_n_u32(0);
    for (size_t b = 0; b < plane_bytes;) {
        const size_t left = plane_bytes - b, most = FOLD_RUNS * ES_SIGN_RUN;
        const size_t end = b + (left < most ? left : most);
        uint8x16_t sums = vdupq_n_u8(0);
        for (; b < end; b += ES_SIGN_RUN) {
            es_prefetch_ahead(w + b, ES_SIGN_RUN);
            if (masked) {
                es_prefetch_ahead(w + plane_bytes + b, ES_SIGN_RUN);
            }
            sums = vaddq_u8(sums, vaddq_u8(differ(w + b, plane_bytes, x + b, masked),
                                           differ(w + b + 16, plane_bytes, x + b + 16, masked)));
        }
        total = vpadalq_u16(total, vpaddlq_u8(sums));
    }
    return (int32_t)vaddvq_u32(total);
}

static void sign_votes(int32_t *votes, const uint8_t *w, size_t plane_bytes, int32_t masked,
                       int32_t n_rows, const uint8_t *x) {
    for (int32_t r = 0; r < n_rows; r++) {
        if (masked) {
            votes[r] = count(w, plane_bytes, x, 1);
            w += 2 * plane_bytes;
        } else {
            votes[r] = count(w, plane_bytes, x, 0);
            w += plane_bytes;
        }
    }
}

void es_predict_neon(es_kernels *table) {
    table->sign_bits = sign_bits;
    table->sign_votes = sign_votes;
    table->signs_variant = "neon";
}
