/* Blocks into nm8 and nm4, and the check of their places. */
#include "validate.h"
#include "without_zeros.h"

#include <string.h>

#include "kernels/nm/nm.h"

/* The two columns of a group that are kept, ascending: those of codes that are not 0, and the first of
 * the others; 0 if there are more. */
static int choose_two(int columns[2], const int8_t codes[4]) {
    int kept = 0, n = 0;
    for (int i = 0; i < 4; i++) {
        kept |= (codes[i] != 0) << i;
        n += codes[i] != 0;
    }
    for (int i = 0; i < 4 && n < 2; i++) {
        n += !(kept >> i & 1);
        kept |= 1 << i;
    }
    columns[0] = __builtin_ctz((unsigned)kept);
    columns[1] = __builtin_ctz((unsigned)kept & ((unsigned)kept - 1));
    return n == 2;
}

size_t es_nm_put(uint8_t *to, const es_codes_block *block, int32_t format) {
    uint16_t places[2 * ES_BITMAP_ROWS] = {0};
    uint8_t codes[ES_NM_CHUNKS][64];
    for (int g = 0; g < ES_NM_GROUPS; g++) {
        for (int r = 0; r < ES_BITMAP_ROWS; r++) {
            int columns[2];
            if (!choose_two(columns, block->codes[g] + 4 * r)) {
                return 0;
            }
            for (int j = 0; j < 2; j++) {
                places[2 * r + j] = (uint16_t)(places[2 * r + j] | columns[j] << (2 * g));
                codes[g % 4][4 * r + 2 * j + g / 4] = (uint8_t)block->codes[g][4 * r + columns[j]];
            }
        }
    }
    if (to != NULL) {
        memcpy(to, block->steps, sizeof block->steps);
        memcpy(to + ES_NM_PLACES, places, sizeof places);
        for (int i = 0; i < 64 * ES_NM_CHUNKS; i++) {
            const int code = codes[i / 64][i % 64];
            if (format == ES_FORMAT_NM8) {
                to[ES_NM_CODES + i] = (uint8_t)code;
            } else {
                const int nibble = (code + ES_NM_NIBBLE_ZERO) & 15;
                uint8_t *byte = to + ES_NM_CODES + i / 2;
                *byte = (uint8_t)(i % 2 == 0 ? nibble : *byte | nibble << 4);
            }
        }
    }
    return es_nm_block_bytes(format);
}

int es_nm_is_valid(const es_weight *w) {
    const size_t n_blocks = ((size_t)w->k + 31) / 32, bytes = es_nm_block_bytes(w->format);
    const size_t n_tiles = ((size_t)w->n_rows + ES_BITMAP_ROWS - 1) / ES_BITMAP_ROWS;
    if (w->n_bytes != n_tiles * n_blocks * bytes) {
        return 0;
    }
    for (size_t block = 0; block < n_tiles * n_blocks; block++) {
        uint16_t places[2 * ES_BITMAP_ROWS];
        memcpy(places, w->data + block * bytes + ES_NM_PLACES, sizeof places);
        int differ = 0;
        for (int r = 0; r < ES_BITMAP_ROWS; r++) {
            for (int g = 0; g < ES_NM_GROUPS; g++) { /* the first place stands before the second */
                differ |= (places[2 * r] >> (2 * g) & 3) >= (places[2 * r + 1] >> (2 * g) & 3);
            }
        }
        if (differ) {
            return 0;
        }
    }
    return 1;
}
