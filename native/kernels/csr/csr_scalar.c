/* csr in plain C: the definition for every other instruction set. */
#include "kernels/half.h"

#include "kernels/bitmap/table.h"
#include "kernels/csr/csr.h"

/* Steps of all rows, as halfs, 0 where a row has no entry; returns where the entries begin. */
ES_INLINE const uint8_t *csr_steps(uint16_t steps[ES_BITMAP_ROWS], const csr_block *block) {
    const unsigned rows = es_csr_rows(block);
    const uint8_t *v = block->words + 4 * block->n_words;
    for (int r = 0; r < ES_BITMAP_ROWS; r++) {
        steps[r] = 0;
        if (rows >> r & 1) {
            memcpy(&steps[r], v, sizeof steps[r]);
            v += sizeof steps[r];
        }
    }
    return v;
}

static void csr_dot(float *y, const uint8_t *w, int32_t n_tiles, const es_q16 *x,
                    const es_split *split, int32_t n_blocks) {
    (void)split;
    for (int32_t tile = 0; tile < n_tiles; tile++, y += ES_BITMAP_ROWS) {
        float acc[ES_BITMAP_ROWS] = {0};
        for (int32_t b = 0; b < n_blocks; b++) {
            const csr_block block = es_csr_block(w);
            int32_t sums[ES_BITMAP_ROWS] = {0};
            uint16_t steps[ES_BITMAP_ROWS];
            const uint8_t *v = csr_steps(steps, &block);
            for (int n = 0; n < block.n_words; n++) {
                for (uint32_t word = es_csr_word(&block, n); word != 0; word &= word - 1, v += 2) {
                    sums[__builtin_ctz(word) / 2] += (int8_t)v[1] * x->q[32 * b + v[0]];
                }
            }
            for (int r = 0; r < ES_BITMAP_ROWS; r++) {
                acc[r] = acc[r] + (float)sums[r] * (es_half_to_float(steps[r]) * x->d[b]);
            }
            w += block.n_bytes;
        }
        memcpy(y, acc, sizeof acc);
    }
}

ES_INLINE const uint8_t *expand_block(uint8_t *const at[2], const uint8_t *w, int format) {
    const size_t block_bytes = es_block_bytes(es_dense_format(format));
    const csr_block block = es_csr_block(w);
    uint16_t steps[ES_BITMAP_ROWS];
    const uint8_t *v = csr_steps(steps, &block);
    for (int t = 0; t < 2; t++) {
        memcpy(at[t], steps + ES_TILE * t, ES_SCALE_BYTES);
        memset(at[t] + ES_SCALE_BYTES, 0, block_bytes - ES_SCALE_BYTES);
    }
    for (int n = 0; n < block.n_words; n++) {
        for (uint32_t word = es_csr_word(&block, n); word != 0; word &= word - 1, v += 2) {
            const int row = __builtin_ctz(word) / 2;
            at[row / ES_TILE][ES_SCALE_BYTES + v[0] / 2 * 16 + row % ES_TILE * 2 + v[0] % 2] = v[1];
        }
    }
    return w + block.n_bytes;
}

ES_SPARSE_EXPAND(, csr_expand, expand_block, ES_FORMAT_CSR)

void es_csr_scalar(es_kernels *table) {
    table->csr_dot = csr_dot;
    table->csr_expand = csr_expand; /* few entries: no other instruction set has anything better */
    table->csr_variant = "scalar";
}
