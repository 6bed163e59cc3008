/* csr with sdot: a lane of two words' entries is four of a row.
 *
 * The int16 inputs are taken apart into upper bytes h and lower bytes l - 128, both signed:
 * q = 256 h + (l - 128) + 128. Largest sums of a block: 32 * 128 * 128 * 256 < 2^28. */
#include "kernels/csr/csr_128.h"

/* Sums of rows 4g to 4g + 3: with upper and lower bytes, and of the codes themselves. */
typedef struct lanes {
    int32x4_t by256[4], by1[4], codes[4];
} lanes;

ES_INLINE void add_products(lanes *sums, const int g, uint8x16_t first, uint8x16_t second,
                            const uint8x16x2_t inputs[2]) {
    const uint8x16_t columns = vtrn1q_u8(first, second);
    const int8x16_t codes = vreinterpretq_s8_u8(vtrn2q_u8(first, second));
    const int8x16_t low = vreinterpretq_s8_u8(vqtbl2q_u8(inputs[0], columns));
    const int8x16_t high = vreinterpretq_s8_u8(vqtbl2q_u8(inputs[1], columns));
    sums->by256[g] = vdotq_s32(sums->by256[g], codes, high);
    sums->by1[g] = vdotq_s32(sums->by1[g], codes, low);
    sums->codes[g] = vdotq_s32(sums->codes[g], codes, vdupq_n_s8(1));
}

ES_INLINE const uint8_t *tile_dot(float *y, const uint8_t *w, const es_q16 *x, int32_t n_blocks) {
    const float32x4_t none = vdupq_n_f32(0.0f);
    const uint8x16_t sign = vdupq_n_u8(128);
    float32x4_t acc[4] = {none, none, none, none};
    for (size_t b = 0; b < (size_t)n_blocks; b++) {
        const csr_block block = es_csr_block(w);
        es_prefetch_ahead(w, block.n_bytes);
        uint8x16_t steps[2];
        uint8x16x2_t inputs[2];
        const uint8_t *v = es_csr_steps(steps, &block);
        es_csr_split(inputs, x->q + 32 * b);
        inputs[0].val[0] = veorq_u8(inputs[0].val[0], sign);
        inputs[0].val[1] = veorq_u8(inputs[0].val[1], sign);
        lanes all;
        int32x4_t sums[4];
        for (int g = 0; g < 4; g++) {
            all.by256[g] = all.by1[g] = all.codes[g] = vdupq_n_s32(0);
        }
        int n = 0;
        for (; n + 2 <= block.n_words; n += 2) {
            const es_csr_starts first = es_csr_starts_of(es_csr_word(&block, n));
            const es_csr_starts second = es_csr_starts_of(es_csr_word(&block, n + 1));
            const uint8_t *next = v + 2 * first.n;
#pragma GCC unroll 4
            for (int g = 0; g < 4; g++) {
                add_products(&all, g, es_csr_entries(v, &first, g),
                             es_csr_entries(next, &second, g), inputs);
            }
            v = next + 2 * second.n;
        }
        if (n < block.n_words) {
            const es_csr_starts last = es_csr_starts_of(es_csr_word(&block, n));
#pragma GCC unroll 4
            for (int g = 0; g < 4; g++) {
                add_products(&all, g, es_csr_entries(v, &last, g), vdupq_n_u8(0), inputs);
            }
        }
        for (int g = 0; g < 4; g++) {
            const int32x4_t upper = vshlq_n_s32(vaddq_s32(vaddq_s32(all.by256[g], all.by256[g]),
                                                          all.codes[g]), 7);
            sums[g] = vaddq_s32(all.by1[g], upper);
        }
        es_csr_finish(acc, sums, steps, x->d[b]);
        w += block.n_bytes;
    }
    for (int g = 0; g < 4; g++) {
        vst1q_f32(y + 4 * g, acc[g]);
    }
    return w;
}

static void csr_dot(float *y, const uint8_t *w, int32_t n_tiles, const es_q16 *x,
                    const es_split *split, int32_t n_blocks) {
    (void)split;
    for (int32_t tile = 0; tile < n_tiles; tile++, y += ES_BITMAP_ROWS) {
        w = tile_dot(y, w, x, n_blocks);
    }
}

void es_csr_neondot(es_kernels *table) {
    table->csr_dot = csr_dot;
    table->csr_variant = "neondot";
}
