/* nm8, nm4 (edgesparse/formats/README.md): 2:4, tiles of 16 rows, blocks of 32 columns: steps, places and
 * codes. Bits 2g and 2g + 1 of word 2r + j: which of group g's four columns has row r's code number j. */
#ifndef ES_NM_H
#define ES_NM_H

#include "edgesparse.h"
#include "kernels.h"
#include "kernels/bitmap/table.h"
#include "kernels/dense/dense.h"

#include <string.h>

enum {
    ES_NM_GROUPS = 8,
    ES_NM_CHUNKS = 4, /* each has the codes of groups s and s + 4 */
    ES_NM_PLACES = 2 * ES_BITMAP_ROWS,
    ES_NM_CODES = ES_NM_PLACES + 64,
    ES_NM_NIBBLE_ZERO = 8
};

/* Codes of one chunk as int8: byte 4r + 2j + h is code j of row r in group s + 4h. */
ES_INLINE void es_nm_chunk(int8_t codes[64], const uint8_t *block, int s, const int format) {
    if (format == ES_FORMAT_NM8) {
        memcpy(codes, block + ES_NM_CODES + 64 * s, 64);
        return;
    }
    for (int i = 0; i < 32; i++) {
        const uint8_t both = block[ES_NM_CODES + 32 * s + i];
        codes[2 * i] = (int8_t)((both & 15) - ES_NM_NIBBLE_ZERO);
        codes[2 * i + 1] = (int8_t)((both >> 4) - ES_NM_NIBBLE_ZERO);
    }
}

/* One block into the eight rows of two dense ones; compilers vectorise it. */
ES_INLINE const uint8_t *es_nm_expand_block(uint8_t *const tiles[2], const uint8_t *block,
                                            const int format) {
    uint16_t places[2 * ES_BITMAP_ROWS];
    uint32_t dense[ES_NM_GROUPS][ES_BITMAP_ROWS]; /* four columns of a row */
    memcpy(places, block + ES_NM_PLACES, sizeof places);
    for (int s = 0; s < ES_NM_CHUNKS; s++) {
        int8_t codes[64];
        es_nm_chunk(codes, block, s, format);
        for (int h = 0; h < 2; h++) {
            const int g = s + 4 * h;
            for (int r = 0; r < ES_BITMAP_ROWS; r++) {
                const uint32_t first = (uint8_t)codes[4 * r + h];
                const uint32_t second = (uint8_t)codes[4 * r + 2 + h];
                dense[g][r] = first << (8 * (places[2 * r] >> (2 * g) & 3)) |
                              second << (8 * (places[2 * r + 1] >> (2 * g) & 3));
            }
        }
    }
    for (int t = 0; t < 2; t++) {
        uint16_t pairs[2 * ES_NM_GROUPS][ES_TILE]; /* of neighbouring columns */
        for (int g = 0; g < ES_NM_GROUPS; g++) {
            for (int r = 0; r < ES_TILE; r++) {
                pairs[2 * g][r] = (uint16_t)dense[g][ES_TILE * t + r];
                pairs[2 * g + 1][r] = (uint16_t)(dense[g][ES_TILE * t + r] >> 16);
            }
        }
        memcpy(tiles[t], block + ES_SCALE_BYTES * t, ES_SCALE_BYTES);
        if (format == ES_FORMAT_NM8) {
            memcpy(tiles[t] + ES_SCALE_BYTES, pairs, sizeof pairs);
            continue;
        }
        uint8_t *out = tiles[t] + ES_SCALE_BYTES;
        const uint8_t *bytes = (const uint8_t *)pairs;
        for (int i = 0; i < 128; i++) { /* columns 0 to 15, and 16 to 31 above them */
            const int low = (bytes[i] + ES_NM_NIBBLE_ZERO) & 15;
            out[i] = (uint8_t)(low | (bytes[128 + i] + ES_NM_NIBBLE_ZERO) << 4);
        }
    }
    return block + es_nm_block_bytes(format);
}

#endif
