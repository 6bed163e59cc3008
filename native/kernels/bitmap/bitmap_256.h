/* Bitmap formats in 256-bit registers, shared by AVX2 and AVX-VNNI: each byte of the bitmap looks up
 * where pshufb finds its codes. The including file defines es_madd256 (kernels/dense/block256.h). */
#ifndef ES_BITMAP_256_H
#define ES_BITMAP_256_H

#include "kernels/prefetch.h"

#include <immintrin.h>
#include <string.h>

#include "kernels/bitmap/bitmap.h"
#include "kernels/bitmap/expand_table.h"

#define POPCNT __attribute__((target("popcnt")))

ES_INLINE __m128i eight(const void *p) {
    return _mm_loadl_epi64((const __m128i *)p);
}

/* The lower half of `low`, and eight bytes from p on above it. */
ES_INLINE __m128i with_upper(__m128i low, const void *p) {
    return _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(low), (const __m64 *)p));
}

/* Sixteen codes (four columns of four rows), of two bytes of the bitmap; advances *v. Bytes are read one
 * by one: shifting them out of a word would take two instructions where one load does. */
ES_INLINE POPCNT __m128i expand_sixteen(const uint8_t bits[2], const uint8_t **v) {
    const uint64_t low = bits[0], high = bits[1];
    const uint8_t *next = *v + _mm_popcnt_u64(low);
    const __m128i codes = with_upper(eight(*v), next);
    const __m128i places = with_upper(eight(es_expand_places[low]), es_expand_places[high]);
    *v = next + _mm_popcnt_u64(high);
    /* The upper eight are found from byte 8 on; 0x80, for none, stays. */
    return _mm_shuffle_epi8(codes, _mm_or_si128(places, _mm_set_epi64x(0x0808080808080808, 0)));
}

/* Nibbles of a block's codes as int8, two for every byte. */
ES_INLINE void unpack_nibbles(uint8_t *codes, const uint8_t *v, size_t n_bytes) {
    const __m128i mask = _mm_set1_epi8(15), zero = _mm_set1_epi8(ES_BITMAP_NIBBLE_ZERO);
    for (size_t i = 0; i < n_bytes; i += 16) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *)(v + i));
        const __m128i low = _mm_sub_epi8(_mm_and_si128(bytes, mask), zero);
        const __m128i high = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(bytes, 4), mask), zero);
        _mm_store_si128((__m128i *)(codes + 2 * i), _mm_unpacklo_epi8(low, high));
        _mm_store_si128((__m128i *)(codes + 2 * i + 16), _mm_unpackhi_epi8(low, high));
    }
}

/* Bytes of codes in a block of bmp4. */
ES_INLINE POPCNT size_t nibble_bytes(const uint8_t *w) {
    size_t n = 0;
    for (int c = 0; c < ES_BITMAP_CHUNKS; c++) {
        n += ((size_t)_mm_popcnt_u64(es_bitmap_word(w, c)) + 1) / 2;
    }
    return n;
}

/* Room for a block's codes as bytes, and what reading eight at a time passes them by. */
enum { ES_CODES_ROOM = 512 + 64 };

/* Where the codes of a block lie as bytes. */
ES_INLINE POPCNT const uint8_t *block_codes(const uint8_t *w, uint8_t *room, const uint8_t **next,
                                            const int format) {
    if (format == ES_FORMAT_BMP8) {
        return w + ES_BITMAP_HEAD;
    }
    const size_t n_bytes = nibble_bytes(w);
    unpack_nibbles(room, w + ES_BITMAP_HEAD, n_bytes);
    *next = w + ES_BITMAP_HEAD + n_bytes;
    return room;
}

/* Chunks of nibbles begin at whole bytes. */
ES_INLINE const uint8_t *chunk_end(const uint8_t *v, const uint8_t *room, const int format) {
    return format == ES_FORMAT_BMP8 ? v : room + (((size_t)(v - room) + 1) & ~(size_t)1);
}

ES_INLINE POPCNT void bitmap_dot256(float *y, const uint8_t *w, int32_t n_tiles, const es_q16 *x,
                                    const es_split *split, int32_t n_blocks, const int format) {
    (void)split;
    uint8_t room[ES_CODES_ROOM] __attribute__((aligned(64)));
    for (int32_t tile = 0; tile < n_tiles; tile++, y += ES_BITMAP_ROWS) {
        __m256 acc0 = _mm256_setzero_ps(), acc1 = _mm256_setzero_ps();
        for (size_t b = 0; b < (size_t)n_blocks; b++) {
            const uint8_t *next = NULL, *v = block_codes(w, room, &next, format);
            const int16_t *q = x->q + 32 * b;
            __m256i sums[4];
            for (int g = 0; g < 4; g++) {
                sums[g] = _mm256_setzero_si256();
            }
            es_prefetch_ahead(w, ES_BITMAP_HEAD);
#pragma GCC unroll 8
            for (int c = 0; c < ES_BITMAP_CHUNKS; c++) {
                const uint8_t *bits = w + ES_BITMAP_STEPS + 8 * c;
                int64_t columns;
                memcpy(&columns, q + 4 * c, sizeof columns);
                const __m256i x4 = _mm256_set1_epi64x(columns);
                if (format == ES_FORMAT_BMP8) {
                    es_prefetch_ahead(v, 64);
                }
#pragma GCC unroll 4
                for (int g = 0; g < 4; g++) {
                    const __m256i codes = _mm256_cvtepi8_epi16(expand_sixteen(bits + 2 * g, &v));
                    sums[g] = es_madd256(sums[g], codes, x4);
                }
                v = chunk_end(v, room, format);
            }
            const __m128i *halfs = (const __m128i *)w;
            const __m256 dx = _mm256_set1_ps(x->d[b]);
            for (int half = 0; half < 2; half++) {
                const __m256i both = _mm256_hadd_epi32(sums[2 * half], sums[2 * half + 1]);
                const __m256 sum =
                    _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(both, _MM_SHUFFLE(3, 1, 2, 0)));
                const __m256 d = _mm256_cvtph_ps(_mm_loadu_si128(halfs + half));
                const __m256 term = _mm256_mul_ps(sum, _mm256_mul_ps(d, dx));
                if (half == 0) {
                    acc0 = _mm256_add_ps(acc0, term);
                } else {
                    acc1 = _mm256_add_ps(acc1, term);
                }
            }
            w = format == ES_FORMAT_BMP8 ? v : next;
        }
        _mm256_storeu_ps(y, acc0);
        _mm256_storeu_ps(y + 8, acc1);
    }
}

/* Four rows of four columns by pairs of columns: pair 0 of rows 0 to 3, then pair 1. */
ES_INLINE __m128i by_pairs(__m128i codes) {
    const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    return _mm_shuffle_epi8(codes, order);
}

/* One block into the eight rows of two dense blocks. */
ES_INLINE POPCNT const uint8_t *expand_block(uint8_t *const tiles[2], const uint8_t *w,
                                             const int format) {
    uint8_t room[ES_CODES_ROOM] __attribute__((aligned(64)));
    const uint8_t *next = NULL, *v = block_codes(w, room, &next, format);
    __m128i pairs[2][2 * ES_BITMAP_CHUNKS];
    for (int c = 0; c < ES_BITMAP_CHUNKS; c++) {
        const uint8_t *bits = w + ES_BITMAP_STEPS + 8 * c;
        for (int t = 0; t < 2; t++) {
            const __m128i a = by_pairs(expand_sixteen(bits + 4 * t, &v));
            const __m128i b = by_pairs(expand_sixteen(bits + 4 * t + 2, &v));
            pairs[t][2 * c] = _mm_unpacklo_epi64(a, b);
            pairs[t][2 * c + 1] = _mm_unpackhi_epi64(a, b);
        }
        v = chunk_end(v, room, format);
    }
    for (int t = 0; t < 2; t++) {
        memcpy(tiles[t], w + ES_SCALE_BYTES * t, ES_SCALE_BYTES);
        __m128i *out = (__m128i *)(tiles[t] + ES_SCALE_BYTES);
        for (int i = 0; format == ES_FORMAT_BMP8 && i < 2 * ES_BITMAP_CHUNKS; i++) {
            _mm_storeu_si128(out + i, pairs[t][i]);
        }
        const __m128i zero = _mm_set1_epi8(ES_BITMAP_NIBBLE_ZERO);
        for (int i = 0; format == ES_FORMAT_BMP4 && i < ES_BITMAP_CHUNKS; i++) {
            const __m128i low = _mm_add_epi8(pairs[t][i], zero);
            const __m128i high = _mm_add_epi8(pairs[t][ES_BITMAP_CHUNKS + i], zero);
            _mm_storeu_si128(out + i, _mm_or_si128(low, _mm_slli_epi16(high, 4)));
        }
    }
    return format == ES_FORMAT_BMP8 ? v : next;
}

ES_SPARSE_DOT(POPCNT, bmp8_dot, bitmap_dot256, ES_FORMAT_BMP8)
ES_SPARSE_DOT(POPCNT, bmp4_dot, bitmap_dot256, ES_FORMAT_BMP4)

#endif
