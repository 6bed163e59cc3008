/* Dense blocks into formats without zeros, and the check that makes a bitmap safe to read. */
#include "without_zeros.h"
#include "validate.h"

#include <string.h>

static void put_word(uint8_t *dst, uint64_t word) {
    memcpy(dst, &word, sizeof word);
}

/* Codes of 16 rows and 32 columns of one block, chunk after chunk, zeros for rows that are not there. */
static void gather(int8_t codes[ES_BITMAP_CHUNKS][64], const uint8_t *tiles[2], int format) {
    for (int t = 0; t < 2; t++) {
        for (int c = 0; c < ES_BITMAP_CHUNKS; c++) {
            int8_t *to = codes[c] + 32 * t;
            if (tiles[t] == NULL) {
                memset(to, 0, 32);
                continue;
            }
            const uint8_t *from = tiles[t] + ES_SCALE_BYTES + 32 * (size_t)c;
            if (format == ES_FORMAT_Q4) {
                from -= c < ES_BITMAP_CHUNKS / 2 ? 0 : 32 * (size_t)ES_BITMAP_CHUNKS / 2;
            }
            for (int i = 0; i < 32; i++) { /* i: row * 4 + column */
                const uint8_t byte = from[i % 4 / 2 * 16 + i / 4 * 2 + i % 2];
                const int nibble = c < ES_BITMAP_CHUNKS / 2 ? byte & 15 : byte >> 4;
                to[i] = (int8_t)(format == ES_FORMAT_Q4 ? nibble - ES_BITMAP_NIBBLE_ZERO : byte);
            }
        }
    }
}

/* Makes codes of rows that pad a dense tile 0. */
static void clear_padding(int8_t codes[ES_BITMAP_CHUNKS][64], int32_t n_rows) {
    for (int c = 0; c < ES_BITMAP_CHUNKS && n_rows < ES_BITMAP_ROWS; c++) {
        memset(codes[c] + 4 * n_rows, 0, (size_t)(64 - 4 * n_rows));
    }
}

/* Bit i: code i is not 0. */
static uint64_t bits_of(const int8_t codes[64]) {
    uint64_t word = 0;
    for (int i = 0; i < 8; i++) {
        const uint64_t eight = es_word_at((const uint8_t *)codes + 8 * i);
        const uint64_t low = 0x7f7f7f7f7f7f7f7fu;
        const uint64_t set = ((((eight & low) + low) | eight) & ~low) >> 7; /* a bit per byte */
        word |= (set * 0x0102040810204080u) >> 56 << (8 * i);
    }
    return word;
}

static size_t bytes_of(uint64_t word, int32_t format) {
    return es_bitmap_bytes(format, (size_t)__builtin_popcountll(word));
}

/* The codes of one chunk from v on. */
static void put_codes(uint8_t *v, const int8_t codes[64], uint64_t word, int32_t format) {
    for (size_t n = 0; word != 0; n++, word &= word - 1) {
        const int code = codes[__builtin_ctzll(word)];
        if (format == ES_FORMAT_BMP8) {
            v[n] = (uint8_t)code;
        } else {
            const int nibble = code + ES_BITMAP_NIBBLE_ZERO;
            v[n / 2] = (uint8_t)(n % 2 == 0 ? nibble : v[n / 2] | nibble << 4);
        }
    }
}

size_t es_bitmap_put(uint8_t *to, const es_codes_block *block, int32_t format) {
    uint64_t words[ES_BITMAP_CHUNKS];
    size_t n_bytes = ES_BITMAP_HEAD;
    for (int c = 0; c < ES_BITMAP_CHUNKS; c++) {
        words[c] = bits_of(block->codes[c]);
        n_bytes += bytes_of(words[c], format);
    }
    if (to == NULL) {
        return n_bytes;
    }
    memcpy(to, block->steps, sizeof block->steps);
    memcpy(to + ES_BITMAP_STEPS, words, sizeof words);
    uint8_t *v = to + ES_BITMAP_HEAD;
    for (int c = 0; c < ES_BITMAP_CHUNKS; c++) {
        put_codes(v, block->codes[c], words[c], format);
        v += bytes_of(words[c], format);
    }
    return n_bytes;
}

static size_t put_block(uint8_t *to, const es_codes_block *block, int32_t format) {
    if (es_is_two_of_four(format)) {
        return es_nm_put(to, block, format);
    }
    return format == ES_FORMAT_CSR ? es_csr_put(to, block) : es_bitmap_put(to, block, format);
}

/* Whether there is such a conversion: csr takes both kinds of codes. */
static int is_known(const es_bitmap_job *job) {
    if (job->src_format != ES_FORMAT_Q8 && job->src_format != ES_FORMAT_Q4) {
        return 0;
    }
    return job->dst_format == ES_FORMAT_CSR ||
           (es_is_sparse(job->dst_format) && es_dense_format(job->dst_format) == job->src_format);
}

int64_t es_bitmap_pack(const es_bitmap_job *job) {
    if (job == NULL || job->src == NULL || job->n_rows < 1 || job->k < 1 || !is_known(job)) {
        return ES_E_ARGUMENT;
    }
    const size_t n_blocks = ((size_t)job->k + 31) / 32, bytes = es_block_bytes(job->src_format);
    const size_t dense_tiles = ((size_t)job->n_rows + 7) / 8;
    const size_t n_tiles = ((size_t)job->n_rows + ES_BITMAP_ROWS - 1) / ES_BITMAP_ROWS;
    if (job->src_bytes != dense_tiles * n_blocks * bytes) {
        return ES_E_ARGUMENT;
    }
    const int write = job->dst != NULL, has_index = !es_is_two_of_four(job->dst_format);
    const size_t index_bytes = has_index ? 8 * (n_tiles + 1) : 0;
    if (write && job->dst_bytes < index_bytes) {
        return ES_E_ARGUMENT;
    }
    size_t at = index_bytes;
    for (size_t tile = 0; tile < n_tiles; tile++) {
        if (write && has_index) {
            put_word(job->dst + 8 * tile, at);
        }
        const int32_t left = job->n_rows - (int32_t)(tile * ES_BITMAP_ROWS);
        for (size_t b = 0; b < n_blocks; b++) {
            const uint8_t *low = job->src + (2 * tile * n_blocks + b) * bytes;
            const uint8_t *high = 2 * tile + 1 < dense_tiles
                                      ? job->src + ((2 * tile + 1) * n_blocks + b) * bytes
                                      : NULL;
            es_codes_block block = {0};
            gather(block.codes, (const uint8_t *[2]){low, high}, job->src_format);
            clear_padding(block.codes, left);
            memcpy(block.steps, low, ES_SCALE_BYTES);
            if (high != NULL) {
                memcpy(block.steps + ES_SCALE_BYTES, high, ES_SCALE_BYTES);
            }
            const size_t n_bytes = put_block(NULL, &block, job->dst_format);
            if (n_bytes == 0) {
                return ES_E_VALUE;
            }
            if (write) {
                if (job->dst_bytes - at < n_bytes) {
                    return ES_E_ARGUMENT;
                }
                put_block(job->dst + at, &block, job->dst_format);
            }
            at += n_bytes;
        }
    }
    if (!has_index) {
        return (int64_t)at;
    }
    if (write) {
        put_word(job->dst + 8 * n_tiles, at);
    }
    return (int64_t)((at + ES_BITMAP_SLACK + 63) / 64 * 64);
}

static size_t valid_block(const uint8_t *at, size_t room, int32_t format) {
    if (room < ES_BITMAP_HEAD) {
        return 0;
    }
    size_t n_bytes = ES_BITMAP_HEAD;
    for (int c = 0; c < ES_BITMAP_CHUNKS; c++) {
        const uint64_t word = es_bitmap_word(at, c);
        n_bytes += es_bitmap_bytes(format, (size_t)__builtin_popcountll(word));
    }
    return n_bytes <= room ? n_bytes : 0;
}

int es_bitmap_is_valid(const es_weight *w) {
    return es_tiles_are_valid(w, valid_block);
}
