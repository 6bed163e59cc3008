/* Many tokens times neuron-major weights, for the x86 variants: panels of 64 outputs by 256 inputs
 * under the tiles of ternary_panel.h. A quad of a panel is four inputs; interleaving their packed rows
 * byte by byte puts the four codes of an output into one lane. A panel takes two of the four fields of
 * 32 packed bytes: with all of them, or fewer inputs, sums would be written more often or not fit the
 * first-level cache beside it. */
#ifndef ES_T2N_256_H
#define ES_T2N_256_H

#include "ternary_panel.h"

#include <immintrin.h>

enum {
    T2N_ROWS = 64,
    T2N_COLUMNS = 256, /* what the int16 sums of a tile hold */
    T2N_STRIP_BYTES = ES_PANEL_ROWS * T2N_COLUMNS
};
_Static_assert(T2N_ROWS *T2N_COLUMNS <= ES_TERNARY_SCRATCH_BYTES, "a panel fits its buffer");

/* The packed bytes of four inputs for 128 outputs, at w[0 ... 3]: out[i] has, in lane l, byte 8 i + l
 * of each. */
ES_INLINE void t2n_interleave(__m256i out[4], const uint8_t *const w[4]) {
    __m256i row[4];
    ES_UNROLL
    for (int r = 0; r < 4; r++) {
        row[r] = _mm256_loadu_si256((const __m256i *)w[r]);
    }
    const __m256i lo01 = _mm256_unpacklo_epi8(row[0], row[1]);
    const __m256i hi01 = _mm256_unpackhi_epi8(row[0], row[1]);
    const __m256i lo23 = _mm256_unpacklo_epi8(row[2], row[3]);
    const __m256i hi23 = _mm256_unpackhi_epi8(row[2], row[3]);
    const __m256i v0 = _mm256_unpacklo_epi16(lo01, lo23), v1 = _mm256_unpackhi_epi16(lo01, lo23);
    const __m256i v2 = _mm256_unpacklo_epi16(hi01, hi23), v3 = _mm256_unpackhi_epi16(hi01, hi23);
    out[0] = _mm256_permute2x128_si256(v0, v1, 0x20);
    out[1] = _mm256_permute2x128_si256(v2, v3, 0x20);
    out[2] = _mm256_permute2x128_si256(v0, v1, 0x31);
    out[3] = _mm256_permute2x128_si256(v2, v3, 0x31);
}

/* n_columns inputs become strips of ES_PANEL_ROWS outputs, each a sequence of quads; `half` 0: outputs
 * 0-63 of the packed block at w, 1: 64-127. Inputs missing in the last quad repeat the last one: their
 * activations are zero. */
ES_INLINE void t2n_unpack(uint8_t *panel, const uint8_t *w, size_t row_bytes, size_t n_columns,
                          const int half) {
    const __m256i three = _mm256_set1_epi8(3);
    for (size_t c = 0; c < n_columns; c += 4, panel += ES_QUAD_BYTES) {
        const uint8_t *rows[4];
        for (size_t r = 0; r < 4; r++) {
            rows[r] = w + es_min_size(c + r, n_columns - 1) * row_bytes;
        }
        __m256i packed[4];
        t2n_interleave(packed, rows);
        ES_UNROLL
        for (int f = 0; f < 2; f++) {
            ES_UNROLL
            for (int i = 0; i < 4; i++) {
                const size_t row = (size_t)(32 * f + 8 * i);
                const __m256i moved = _mm256_srli_epi16(packed[i], 6 - 2 * (f + 2 * half));
                uint8_t *at = panel + row / ES_PANEL_ROWS * T2N_STRIP_BYTES +
                              row % ES_PANEL_ROWS * sizeof(int32_t);
                _mm256_store_si256((__m256i *)at, _mm256_and_si256(moved, three));
            }
        }
    }
}

static void t2n_dot(int32_t *sums, size_t sums_stride, const uint8_t *w, size_t row_bytes,
                    int32_t n_rows, const int8_t *q, size_t q_stride, int32_t n_tokens, int32_t k) {
    _Alignas(64) uint8_t panel[T2N_ROWS * T2N_COLUMNS];
    const size_t rows = (size_t)n_rows, columns = (size_t)k, tokens = (size_t)n_tokens;
    for (size_t r = 0; r < rows; r += T2N_ROWS) {
        for (size_t c = 0; c < columns; c += T2N_COLUMNS) {
            const size_t n = es_min_size(T2N_COLUMNS, columns - c);
            const uint8_t *chunk = w + c * row_bytes + r / ES_T2_BLOCK * ES_TERNARY_BLOCK_BYTES;
            if (r % ES_T2_BLOCK == 0) {
                t2n_unpack(panel, chunk, row_bytes, n, 0);
            } else {
                t2n_unpack(panel, chunk, row_bytes, n, 1);
            }
            /* The next inputs arrive from memory while these are multiplied. */
            const size_t left = es_min_size(T2N_COLUMNS, columns - c - n);
            for (size_t i = n; i < n + left; i++) {
                es_prefetch(chunk, i * row_bytes);
            }
            for (size_t s = 0; s < T2N_ROWS && r + s < rows; s += ES_PANEL_ROWS) {
                for (size_t t = 0; t < tokens; t += ES_TILE_TOKENS) {
                    es_panel_tile(
                        sums + t * sums_stride + r + s, sums_stride, panel + s * T2N_COLUMNS,
                        es_min_size(ES_PANEL_ROWS, rows - r - s), q + t * q_stride + c, q_stride,
                        es_min_size(ES_TILE_TOKENS, tokens - t), (n + 3) & ~(size_t)3, c > 0);
                }
            }
        }
    }
}

#endif
