/* Products with column formats for AVX-VNNI. */
#include "kernels/columns/columns_256.h"

#define v_madd(acc, a, b) _mm256_dpwssd_avx_epi32(acc, a, b)

#include "kernels/columns/columns_simd.h"

void es_columns_avxvnni(es_kernels *table) {
    ES_COLUMNS_SET(table, "avxvnni");
}
