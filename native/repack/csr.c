/* Blocks into csr, and the check that makes csr safe to read. */
#include "validate.h"
#include "without_zeros.h"

#include <string.h>

#include "kernels/csr/csr.h"

size_t es_csr_put(uint8_t *to, const es_codes_block *block) {
    uint8_t columns[ES_BITMAP_ROWS][ES_BLOCK];
    int counts[ES_BITMAP_ROWS] = {0}, most = 0;
    size_t n_bytes = ES_CSR_HEAD;
    for (int r = 0; r < ES_BITMAP_ROWS; r++) {
        for (int i = 0; i < ES_BLOCK; i++) {
            if (block->codes[i / 4][4 * r + i % 4] != 0) {
                columns[r][counts[r]++] = (uint8_t)i;
            }
        }
        most = counts[r] > most ? counts[r] : most;
        n_bytes += counts[r] > 0 ? 2 + 2 * (size_t)counts[r] : 0;
    }
    const int n_words = (most + 1) / 2;
    n_bytes += 4 * (size_t)n_words;
    if (to == NULL) {
        return n_bytes;
    }
    const uint16_t head = (uint16_t)(n_bytes | (size_t)n_words << ES_CSR_LENGTH_BITS);
    memcpy(to, &head, sizeof head);
    uint8_t *v = to + ES_CSR_HEAD + 4 * n_words;
    for (int r = 0; r < ES_BITMAP_ROWS; r++) {
        if (counts[r] > 0) {
            memcpy(v, block->steps + 2 * r, 2);
            v += 2;
        }
    }
    for (int n = 0; n < n_words; n++) {
        uint32_t word = 0;
        for (int bit = 0; bit < 2 * ES_BITMAP_ROWS; bit++) {
            const int r = bit / 2, entry = 2 * n + bit % 2;
            if (entry < counts[r]) {
                const int column = columns[r][entry];
                word |= 1u << bit;
                *v++ = (uint8_t)column;
                *v++ = (uint8_t)block->codes[column / 4][4 * r + column % 4];
            }
        }
        memcpy(to + ES_CSR_HEAD + 4 * n, &word, sizeof word);
    }
    return n_bytes;
}

/* Whether a block of at most `room` bytes means what it says: as many bytes as its words, no entry
 * without the one before it, columns within the block and ascending along a row, codes that are not 0,
 * finite steps. */
static int block_is_valid(const uint8_t *at, size_t room, size_t *n_bytes) {
    if (room < ES_CSR_HEAD) {
        return 0;
    }
    const csr_block block = es_csr_block(at);
    *n_bytes = block.n_bytes;
    if (block.n_words > ES_CSR_MAX_WORDS || block.n_bytes > room ||
        block.n_bytes < ES_CSR_HEAD + 4 * (size_t)block.n_words) {
        return 0;
    }
    size_t expected = ES_CSR_HEAD + 4 * (size_t)block.n_words;
    uint32_t before = 0xaaaaaaaau; /* rows with a second entry in the word before */
    for (int n = 0; n < block.n_words; n++) {
        const uint32_t word = es_csr_word(&block, n);
        const uint32_t firsts = word & 0x55555555u, seconds = word & 0xaaaaaaaau;
        if (word == 0 || (firsts << 1 & ~before) != 0 || (seconds >> 1 & ~firsts) != 0) {
            return 0;
        }
        before = seconds;
        expected += 2 * (size_t)__builtin_popcount(word);
    }
    expected += 2 * (size_t)__builtin_popcount(es_csr_rows(&block));
    if (expected != block.n_bytes) {
        return 0;
    }
    const uint8_t *v = block.words + 4 * block.n_words;
    for (int n = __builtin_popcount(es_csr_rows(&block)); n > 0; n--, v += 2) {
        if ((v[1] & 0x7c) == 0x7c) {
            return 0;
        }
    }
    int last[ES_BITMAP_ROWS];
    memset(last, 0xff, sizeof last); /* -1 */
    for (int n = 0; n < block.n_words; n++) {
        for (uint32_t word = es_csr_word(&block, n); word != 0; word &= word - 1, v += 2) {
            const int r = __builtin_ctz(word) / 2;
            if (v[0] >= ES_BLOCK || v[0] <= last[r] || v[1] == 0) {
                return 0;
            }
            last[r] = v[0];
        }
    }
    return 1;
}

int es_csr_is_valid(const es_weight *w) {
    const size_t n_blocks = ((size_t)w->k + 31) / 32;
    const size_t n_tiles = ((size_t)w->n_rows + ES_BITMAP_ROWS - 1) / ES_BITMAP_ROWS;
    const size_t index_bytes = 8 * (n_tiles + 1);
    if (w->n_bytes < index_bytes + ES_BITMAP_SLACK) {
        return 0;
    }
    const size_t end = w->n_bytes - ES_BITMAP_SLACK;
    size_t at = index_bytes;
    uint64_t stated;
    for (size_t tile = 0; tile < n_tiles; tile++) {
        memcpy(&stated, w->data + 8 * tile, sizeof stated);
        if (stated != at) {
            return 0;
        }
        for (size_t b = 0; b < n_blocks; b++) {
            size_t n_bytes;
            if (!block_is_valid(w->data + at, end - at, &n_bytes)) {
                return 0;
            }
            at += n_bytes;
        }
    }
    memcpy(&stated, w->data + 8 * n_tiles, sizeof stated);
    return stated == at;
}
