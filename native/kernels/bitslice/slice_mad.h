/* Blocks of fewer than ES_MAD_TOKENS tokens, multiplied one by one. The including file defines mad_tokens()
 * and add_sums(), which take ES_MAD_TOKENS tokens or one, and gets mad_block() and mad_sums(). */
#ifndef ES_SLICE_MAD_H
#define ES_SLICE_MAD_H

ES_INLINE void mad_block(float *f, const uint8_t *panel, const es_q8 *x, size_t token,
                         size_t n_tokens, size_t b, const int is_first, const int planes) {
    if (n_tokens == ES_MAD_TOKENS) {
        mad_tokens(f, panel, x, token, b, is_first, planes, ES_MAD_TOKENS);
        return;
    }
    for (size_t t = 0; t < n_tokens; t++) {
        mad_tokens(f + t * ES_SLICE_ROWS, panel, x, token + t, b, is_first, planes, 1);
    }
}

ES_INLINE void mad_sums(int32_t *sums, size_t sums_stride, const uint8_t *panel, const int8_t *q,
                        size_t q_stride, size_t n_tokens) {
    if (n_tokens == ES_MAD_TOKENS) {
        add_sums(sums, sums_stride, panel, q, q_stride, ES_MAD_TOKENS);
        return;
    }
    for (size_t t = 0; t < n_tokens; t++) {
        add_sums(sums + t * sums_stride, sums_stride, panel, q + t * q_stride, q_stride, 1);
    }
}

#endif
