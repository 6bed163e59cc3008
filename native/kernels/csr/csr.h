/* csr (edgesparse/formats/README.md): tiles of 16 rows, blocks of 32 columns; of a block its length and
 * number of words, the words, the steps of rows that have entries, then the entries: a column and an
 * int8 code. Bit 2r + i of word n says that row r has an entry number 2n + i. */
#ifndef ES_CSR_H
#define ES_CSR_H

#include "edgesparse.h"
#include "kernels.h"
#include "kernels/dense/dense.h"

#include <string.h>

enum { ES_CSR_HEAD = 2, ES_CSR_LENGTH_BITS = 11, ES_CSR_MAX_WORDS = ES_BLOCK / 2 };

typedef struct csr_block {
    size_t n_bytes;
    int n_words;
    const uint8_t *words; /* behind them the steps */
} csr_block;

ES_INLINE csr_block es_csr_block(const uint8_t *at) {
    uint16_t head;
    memcpy(&head, at, sizeof head);
    return (csr_block){head & ((1u << ES_CSR_LENGTH_BITS) - 1), head >> ES_CSR_LENGTH_BITS,
                       at + ES_CSR_HEAD};
}

ES_INLINE uint32_t es_csr_word(const csr_block *block, int n) {
    uint32_t word;
    memcpy(&word, block->words + 4 * n, sizeof word);
    return word;
}

/* Bit r: row r has an entry; every other bit of the first word. */
ES_INLINE unsigned es_csr_rows(const csr_block *block) {
    uint32_t x = block->n_words > 0 ? es_csr_word(block, 0) & 0x55555555u : 0;
    x = (x | x >> 1) & 0x33333333u;
    x = (x | x >> 2) & 0x0f0f0f0fu;
    x = (x | x >> 4) & 0x00ff00ffu;
    return (x | x >> 8) & 0xffffu;
}

#endif
