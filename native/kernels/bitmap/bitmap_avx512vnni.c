/* Bitmap formats in 512-bit registers, expanded by vpexpandb (AVX-512 VBMI2).
 *
 * A lane of an expanded register is four columns of a row. The int16 inputs are taken apart into
 * upper bytes h, signed, and lower bytes l, unsigned, as vpdpbusd wants one factor of either kind:
 * q = 256 h + l. Where there is no VBMI2 the 256-bit kernels stay in the table. */
#include "kernels/prefetch.h"

#include <immintrin.h>
#include <string.h>

#include "kernels/bitmap/bitmap.h"

#define VBMI2 __attribute__((target("avx512vbmi2,popcnt")))

/* int8 codes of one chunk from `bytes`, which can be read for 64 bytes. */
ES_INLINE VBMI2 __m512i expand8(uint64_t word, const uint8_t *bytes) {
    return _mm512_maskz_expand_epi8(word, _mm512_loadu_si512(bytes));
}

/* Nibbles of one chunk, those of value 0 being 8. */
ES_INLINE VBMI2 __m512i expand4(uint64_t word, const uint8_t *bytes) {
    const __m512i wide = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)bytes));
    const __m512i nibbles =
        _mm512_and_si512(_mm512_or_si512(wide, _mm512_slli_epi16(wide, 4)), _mm512_set1_epi8(15));
    return _mm512_mask_expand_epi8(_mm512_set1_epi8(ES_BITMAP_NIBBLE_ZERO), word, nibbles);
}

ES_INLINE __m512i four(const uint8_t *bytes) {
    int32_t all;
    memcpy(&all, bytes, sizeof all);
    return _mm512_set1_epi32(all);
}

/* One tile; returns what follows it. */
ES_INLINE VBMI2 const uint8_t *tile_dot(float *y, const uint8_t *w, const es_q16 *x,
                                        const es_split *split, int32_t n_blocks, const int format) {
    __m512 acc = _mm512_setzero_ps();
    for (size_t b = 0; b < (size_t)n_blocks; b++) {
        const uint8_t *v = w + ES_BITMAP_HEAD, *low = split->bytes + 64 * b, *high = low + 32;
        /* Signed codes meet h as unsigned ones, code + 128, whose surplus `centre` takes away. */
        __m512i sum_high =
            format == ES_FORMAT_BMP8 ? _mm512_set1_epi32(split->centre[b]) : _mm512_setzero_si512();
        __m512i sum_low = format == ES_FORMAT_BMP8
                              ? _mm512_setzero_si512()
                              : _mm512_set1_epi32(-ES_BITMAP_NIBBLE_ZERO * x->sum[b]);
        es_prefetch_ahead(w, ES_BITMAP_HEAD);
#pragma GCC unroll 8
        for (int c = 0; c < ES_BITMAP_CHUNKS; c++) {
            const uint64_t word = es_bitmap_word(w, c);
            const size_t n = (size_t)_mm_popcnt_u64(word);
            __m512i codes, stored;
            if (format == ES_FORMAT_BMP8) {
                codes = expand8(word, v);
                stored = _mm512_xor_si512(codes, _mm512_set1_epi8(-128));
            } else {
                codes = stored = expand4(word, v);
            }
            if (c % (format == ES_FORMAT_BMP8 ? 2 : 4) == 0) { /* all lines, if half are zeros */
                es_prefetch_ahead(v, 64);
            }
            v += es_bitmap_bytes(format, n);
            sum_low = _mm512_dpbusd_epi32(sum_low, four(low + 4 * c), codes);
            sum_high = _mm512_dpbusd_epi32(sum_high, stored, four(high + 4 * c));
        }
        const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(sum_high, 8), sum_low);
        const __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)w));
        const __m512 step = _mm512_mul_ps(d, _mm512_set1_ps(x->d[b]));
        acc = _mm512_add_ps(acc, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), step));
        w = v;
    }
    _mm512_storeu_ps(y, acc);
    return w;
}

static VBMI2 void bmp8_dot(float *y, const uint8_t *w, int32_t n_tiles, const es_q16 *x,
                           const es_split *split, int32_t n_blocks) {
    for (int32_t tile = 0; tile < n_tiles; tile++, y += ES_BITMAP_ROWS) {
        w = tile_dot(y, w, x, split, n_blocks, ES_FORMAT_BMP8);
    }
}

static VBMI2 void bmp4_dot(float *y, const uint8_t *w, int32_t n_tiles, const es_q16 *x,
                           const es_split *split, int32_t n_blocks) {
    for (int32_t tile = 0; tile < n_tiles; tile++, y += ES_BITMAP_ROWS) {
        w = tile_dot(y, w, x, split, n_blocks, ES_FORMAT_BMP4);
    }
}

/* Pairs of columns that lie side by side in a row come to lie side by side over the rows of a dense
 * tile: the lower half of the register is rows 0 to 7, the upper one rows 8 to 15. */
ES_INLINE __m512i by_pairs(__m512i codes) {
    const __m512i order =
        _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 30, 28, 26, 24, 22, 20, 18, 16, 15, 13, 11,
                         9, 7, 5, 3, 1, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutexvar_epi16(order, codes);
}

ES_INLINE void store_halves(uint8_t *low, uint8_t *high, __m512i v) {
    _mm256_storeu_si256((__m256i *)low, _mm512_castsi512_si256(v));
    _mm256_storeu_si256((__m256i *)high, _mm512_extracti64x4_epi64(v, 1));
}

ES_INLINE VBMI2 const uint8_t *expand_block8(uint8_t *const tiles[2], const uint8_t *w,
                                             int format) {
    const uint8_t *v = w + ES_BITMAP_HEAD;
    (void)format;
    memcpy(tiles[0], w, ES_SCALE_BYTES);
    memcpy(tiles[1], w + ES_SCALE_BYTES, ES_SCALE_BYTES);
    es_prefetch_ahead(w, ES_BITMAP_HEAD);
    for (int c = 0; c < ES_BITMAP_CHUNKS; c++) {
        const uint64_t word = es_bitmap_word(w, c);
        const size_t at = ES_SCALE_BYTES + 32 * (size_t)c;
        es_prefetch_ahead(v, 64);
        store_halves(tiles[0] + at, tiles[1] + at, by_pairs(expand8(word, v)));
        v += _mm_popcnt_u64(word);
    }
    return v;
}

ES_INLINE VBMI2 const uint8_t *expand_block4(uint8_t *const tiles[2], const uint8_t *w,
                                             int format) {
    const uint8_t *v = w + ES_BITMAP_HEAD;
    __m512i nibbles[ES_BITMAP_CHUNKS];
    memcpy(tiles[0], w, ES_SCALE_BYTES);
    memcpy(tiles[1], w + ES_SCALE_BYTES, ES_SCALE_BYTES);
    es_prefetch_ahead(w, ES_BITMAP_HEAD);
#pragma GCC unroll 8
    for (int c = 0; c < ES_BITMAP_CHUNKS; c++) {
        const uint64_t word = es_bitmap_word(w, c);
        es_prefetch_ahead(v, 32);
        nibbles[c] = by_pairs(expand4(word, v));
        v += es_bitmap_bytes(format, (size_t)_mm_popcnt_u64(word));
    }
#pragma GCC unroll 4
    for (int c = 0; c < ES_BITMAP_CHUNKS / 2; c++) {
        const size_t at = ES_SCALE_BYTES + 32 * (size_t)c;
        const __m512i upper = _mm512_slli_epi16(nibbles[c + ES_BITMAP_CHUNKS / 2], 4);
        store_halves(tiles[0] + at, tiles[1] + at, _mm512_or_si512(nibbles[c], upper));
    }
    return v;
}

ES_SPARSE_EXPAND(VBMI2, bmp8_expand, expand_block8, ES_FORMAT_BMP8)
ES_SPARSE_EXPAND(VBMI2, bmp4_expand, expand_block4, ES_FORMAT_BMP4)

/* Per block 32 lower bytes, then 32 upper ones; centre: -128 times the sum of the upper ones. */
static void split_q16(uint8_t *bytes, int32_t *centre, const int16_t *q, int32_t n_blocks) {
    for (size_t b = 0; b < (size_t)n_blocks; b++) {
        const __m512i v = _mm512_loadu_si512(q + 32 * b);
        const __m256i high = _mm512_cvtepi16_epi8(_mm512_srai_epi16(v, 8));
        _mm256_storeu_si256((__m256i *)(bytes + 64 * b), _mm512_cvtepi16_epi8(v));
        _mm256_storeu_si256((__m256i *)(bytes + 64 * b + 32), high);
        centre[b] =
            -128 * _mm512_reduce_add_epi32(_mm512_dpwssd_epi32(
                       _mm512_setzero_si512(), _mm512_srai_epi16(v, 8), _mm512_set1_epi16(1)));
    }
}

void es_bitmap_avx512vnni(es_kernels *table) {
    if (__builtin_cpu_supports("avx512vbmi2")) {
        table->bmp8_dot = bmp8_dot;
        table->bmp4_dot = bmp4_dot;
        table->bmp8_expand = bmp8_expand;
        table->bmp4_expand = bmp4_expand;
        table->split_q16 = split_q16;
        table->bitmap_variant = "avx512vbmi2";
    }
}
