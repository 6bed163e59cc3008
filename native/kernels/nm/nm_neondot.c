/* 2:4 with sdot: a lane of codes is all four of a row in two groups.
 *
 * The int16 inputs are taken apart into upper bytes h and lower bytes l - 128, both signed:
 * q = 256 h + (l - 128) + 128. Largest sums of a block: 16 * 128 * 128 * 256 = 2^26. */
#include "kernels/nm/nm_128.h"

ES_INLINE void block_sums(int32x4_t sums[4], const uint8_t *block, const int16_t *q,
                          const int format) {
    es_nm_inputs inputs = es_nm_split(q);
    int32x4_t by256[4], by1[4], ones[4]; /* of rows 4g to 4g + 3 */
    for (int i = 0; i < 2; i++) {
        inputs.low[i] = veorq_u8(inputs.low[i], vdupq_n_u8(128));
    }
    for (int g = 0; g < 4; g++) {
        by256[g] = by1[g] = ones[g] = vdupq_n_s32(0);
    }
#pragma GCC unroll 4
    for (int s = 0; s < ES_NM_CHUNKS; s++) {
#pragma GCC unroll 2
        for (int u = 0; u < 2; u++) {
            int8x16_t codes[2];
            es_nm_codes(codes, block, s, u, format);
#pragma GCC unroll 2
            for (int i = 0; i < 2; i++) {
                const int g = 2 * u + i;
                const uint8x16_t at = es_nm_indices(block, s, g);
                const int8x16_t high = vreinterpretq_s8_u8(vqtbl1q_u8(inputs.high[s / 2], at));
                const int8x16_t low = vreinterpretq_s8_u8(vqtbl1q_u8(inputs.low[s / 2], at));
                by256[g] = vdotq_s32(by256[g], codes[i], high);
                by1[g] = vdotq_s32(by1[g], codes[i], low);
                ones[g] = vdotq_s32(ones[g], codes[i], vdupq_n_s8(1));
            }
        }
    }
    for (int g = 0; g < 4; g++) {
        const int32x4_t by128 = vaddq_s32(vaddq_s32(by256[g], by256[g]), ones[g]);
        sums[g] = vaddq_s32(by1[g], vshlq_n_s32(by128, 7));
    }
}

#include "kernels/nm/nm_dot_128.h"

ES_SPARSE_DOT(, nm8_dot, nm_dot, ES_FORMAT_NM8)
ES_SPARSE_DOT(, nm4_dot, nm_dot, ES_FORMAT_NM4)

void es_nm_neondot(es_kernels *table) {
    table->nm8_dot = nm8_dot;
    table->nm4_dot = nm4_dot;
    table->nm_variant = "neondot";
}
