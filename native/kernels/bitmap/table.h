/* Kernels of formats without zeros by name: `dot` and `expand` are always inlined and take the format as
 * their last argument; each format gets functions of its own. `target` may be empty. */
#ifndef ES_BITMAP_TABLE_H
#define ES_BITMAP_TABLE_H

#define ES_SPARSE_DOT(target, name, dot, format)                                          \
    static target void name(float *y, const uint8_t *w, int32_t n_tiles, const es_q16 *x, \
                            const es_split *split, int32_t n_blocks) {                    \
        dot(y, w, n_tiles, x, split, n_blocks, format);                                   \
    }

#define ES_SPARSE_EXPAND(target, name, expand, format)                            \
    static target void name(uint8_t *tiles, const uint8_t *w, int32_t n_blocks) { \
        expand(tiles, w, n_blocks, format);                                       \
    }

#endif
