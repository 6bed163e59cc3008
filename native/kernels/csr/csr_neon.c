/* csr for NEON (ARMv8.0), smlal, int16 times int16 into int32: each byte of a word looks up where tbl
 * finds its entries, and tbl over the bytes of a block's inputs looks up those of their columns.
 *
 * sdot does not help: a lane would take four entries of a row, so a word of two leaves half of it empty;
 * bench/arm_counts.py counted 515 instructions and 178 cycles for 1,000 weights on a Cortex-A76 instead of
 * 487 and 176. */
#include "kernels/csr/csr.h"
#include "kernels/csr/places.h"
#include "kernels/prefetch.h"
#include "kernels/vector/vector_neon.h"

/* The numbers of eight set bits in turn, two bytes each; reads 16 bytes. */
ES_INLINE uint8x16_t eight_numbers(unsigned byte, const uint8_t *v) {
    return vqtbl1q_u8(vld1q_u8(v), vld1q_u8(es_csr_places[byte]));
}

/* A word, and where the entries of each of its bytes begin. */
typedef struct word_starts {
    uint32_t word;
    uint32_t starts; /* byte i: entries before byte i of the word, at most 24 */
    unsigned n;      /* entries in all */
} word_starts;

ES_INLINE word_starts starts_of(uint32_t word) {
    const uint8x8_t counts = vcnt_u8(vreinterpret_u8_u32(vdup_n_u32(word)));
    const uint32_t sums = vget_lane_u32(vreinterpret_u32_u8(counts), 0) * 0x01010101u;
    return (word_starts){word, sums << 8, sums >> 24};
}

/* Byte g of the word: two entries of rows 4g to 4g + 3, (column, code) each, zeros where there is none. */
ES_INLINE uint8x16_t entries_of(const uint8_t *v, const word_starts *s, const int g) {
    return eight_numbers(s->word >> 8 * g & 255, v + 2 * (s->starts >> 8 * g & 255));
}

/* The bytes of a block's inputs: [0] the lower, [1] the upper ones of 32 columns. */
ES_INLINE void split_inputs(uint8x16x2_t bytes[2], const int16_t *q) {
    const uint8x16x2_t first = vld2q_u8((const uint8_t *)q);
    const uint8x16x2_t second = vld2q_u8((const uint8_t *)(q + 16));
    for (int i = 0; i < 2; i++) {
        bytes[i].val[0] = first.val[i];
        bytes[i].val[1] = second.val[i];
    }
}

/* Steps of all rows, 0 where a row has no entry; returns where the entries begin. */
ES_INLINE const uint8_t *steps_of(uint8x16_t steps[2], const csr_block *block) {
    const unsigned rows = es_csr_rows(block);
    const uint8_t *v = block->words + 4 * block->n_words;
    const word_starts s = starts_of(rows);
    steps[0] = entries_of(v, &s, 0);
    steps[1] = entries_of(v, &s, 1);
    return v + 2 * s.n;
}

/* Adds a block's products to the sixteen outputs: sums[g] is of rows 4g to 4g + 3. */
ES_INLINE void finish(float32x4_t acc[4], const int32x4_t sums[4], const uint8x16_t steps[2],
                      float d) {
    for (int half = 0; half < 2; half++) {
        const float16x8_t h = vreinterpretq_f16_u8(steps[half]);
        const float32x4_t wide[2] = {vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h)};
        for (int i = 0; i < 2; i++) {
            const int g = 2 * half + i;
            const float32x4_t step = vmulq_n_f32(wide[i], d);
            acc[g] = vaddq_f32(acc[g], vmulq_f32(vcvtq_f32_s32(sums[g]), step));
        }
    }
}

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
        const uint8_t *v = steps_of(steps, &block);
        split_inputs(inputs, x->q + 32 * b);
        int32x4_t pairs[8], sums[4]; /* pairs[i]: rows 2i and 2i + 1 */
        for (int i = 0; i < 8; i++) {
            pairs[i] = vdupq_n_s32(0);
        }
        for (int n = 0; n < block.n_words; n++) {
            const word_starts s = starts_of(es_csr_word(&block, n));
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                add_products(pairs + 4 * half, entries_of(v, &s, 2 * half),
                             entries_of(v, &s, 2 * half + 1), inputs);
            }
            v += 2 * s.n;
        }
        for (int g = 0; g < 4; g++) {
            sums[g] = vpaddq_s32(pairs[2 * g], pairs[2 * g + 1]);
        }
        finish(acc, sums, steps, x->d[b]);
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
