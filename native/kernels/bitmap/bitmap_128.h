/* Bitmap formats in 128-bit registers, shared by NEON and its dot product: each byte of the bitmap looks
 * up where tbl finds its codes, and the codes before it are counted for a whole word at once. */
#ifndef ES_BITMAP_128_H
#define ES_BITMAP_128_H

#include "kernels/bitmap/bitmap.h"
#include "kernels/bitmap/expand_table.h"
#include "kernels/prefetch.h"
#include "kernels/vector/vector_neon.h"

/* A word of the bitmap and where the codes of each of its bytes begin. */
typedef struct es_bitmap_places {
    uint64_t word;
    uint64_t starts; /* byte i: codes before byte i of the word */
    size_t n;        /* codes in all */
} es_bitmap_places;

ES_INLINE es_bitmap_places es_places_of(uint64_t word) {
    const uint64_t counts = vget_lane_u64(vreinterpret_u64_u8(vcnt_u8(vcreate_u8(word))), 0);
    const uint64_t sums = counts * 0x0101010101010101; /* byte i: codes up to byte i, at most 64 */
    return (es_bitmap_places){word, sums << 8, sums >> 56};
}

/* Eight codes: byte i of the word, two rows of four columns; reads 16 bytes. */
ES_INLINE int8x8_t es_expand_byte(const uint8_t *v, const es_bitmap_places *p, const int i) {
    const uint8_t *codes = v + (p->starts >> 8 * i & 255);
    const uint8x8_t places = vld1_u8(es_expand_places[p->word >> 8 * i & 255]);
    return vreinterpret_s8_u8(vqtbl1_u8(vld1q_u8(codes), places));
}

/* Sixteen codes: four rows of four columns, bytes 2g and 2g + 1. */
ES_INLINE int8x16_t es_expand_sixteen(const uint8_t *v, const es_bitmap_places *p, const int g) {
    return vcombine_s8(es_expand_byte(v, p, 2 * g), es_expand_byte(v, p, 2 * g + 1));
}

/* Room for a block's codes as bytes, and what reading sixteen at a time passes them by. */
enum { ES_CODES_ROOM = 512 + 64 };

/* Nibbles of a block's codes as int8, two for every byte. */
ES_INLINE void es_unpack_nibbles(uint8_t *codes, const uint8_t *v, size_t n_bytes) {
    const uint8x16_t mask = vdupq_n_u8(15), zero = vdupq_n_u8(ES_BITMAP_NIBBLE_ZERO);
    for (size_t i = 0; i < n_bytes; i += 16) {
        const uint8x16_t bytes = vld1q_u8(v + i);
        const uint8x16x2_t both = {
            {vsubq_u8(vandq_u8(bytes, mask), zero), vsubq_u8(vshrq_n_u8(bytes, 4), zero)}};
        vst2q_u8(codes + 2 * i, both);
    }
}

/* Where the codes of a block lie as bytes, and what follows the block if that is known already. */
ES_INLINE const uint8_t *es_block_codes(const uint8_t *w, uint8_t *room, const uint8_t **next,
                                        const int format) {
    const uint8_t *v = w + ES_BITMAP_HEAD;
    if (format == ES_FORMAT_BMP8) {
        return v;
    }
    size_t n_bytes = 0;
    for (int c = 0; c < ES_BITMAP_CHUNKS; c++) {
        n_bytes += es_bitmap_bytes(format, es_places_of(es_bitmap_word(w, c)).n);
    }
    es_unpack_nibbles(room, v, n_bytes);
    *next = v + n_bytes;
    return room;
}

/* Bytes from a chunk's codes to the next one's: chunks of nibbles begin at whole bytes. */
ES_INLINE size_t es_chunk_codes(const es_bitmap_places *p, const int format) {
    return format == ES_FORMAT_BMP8 ? p->n : (p->n + 1) & ~(size_t)1;
}

/* Adds a block's products to the sixteen outputs: sums[g] is of rows 4g to 4g + 3. */
ES_INLINE void es_bitmap_finish(float32x4_t acc[4], const int32x4_t sums[4], const uint8_t *w,
                                float d) {
    for (int half = 0; half < 2; half++) {
        const float32x4x2_t steps = es_widen_halfs(w + 16 * half);
        for (int h = 0; h < 2; h++) {
            const int g = 2 * half + h;
            const float32x4_t step = vmulq_n_f32(steps.val[h], d);
            acc[g] = vaddq_f32(acc[g], vmulq_f32(vcvtq_f32_s32(sums[g]), step));
        }
    }
}

#endif
