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
static size_t valid_block(const uint8_t *at, size_t room, int32_t format) {
    (void)format;
    if (room < ES_CSR_HEAD) {
        return 0;
    }
    const csr_block block = es_csr_block(at);
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
    return block.n_bytes;
}

int es_csr_is_valid(const es_weight *w) {
    return es_tiles_are_valid(w, valid_block);
}
