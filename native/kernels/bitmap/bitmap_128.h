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

/* Bytes of codes in a block of bmp4: half the bits of each word, rounded up. */
ES_INLINE size_t es_nibble_bytes(const uint8_t *w) {
    uint64x2_t sum = vdupq_n_u64(0);
    for (int i = 0; i < 4; i++) {
        const uint8x16_t counts = vcntq_u8(vld1q_u8(w + ES_BITMAP_STEPS + 16 * i));
        sum = vrsraq_n_u64(sum, vpaddlq_u32(vpaddlq_u16(vpaddlq_u8(counts))), 1);
    }
    return (size_t)vaddvq_u64(sum);
}

/* One block, its codes as bytes. */
typedef struct es_bitmap_block {
    const uint8_t *w;
    const uint8_t *codes; /* of the next chunk */
    const uint8_t *next;  /* bmp4: the next block */
    uint8_t room[ES_CODES_ROOM] __attribute__((aligned(64)));
} es_bitmap_block;

ES_INLINE void es_block_open(es_bitmap_block *block, const uint8_t *w, const int format) {
    block->w = w;
    block->codes = w + ES_BITMAP_HEAD;
    es_prefetch_ahead(w, ES_BITMAP_HEAD);
    if (format == ES_FORMAT_BMP4) {
        const size_t n_bytes = es_nibble_bytes(w);
        es_prefetch_ahead(block->codes, n_bytes);
        es_unpack_nibbles(block->room, block->codes, n_bytes);
        block->next = block->codes + n_bytes;
        block->codes = block->room;
    }
}

/* Chunk c, after the one before it, and where its codes begin. */
ES_INLINE es_bitmap_places es_block_chunk(es_bitmap_block *block, int c, const uint8_t **v,
                                          const int format) {
    const es_bitmap_places p = es_places_of(es_bitmap_word(block->w, c));
    *v = block->codes;
    if (format == ES_FORMAT_BMP8) {
        es_prefetch_ahead(*v, ES_CACHE_LINE);
        block->codes += p.n;
    } else {
        block->codes += (p.n + 1) & ~(size_t)1; /* chunks begin at whole bytes */
    }
    return p;
}

/* What follows a block whose chunks have been read. */
ES_INLINE const uint8_t *es_block_end(const es_bitmap_block *block, const int format) {
    return format == ES_FORMAT_BMP8 ? block->codes : block->next;
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
