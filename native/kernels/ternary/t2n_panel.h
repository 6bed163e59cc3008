/* Many tokens times neuron-major weights: panels of 64 outputs by 256 inputs under the tiles of
 * ternary_panel.h. A quad of a panel is four inputs; interleaving their packed rows byte by byte puts
 * the four codes of an output into one lane. A panel takes two of the four fields of 32 packed bytes:
 * with all of them, or fewer inputs, sums would be written more often or not fit the first-level cache
 * beside it.
 *
 * The includer defines, beside what ternary_panel.h asks for:
 *   t2n_vec, T2N_LANES        a vector, its 32-bit lanes
 *   t2n_interleave(out, w)    the packed bytes of four inputs for 128 outputs, at w[0 ... 3]: out[i] has,
 *                             in lane l, byte T2N_LANES * i + l of each
 *   t2n_codes(v, shift)       the codes at bits shift and shift + 1 of every byte
 *   t2n_store(p, v) */
#ifndef ES_T2N_PANEL_H
#define ES_T2N_PANEL_H

#include "ternary_panel.h"

enum {
    T2N_ROWS = 64,
    T2N_COLUMNS = 256, /* what the int16 sums of a tile hold */
    T2N_STRIP_BYTES = ES_PANEL_ROWS * T2N_COLUMNS,
    T2N_VECS = ES_TERNARY_BLOCK_BYTES / T2N_LANES
};
_Static_assert(T2N_ROWS *T2N_COLUMNS <= ES_TERNARY_SCRATCH_BYTES, "a panel fits its buffer");

/* n_columns inputs become strips of ES_PANEL_ROWS outputs, each a sequence of quads; `half` 0: outputs
 * 0-63 of the packed block at w, 1: 64-127. Inputs missing in the last quad repeat the last one: their
 * activations are zero. */
ES_INLINE void t2n_unpack(uint8_t *panel, const uint8_t *w, size_t row_bytes, size_t n_columns,
                          const int half) {
    for (size_t c = 0; c < n_columns; c += 4, panel += ES_QUAD_BYTES) {
        const uint8_t *rows[4];
        for (size_t r = 0; r < 4; r++) {
            rows[r] = w + es_min_size(c + r, n_columns - 1) * row_bytes;
        }
        t2n_vec packed[T2N_VECS];
        t2n_interleave(packed, rows);
        ES_UNROLL
        for (int f = 0; f < 2; f++) {
            ES_UNROLL
            for (int i = 0; i < T2N_VECS; i++) {
                const size_t row = (size_t)(32 * f + T2N_LANES * i);
                uint8_t *at = panel + row / ES_PANEL_ROWS * T2N_STRIP_BYTES +
                              row % ES_PANEL_ROWS * sizeof(int32_t);
                t2n_store(at, t2n_codes(packed[i], 6 - 2 * (f + 2 * half)));
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
