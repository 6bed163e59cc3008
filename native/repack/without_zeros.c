/* What bitmaps and csr share: tiles one after another behind an index of where they begin. */
#include "without_zeros.h"

int es_tiles_are_valid(const es_weight *w, es_valid_block *block) {
    const size_t n_blocks = ((size_t)w->k + 31) / 32;
    const size_t n_tiles = ((size_t)w->n_rows + ES_BITMAP_ROWS - 1) / ES_BITMAP_ROWS;
    const size_t index_bytes = 8 * (n_tiles + 1);
    if (w->n_bytes < index_bytes + ES_BITMAP_SLACK) {
        return 0;
    }
    const size_t end = w->n_bytes - ES_BITMAP_SLACK;
    size_t at = index_bytes;
    for (size_t tile = 0; tile < n_tiles; tile++) {
        if (es_word_at(w->data + 8 * tile) != at) {
            return 0;
        }
        for (size_t b = 0; b < n_blocks; b++) {
            const size_t n_bytes = block(w->data + at, end - at, w->format);
            if (n_bytes == 0) {
                return 0;
            }
            at += n_bytes;
        }
    }
    return es_word_at(w->data + 8 * n_tiles) == at;
}
