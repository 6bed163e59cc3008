/* Kernels of formats without zeros by name: `dot` and `block` are always inlined and take the format as
 * their last argument; each format gets functions of its own. `target` may be empty. */
#ifndef ES_BITMAP_TABLE_H
#define ES_BITMAP_TABLE_H

#define ES_SPARSE_DOT(target, name, dot, format)                                          \
    static target void name(float *y, const uint8_t *w, int32_t n_tiles, const es_q16 *x, \
                            const es_split *split, int32_t n_blocks) {                    \
        dot(y, w, n_tiles, x, split, n_blocks, format);                                   \
    }

/* From `block`, which expands one block into the eight rows of two dense ones and returns what follows. */
#define ES_SPARSE_EXPAND(target, name, block, format)                             \
    static target void name(uint8_t *tiles, const uint8_t *w, int32_t n_blocks) { \
        const size_t block_bytes = es_block_bytes(es_dense_format(format));       \
        uint8_t *at[2] = {tiles, tiles + (size_t)n_blocks * block_bytes};         \
        for (int32_t b = 0; b < n_blocks; b++) {                                  \
            w = block(at, w, format);                                             \
            at[0] += block_bytes;                                                 \
            at[1] += block_bytes;                                                 \
        }                                                                         \
    }

#endif
