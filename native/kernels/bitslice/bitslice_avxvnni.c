/* Bit slices for AVX-VNNI: look-up as with AVX2, products with the 256-bit vpdpbusd. */
#include "kernels/bitslice/slice_256.h"

#define dot256(acc, codes, q) _mm256_dpbusd_avx_epi32(acc, codes, q)
#include "kernels/bitslice/slice_fours256.h"

ES_INLINE size_t list_line(float *f, const es_line_columns *l, size_t n_lines, float step,
                           int32_t zero, const int is_first, const int planes) {
    (void)n_lines;
    list_line256(f, l, step, zero, is_first, planes);
    return 1;
}

typedef __m256i mad_acc;

ES_INLINE mad_acc mad_zero(void) {
    return _mm256_setzero_si256();
}

ES_INLINE mad_acc mad_step(mad_acc acc, __m256i codes, __m256i q) {
    acc = _mm256_dpbusd_avx_epi32(acc, codes, q);
    ES_KEEP_ORDER("x", acc);
    return acc;
}

ES_INLINE __m256i mad_total(mad_acc acc) {
    return acc;
}

#include "kernels/bitslice/slice_lut256.h"

void es_bitslice_avxvnni(es_kernels *table) {
    ES_SLICE_SET(table, "avxvnni");
    table->lut_variant = "avx2";
}
