/* csr for NEON (ARMv8.0): smlal, int16 times int16 into int32. */
#include "kernels/csr/csr_128.h"

/* Adds the products of sixteen entries, two of eight rows each, to pairs of lanes: 16 * 128 * 32767 at
 * most. */
ES_INLINE void add_products(int32x4_t pairs[4], uint8x16_t first, uint8x16_t second,
                            const uint8x16x2_t inputs[2]) {
    const uint8x16_t columns = vuzp1q_u8(first, second);
    const int8x16_t codes = vreinterpretq_s8_u8(vuzp2q_u8(first, second));
    const uint8x16_t low = vqtbl2q_u8(inputs[0], columns), high = vqtbl2q_u8(inputs[1], columns);
    const int16x8_t x[2] = {vreinterpretq_s16_u8(vzip1q_u8(low, high)),
                            vreinterpretq_s16_u8(vzip2q_u8(low, high))};
    const int16x8_t w[2] = {vmovl_s8(vget_low_s8(codes)), vmovl_high_s8(codes)};
    for (int i = 0; i < 2; i++) {
        pairs[2 * i] = vmlal_s16(pairs[2 * i], vget_low_s16(w[i]), vget_low_s16(x[i]));
        pairs[2 * i + 1] = vmlal_high_s16(pairs[2 * i + 1], w[i], x[i]);
    }
}

ES_INLINE const uint8_t *tile_dot(float *y, const uint8_t *w, const es_q16 *x, int32_t n_blocks) {
    const float32x4_t none = vdupq_n_f32(0.0f);
    float32x4_t acc[4] = {none, none, none, none};
    for (size_t b = 0; b < (size_t)n_blocks; b++) {
        const csr_block block = es_csr_block(w);
        es_prefetch_ahead(w, block.n_bytes);
        uint8x16_t steps[2];
        uint8x16x2_t inputs[2];
        const uint8_t *v = es_csr_steps(steps, &block);
        es_csr_split(inputs, x->q + 32 * b);
        int32x4_t pairs[8], sums[4]; /* pairs[i]: rows 2i and 2i + 1 */
        for (int i = 0; i < 8; i++) {
            pairs[i] = vdupq_n_s32(0);
        }
        for (int n = 0; n < block.n_words; n++) {
            const es_csr_starts s = es_csr_starts_of(es_csr_word(&block, n));
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                add_products(pairs + 4 * half, es_csr_entries(v, &s, 2 * half),
                             es_csr_entries(v, &s, 2 * half + 1), inputs);
            }
            v += 2 * s.n;
        }
        for (int g = 0; g < 4; g++) {
            sums[g] = vpaddq_s32(pairs[2 * g], pairs[2 * g + 1]);
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

void es_csr_neon(es_kernels *table) {
    table->csr_dot = csr_dot;
    table->csr_variant = "neon";
}
