/* Dense dot products with sdot and udot: an int16 activation is 256 times a signed byte plus an
 * unsigned one, q = 256 h + l, and a code is multiplied by both.
 *
 * Four columns of a row lie in one 32-bit lane; a register is four rows. Stored codes of q4 and q6 are
 * bytes of either sign. q8's are signed: what meets the unsigned byte is the code + 128, and 128 times
 * the sum of l is taken off. Largest sums of a block: 32 * 128 * 128 * 256 < 2^28, 32 * 255 * 255. */
#include "kernels/dense/dense.h"
#include "kernels/vector/vector_neon.h"

/* Sixteen registers of sums; the bytes of the activations take as many again. */
enum { ES_BLOCK_TOKENS = 4 };

/* One token's block of 32 activations, as bytes, and its sums for rows 0-3 and 4-7. */
typedef struct es_dot_token {
    int8x16_t h[2];
    uint8x16_t l[2];
    int32x4_t by256[2];
    uint32x4_t by1[2];
} es_dot_token;

/* q6 weaves the columns c and c + 2 together: quads are (c, c + 2, c + 1, c + 3). */
ES_INLINE es_dot_token es_split_token(const int16_t *q, const int format) {
    es_dot_token t;
    for (int i = 0; i < 2; i++) {
        const uint8_t *p = (const uint8_t *)(q + 16 * i);
        const uint8x16_t a = vld1q_u8(p), b = vld1q_u8(p + 16);
        if (format == ES_FORMAT_Q6) {
            static const uint8_t low[16] = {0,  4,  2,  6,  8,  12, 10, 14,
                                            16, 20, 18, 22, 24, 28, 26, 30};
            const uint8x16x2_t both = {{a, b}};
            const uint8x16_t order = vld1q_u8(low);
            t.l[i] = vqtbl2q_u8(both, order);
            t.h[i] = vreinterpretq_s8_u8(vqtbl2q_u8(both, vorrq_u8(order, vdupq_n_u8(1))));
        } else {
            t.l[i] = vuzp1q_u8(a, b);
            t.h[i] = vreinterpretq_s8_u8(vuzp2q_u8(a, b));
        }
        t.by256[i] = vdupq_n_s32(0);
        t.by1[i] = vdupq_n_u32(0);
    }
    return t;
}

/* Quad number `quad` of four rows (half 0 or 1); `stored` is what meets the unsigned bytes. */
ES_INLINE void es_quad(es_dot_token *t, const int half, const int quad, int8x16_t codes,
                       uint8x16_t stored) {
#define ES_LANE(lane)                                                                  \
    case lane:                                                                         \
        t->by256[half] = vdotq_laneq_s32(t->by256[half], codes, t->h[quad / 4], lane); \
        t->by1[half] = vdotq_laneq_u32(t->by1[half], stored, t->l[quad / 4], lane);    \
        break
    switch (quad % 4) {
        ES_LANE(0);
        ES_LANE(1);
        ES_LANE(2);
        ES_LANE(3);
    }
#undef ES_LANE
}

ES_INLINE void es_add_quad(es_dot_token *tokens, const int half, const int quad, uint8x16_t codes,
                           const int format, const int n_tokens) {
    const int is_signed = format == ES_FORMAT_Q8 || format == ES_FORMAT_Q8M;
    const uint8x16_t stored = is_signed ? veorq_u8(codes, vdupq_n_u8(128)) : codes;
    for (int t = 0; t < n_tokens; t++) {
        es_quad(&tokens[t], half, quad, vreinterpretq_s8_u8(codes), stored);
    }
}

/* Two column pairs of eight rows, 16 bytes each, as the quads of rows 0-3 and 4-7. */
ES_INLINE uint8x16x2_t es_load_quads(const uint8_t *p) {
    const uint16x8_t a = vreinterpretq_u16_u8(vld1q_u8(p));
    const uint16x8_t b = vreinterpretq_u16_u8(vld1q_u8(p + 16));
    return (uint8x16x2_t){
        {vreinterpretq_u8_u16(vzip1q_u16(a, b)), vreinterpretq_u8_u16(vzip2q_u16(a, b))}};
}

ES_INLINE void es_byte_quads(es_dot_token *tokens, const uint8_t *codes, const int format,
                             const int n_tokens) {
    const uint8x16_t mask = vdupq_n_u8(15);
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
        if (es_is_nibble(format)) {
            const uint8x16x2_t both = es_load_quads(codes + 32 * g);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const uint8x16_t first = vandq_u8(both.val[half], mask);
                const uint8x16_t second = vshrq_n_u8(both.val[half], 4);
                es_add_quad(tokens, half, g, first, format, n_tokens);
                es_add_quad(tokens, half, 4 + g, second, format, n_tokens);
            }
        } else {
            const uint8x16x2_t first = es_load_quads(codes + 64 * g);
            const uint8x16x2_t second = es_load_quads(codes + 64 * g + 32);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                es_add_quad(tokens, half, 2 * g, first.val[half], format, n_tokens);
                es_add_quad(tokens, half, 2 * g + 1, second.val[half], format, n_tokens);
            }
        }
    }
}

ES_INLINE uint16x8_t es_q6_words(const uint8_t *codes, const int i, const int half) {
    return vreinterpretq_u16_u8(vld1q_u8(codes + 32 * i + 16 * half));
}

/* The lower bytes of two words, of a into the lower one. */
ES_INLINE uint8x16_t es_weave(uint16x8_t a, uint16x8_t b) {
    return vreinterpretq_u8_u16(vsliq_n_u16(a, b, 8));
}

/* Words 2i and 2i + 1 hold a quad of their first codes, one of their second codes and, but for the
 * last two words, the lower four bits of one of the last two quads. */
ES_INLINE void es_q6_quads(es_dot_token *tokens, const uint8_t *codes, const int n_tokens) {
    const uint8x16_t six = vdupq_n_u8(63);
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
#pragma GCC unroll 3
        for (int i = 0; i < 3; i++) {
            const uint16x8_t a = es_q6_words(codes, 2 * i, half);
            const uint16x8_t b = es_q6_words(codes, 2 * i + 1, half);
            const uint8x16_t second = es_weave(vshrq_n_u16(a, 6), vshrq_n_u16(b, 6));
            es_add_quad(tokens, half, i, vandq_u8(es_weave(a, b), six), ES_FORMAT_Q6, n_tokens);
            es_add_quad(tokens, half, 3 + i, vandq_u8(second, six), ES_FORMAT_Q6, n_tokens);
            if (i < 2) {
                /* Bits 12 and 13 belong to the word's first pair of columns, 14 and 15 to its second. */
                const uint16x8_t bits = es_q6_words(codes, 4 + i, half);
                uint16x8_t last = vsliq_n_u16(vshrq_n_u16(a, 12), vshrq_n_u16(b, 12), 8);
                last = vbslq_u16(vdupq_n_u16(0x0030), vshrq_n_u16(bits, 8), last);
                last = vbslq_u16(vdupq_n_u16(0x3000), vshrq_n_u16(bits, 2), last);
                es_add_quad(tokens, half, 6 + i, vreinterpretq_u8_u16(last), ES_FORMAT_Q6,
                            n_tokens);
            }
        }
    }
}

ES_INLINE void es_block_sums(int32x4x2_t *sums, const uint8_t *codes, const int16_t *q,
                             size_t q_stride, const int format, const int n_tokens) {
    es_dot_token tokens[ES_BLOCK_TOKENS];
    for (int t = 0; t < n_tokens; t++) {
        tokens[t] = es_split_token(q + (size_t)t * q_stride, format);
    }
    if (format == ES_FORMAT_Q6) {
        es_q6_quads(tokens, codes, n_tokens);
    } else {
        es_byte_quads(tokens, codes, format, n_tokens);
    }
    for (int t = 0; t < n_tokens; t++) {
        int32x4_t taken = vdupq_n_s32(0);
        if (format == ES_FORMAT_Q8 || format == ES_FORMAT_Q8M) {
            const uint8x16_t by128 = vdupq_n_u8(128);
            const uint32x4_t l =
                vdotq_u32(vdotq_u32(vdupq_n_u32(0), tokens[t].l[0], by128), tokens[t].l[1], by128);
            taken = vdupq_n_s32((int32_t)vaddvq_u32(l));
        }
        for (int half = 0; half < 2; half++) {
            const int32x4_t lower = vsubq_s32(vreinterpretq_s32_u32(tokens[t].by1[half]), taken);
            sums[t].val[half] = vaddq_s32(lower, vshlq_n_s32(tokens[t].by256[half], 8));
        }
    }
}

#include "kernels/dense/block128.h"

#define block_dot es_block_dot128
#include "kernels/dense/dense_table.h"

ES_DENSE_BLOCK_KERNELS

void es_dense_neondot(es_kernels *table) {
    ES_DENSE_SET_BLOCKS(table, "neondot");
}
