/* csr in 128-bit registers, shared by NEON and its dot product: each byte of a word looks up where tbl
 * finds its entries, and tbl over the bytes of a block's inputs looks up those of their columns. */
#ifndef ES_CSR_128_H
#define ES_CSR_128_H

#include "kernels/csr/csr.h"
#include "kernels/csr/places.h"
#include "kernels/prefetch.h"
#include "kernels/vector/vector_neon.h"

/* The numbers of eight set bits in turn, two bytes each; reads 16 bytes. */
ES_INLINE uint8x16_t es_csr_eight(unsigned byte, const uint8_t *v) {
    return vqtbl1q_u8(vld1q_u8(v), vld1q_u8(es_csr_places[byte]));
}

/* A word, and where the entries of each of its bytes begin. */
typedef struct es_csr_starts {
    uint32_t word;
    uint32_t starts; /* byte i: entries before byte i of the word, at most 24 */
    unsigned n;      /* entries in all */
} es_csr_starts;

ES_INLINE es_csr_starts es_csr_starts_of(uint32_t word) {
    const uint8x8_t counts = vcnt_u8(vreinterpret_u8_u32(vdup_n_u32(word)));
    const uint32_t sums = vget_lane_u32(vreinterpret_u32_u8(counts), 0) * 0x01010101u;
    return (es_csr_starts){word, sums << 8, sums >> 24};
}

/* Byte g of the word: two entries of rows 4g to 4g + 3, (column, code) each, zeros where there is none. */
ES_INLINE uint8x16_t es_csr_entries(const uint8_t *v, const es_csr_starts *s, const int g) {
    return es_csr_eight(s->word >> 8 * g & 255, v + 2 * (s->starts >> 8 * g & 255));
}

/* The bytes of a block's inputs: [0] the lower, [1] the upper ones of 32 columns. */
ES_INLINE void es_csr_split(uint8x16x2_t bytes[2], const int16_t *q) {
    const uint8x16x2_t first = vld2q_u8((const uint8_t *)q);
    const uint8x16x2_t second = vld2q_u8((const uint8_t *)(q + 16));
    for (int i = 0; i < 2; i++) {
        bytes[i].val[0] = first.val[i];
        bytes[i].val[1] = second.val[i];
    }
}

/* Steps of all rows, 0 where a row has no entry; returns where the entries begin. */
ES_INLINE const uint8_t *es_csr_steps(uint8x16_t steps[2], const csr_block *block) {
    const unsigned rows = es_csr_rows(block);
    const uint8_t *v = block->words + 4 * block->n_words;
    const es_csr_starts s = es_csr_starts_of(rows);
    steps[0] = es_csr_entries(v, &s, 0);
    steps[1] = es_csr_entries(v, &s, 1);
    return v + 2 * s.n;
}

/* Adds a block's products to the sixteen outputs: sums[g] is of rows 4g to 4g + 3. */
ES_INLINE void es_csr_finish(float32x4_t acc[4], const int32x4_t sums[4],
                             const uint8x16_t steps[2], float d) {
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

#endif
