/* Ternary products with the 256-bit vpdpbusd; see ternary_vnni.h for the arithmetic. */
#include "ternary_256.h"

/* Twelve accumulators hide the latency of two vpdpbusd per cycle and leave four registers. */
#define ES_TILE_TOKENS 6
#define ES_PANEL_MIN_TOKENS 4

ES_INLINE es_vec es_quad_dot(es_vec acc_i32, es_vec w_u8, es_vec x_i8) {
    acc_i32 = _mm256_dpbusd_avx_epi32(acc_i32, w_u8, x_i8);
    ES_PIN("x", acc_i32);
    return acc_i32;
}

ES_INLINE es_vec es_quad_sums(es_vec acc_i32) {
    return acc_i32;
}

ES_INLINE es_vec es_and(es_vec a, es_vec b) {
    return _mm256_and_si256(a, b);
}

ES_INLINE es_vec es_set8(char v) {
    return _mm256_set1_epi8(v);
}

ES_INLINE es_vec es_add8(es_vec a, es_vec b) {
    return _mm256_add_epi8(a, b);
}

ES_INLINE es_vec es_add32(es_vec a, es_vec b) {
    return _mm256_add_epi32(a, b);
}

ES_INLINE es_vec es_sub32(es_vec a, es_vec b) {
    return _mm256_sub_epi32(a, b);
}

ES_INLINE es_vec es_sra32(es_vec v, int n) {
    return _mm256_srai_epi32(v, n);
}

#include "ternary_vnni.h"
#include "ternary_panel.h"

enum { t2_DOT_ROWS = 2, t5_DOT_ROWS = 4 };

#define ES_FORMAT t2
#include "ternary_dot.inc"
#define ES_FORMAT t2
#include "ternary_list.inc"
#define ES_FORMAT t5
#include "ternary_dot.inc"
#define ES_FORMAT t5
#include "ternary_list.inc"
#include "t2n_256.h"

#define ES_VARIANT avxvnni
#define ES_T2_PANEL_BLOCKS 8
#define ES_T5_PANEL_BLOCKS 6
#include "ternary_table.inc"
