/* Fills the kernel table: scalar first, then every level of the machine's family upward. */
#include "edgesparse.h"
#include "kernels.h"

#include <string.h>

void es_kernels_fill(es_kernels *table, int32_t isa) {
    memset(table, 0, sizeof *table);
    table->many_tokens = INT32_MAX;
    es_ternary_scalar(table);
    es_sparse_scalar(table);
    es_predict_scalar(table);
    es_dense_scalar(table);
    es_columns_scalar(table);
    es_rows_scalar(table);
    es_bitmap_scalar(table);
    es_csr_scalar(table);
    es_nm_scalar(table);
    es_bitslice_scalar(table);
    es_vector_scalar(table);
    es_storing_scalar(table);
    es_proposal_scalar(table);
    es_attention_scalar(table);
    es_kvsparse_scalar(table);
#if defined(__x86_64__)
    /* AVX-512 machines are not required to have the 256-bit AVX-VNNI, so its level may sit between. */
    if (isa >= ES_ISA_AVX2) {
        es_ternary_avx2(table);
        es_sparse_avx2(table);
        es_predict_avx2(table);
        es_dense_avx2(table);
        es_columns_avx2(table);
        es_rows_avx2(table);
        es_bitmap_avx2(table);
        es_csr_avx2(table);
        es_nm_avx2(table);
        es_bitslice_avx2(table);
        es_vector_avx2(table);
        es_storing_avx2(table);
        es_proposal_avx2(table);
        es_attention_avx2(table);
        es_kvsparse_avx2(table);
    }
    if (isa == ES_ISA_AVX2) {
        es_lookup_avx2(table); /* later levels multiply faster */
    }
    if (isa == ES_ISA_AVXVNNI) {
        es_ternary_avxvnni(table);
        es_dense_avxvnni(table);
        es_columns_avxvnni(table);
        es_bitmap_avxvnni(table);
        es_bitslice_avxvnni(table);
    }
    if (isa >= ES_ISA_AVX512VNNI) {
        es_ternary_avx512vnni(table);
        es_sparse_avx512vnni(table);
        es_predict_avx512vnni(table);
        es_dense_avx512vnni(table);
        es_columns_avx512vnni(table);
        es_bitmap_avx512vnni(table);
        es_csr_avx512vnni(table);
        es_nm_avx512vnni(table);
        es_bitslice_avx512vnni(table);
        es_attention_avx512vnni(table);
        es_proposal_avx512vnni(table);
    }
    if (isa >= ES_ISA_AMX) {
        es_ternary_amx(table);
    }
#elif defined(__aarch64__)
    if (isa >= ES_ISA_NEON) {
        es_ternary_neon(table);
        es_sparse_neon(table);
        es_columns_neon(table);
        es_bitmap_neon(table);
        es_csr_neon(table);
        es_nm_neon(table);
        es_kvsparse_neon(table);
        es_bitslice_neon(table);
        es_vector_neon(table);
        es_attention_neon(table);
        es_dense_neon(table);
        es_storing_neon(table);
        es_rows_neon(table);
        es_predict_neon(table);
        es_proposal_neon(table);
    }
    if (isa >= ES_ISA_NEONDOT) {
        es_ternary_neondot(table);
        es_sparse_neondot(table);
        es_bitmap_neondot(table);
        es_nm_neondot(table);
        es_bitslice_neondot(table);
        es_dense_neondot(table);
        es_proposal_neondot(table);
    }
#else
    (void)isa;
#endif
}

const char *es_kernel_variant(int32_t isa, const char *family) {
    es_kernels table;
    es_kernels_fill(&table, isa);
    const struct {
        const char *family;
        const char *variant;
    } rows[] = {
        {"t2", table.t2_variant},
        {"t2n", table.t2n_variant},
        {"t5", table.t5_variant},
        {"signs", table.signs_variant},
        {"q8", table.q8_variant},
        {"q4", table.q4_variant},
        {"q8m", table.q8m_variant},
        {"q4m", table.q4m_variant},
        {"q6", table.q6_variant},
        {"q8n", table.columns_variant},
        {"q4n", table.columns_variant},
        {"q8mn", table.columns_variant},
        {"q4mn", table.columns_variant},
        {"bmp8", table.bitmap_variant},
        {"bmp4", table.bitmap_variant},
        {"csr", table.csr_variant},
        {"nm8", table.nm_variant},
        {"nm4", table.nm_variant},
        {"f16", table.f16_variant},
        {"q8r", table.rows_variant},
        {"q4r", table.rows_variant},
        {"q8mr", table.rows_variant},
        {"q4mr", table.rows_variant},
        {"bf16", table.bf16_variant},
        {"f32", table.f32_variant},
        {"lut", table.lut_variant},
        {"mad", table.mad_variant},
        {"vector", table.vector_variant},
        {"attention", table.attention_variant},
        {"kvsparse", table.kvsparse_variant},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (strcmp(rows[i].family, family) == 0) {
            return rows[i].variant;
        }
    }
    return NULL;
}
