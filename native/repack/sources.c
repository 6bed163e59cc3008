/* The table of file types; byte pictures in edgesparse/checkpoint/unpack_*.py. */
#include "repack.h"

/* Codes of I2_S_ROW4 and HF_T2 lie across rows; es_repack_ternary takes them apart itself. */
static const es_source sources[] = {
    [ES_SRC_F32] = {1, 4, 0, 1, -1, 0, NULL, NULL, es_floats_f32},
    [ES_SRC_F16] = {1, 2, 0, 1, -1, 0, NULL, NULL, es_floats_f16},
    [ES_SRC_BF16] = {1, 2, 0, 1, -1, 0, NULL, NULL, es_floats_bf16},
    [ES_SRC_Q8_0] = {32, 34, 0, 1, -1, ES_FORMAT_Q8, NULL, es_affine_q8_0, NULL},
    [ES_SRC_Q4_0] = {32, 18, 0, 1, -1, ES_FORMAT_Q4, NULL, es_affine_q4_0, NULL},
    [ES_SRC_Q4_1] = {32, 20, 0, 1, -1, ES_FORMAT_Q4M, NULL, es_affine_q4_1, NULL},
    [ES_SRC_Q5_0] = {32, 22, 0, 1, -1, ES_FORMAT_Q8, NULL, es_affine_q5_0, NULL},
    [ES_SRC_Q5_1] = {32, 24, 0, 1, -1, ES_FORMAT_Q8M, NULL, es_affine_q5_1, NULL},
    [ES_SRC_Q2_K] = {256, 84, 0, 1, -1, 0, NULL, NULL, es_floats_q2_k},
    [ES_SRC_Q3_K] = {256, 110, 0, 1, -1, 0, NULL, NULL, es_floats_q3_k},
    [ES_SRC_Q4_K] = {256, 144, 0, 1, -1, ES_FORMAT_Q4M, NULL, es_affine_q4_k, NULL},
    [ES_SRC_Q5_K] = {256, 176, 0, 1, -1, ES_FORMAT_Q8M, NULL, es_affine_q5_k, NULL},
    [ES_SRC_Q6_K] = {256, 210, 0, 1, -1, 0, NULL, NULL, es_floats_q6_k},
    [ES_SRC_TQ1_0] = {256, 54, 0, 1, 52, ES_FORMAT_Q8, es_codes_tq1_0, NULL, NULL},
    [ES_SRC_TQ2_0] = {256, 66, 0, 1, 64, ES_FORMAT_Q8, es_codes_tq2_0, NULL, NULL},
    [ES_SRC_PTQ1_0] = {128, 28, 0, 1, 26, ES_FORMAT_Q8, es_codes_ptq1_0, NULL, NULL},
    [ES_SRC_Q2_0] = {64, 18, 0, 1, 0, ES_FORMAT_Q8, es_codes_q2_0, NULL, NULL},
    [ES_SRC_PQ2_0] = {128, 34, 0, 1, 0, ES_FORMAT_Q8, es_codes_pq2_0, NULL, NULL},
    [ES_SRC_Q1_0] = {128, 18, 0, 1, 0, ES_FORMAT_Q8, es_codes_q1_0, NULL, NULL},
    [ES_SRC_I2_S_128X32] = {128, 32, 0, 1, -1, 0, es_codes_i2s_128x32, NULL, NULL},
    [ES_SRC_I2_S_64X16] = {64, 16, 0, 1, -1, 0, es_codes_i2s_64x16, NULL, NULL},
    [ES_SRC_I2_S_ROW4] = {1, 1, 0, 4, -1, 0, NULL, NULL, NULL},
    [ES_SRC_IQ2_BN] = {64, 16, 4, 1, -1, 0, es_codes_iq2_bn, NULL, NULL},
    [ES_SRC_IQ1_BN] = {64, 13, 2, 1, -1, 0, es_codes_iq1_bn, NULL, NULL},
    [ES_SRC_HF_T2] = {1, 1, 0, 1, -1, 0, NULL, NULL, NULL},
};

const es_source *es_source_of(int32_t src_type) {
    if (src_type <= 0 || (size_t)src_type >= sizeof sources / sizeof sources[0]) {
        return NULL;
    }
    return &sources[src_type];
}
