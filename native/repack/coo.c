/* csr into coo, and the check that makes coo safe to read. */
#include "kernels/coo.h"

#include <math.h>
#include <string.h>

#include "kernels/csr/csr.h"
#include "kernels/half.h"

int es_coo_is_valid(const es_weight *w) {
    const size_t n_tiles = es_coo_tiles(w);
    if (w->k > ES_COO_MAX_K || w->n_bytes < es_coo_bytes(w, 0)) {
        return 0;
    }
    const uint32_t *index = (const uint32_t *)(const void *)w->data;
    if (index[0] != 0 || w->n_bytes != es_coo_bytes(w, index[n_tiles])) {
        return 0;
    }
    const es_coo coo = es_coo_of(w);
    for (size_t tile = 0; tile < n_tiles; tile++) {
        if (index[tile] > index[tile + 1]) {
            return 0;
        }
    }
    for (size_t i = 0; i < index[n_tiles]; i++) {
        if (coo.columns[i] >= w->k || coo.rows[i] >= ES_COO_ROWS || !isfinite(coo.values[i])) {
            return 0;
        }
    }
    return 1;
}

/* One block's entries, row by row, from column `first` on; returns how many there are. */
static size_t put_block(const csr_block *block, uint32_t first, float *values, uint16_t *columns,
                        uint8_t *rows) {
    const uint8_t *at[ES_BITMAP_ROWS][ES_BLOCK], *v = block->words + 4 * block->n_words;
    int counts[ES_BITMAP_ROWS] = {0};
    float steps[ES_BITMAP_ROWS] = {0};
    const unsigned live = es_csr_rows(block);
    for (int r = 0; r < ES_BITMAP_ROWS; r++) {
        if (live >> r & 1) {
            uint16_t half;
            memcpy(&half, v, sizeof half);
            steps[r] = es_half_to_float(half);
            v += 2;
        }
    }
    for (int n = 0; n < block->n_words; n++) {
        for (uint32_t word = es_csr_word(block, n); word != 0; word &= word - 1, v += 2) {
            const int r = __builtin_ctz(word) / 2;
            at[r][counts[r]++] = v;
        }
    }
    size_t n = 0;
    for (int r = 0; r < ES_BITMAP_ROWS; r++) {
        for (int i = 0; i < counts[r]; i++, n++) {
            columns[n] = (uint16_t)(first + at[r][i][0]);
            values[n] = (float)(int8_t)at[r][i][1] * steps[r];
            rows[n] = (uint8_t)r;
        }
    }
    return n;
}

static size_t count_entries(const es_weight *csr, const uint8_t *v) {
    const size_t n_blocks = es_coo_tiles(csr) * (((size_t)csr->k + ES_BLOCK - 1) / ES_BLOCK);
    size_t n = 0;
    for (size_t b = 0; b < n_blocks; b++) {
        const csr_block block = es_csr_block(v);
        for (int i = 0; i < block.n_words; i++) {
            n += (size_t)__builtin_popcount(es_csr_word(&block, i));
        }
        v += block.n_bytes;
    }
    return n;
}

int64_t es_coo_pack(const es_weight *csr, uint8_t *dst, size_t dst_bytes) {
    if (csr == NULL || csr->format != ES_FORMAT_CSR || csr->k > ES_COO_MAX_K ||
        !es_weight_is_valid(csr)) {
        return ES_E_ARGUMENT;
    }
    uint64_t begin; /* tiles follow one another behind their index */
    memcpy(&begin, csr->data, sizeof begin);
    const uint8_t *v = csr->data + begin;
    const size_t n = count_entries(csr, v), n_bytes = es_coo_bytes(csr, n);
    if (n > UINT32_MAX || (dst != NULL && n_bytes != dst_bytes)) {
        return ES_E_ARGUMENT;
    }
    if (dst == NULL) {
        return (int64_t)n_bytes;
    }
    memset(dst, 0, dst_bytes);
    const size_t n_tiles = es_coo_tiles(csr);
    uint32_t *index = (uint32_t *)(void *)dst;
    float *values = (float *)(void *)(index + n_tiles + 1);
    uint16_t *columns = (uint16_t *)(void *)(values + n);
    uint8_t *rows = (uint8_t *)(columns + n);
    size_t done = 0;
    for (size_t tile = 0; tile < n_tiles; tile++) {
        for (uint32_t first = 0; first < (uint32_t)csr->k; first += ES_BLOCK) {
            const csr_block block = es_csr_block(v);
            done += put_block(&block, first, values + done, columns + done, rows + done);
            v += block.n_bytes;
        }
        index[tile + 1] = (uint32_t)done;
    }
    return (int64_t)n_bytes;
}
