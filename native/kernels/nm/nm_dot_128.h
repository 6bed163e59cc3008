/* One token over tiles in 2:4. The includer defines block_sums, the sums of a block's sixteen rows. */
#ifndef ES_NM_DOT_128_H
#define ES_NM_DOT_128_H

#include "kernels/nm/nm_128.h"

ES_INLINE void nm_dot(float *y, const uint8_t *w, int32_t n_tiles, const es_q16 *x,
                      const es_split *split, int32_t n_blocks, const int format) {
    (void)split;
    const float32x4_t none = vdupq_n_f32(0.0f);
    for (int32_t tile = 0; tile < n_tiles; tile++, y += ES_BITMAP_ROWS) {
        float32x4_t acc[4] = {none, none, none, none};
        for (size_t b = 0; b < (size_t)n_blocks; b++, w += es_nm_block_bytes(format)) {
            int32x4_t sums[4];
            es_prefetch_ahead(w, es_nm_block_bytes(format));
            block_sums(sums, w, x->q + 32 * b, format);
            es_nm_finish(acc, sums, w, x->d[b], format);
        }
        for (int g = 0; g < 4; g++) {
            vst1q_f32(y + 4 * g, acc[g]);
        }
    }
}

#endif
