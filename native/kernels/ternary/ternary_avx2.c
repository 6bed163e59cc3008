/* Ternary products with vpmaddubsw: unsigned codes times signed activations, pairs added in int16.
 *
 * A pair of products is within 2 * 2 * [-128, 127] = [-512, 508]. int16 sums are emptied into int32
 * before they can leave [-32768, 32767]; additions wrap, so only the totals matter:
 *
 *   panels  one pair per 4 columns: 64 steps, -32768 ... 32512, so panels of 256 columns
 *   t2 dot  fields in place, without a shift to the bottom: the sum of the fields at bits 3-2 comes
 *           out 4 times as large, two of them per block: 8 blocks, 8 * 2 * 4 * -512 = -32768
 *   t5 dot  five per block: 12 blocks, 60 * -512 = -30720 */
#include "ternary_256.h"

#define ES_TILE_TOKENS 4
#define ES_PANEL_MIN_TOKENS 4

ES_INLINE es_vec es_quad_dot(es_vec acc_i16, es_vec w_u8, es_vec x_i8) {
    acc_i16 = _mm256_add_epi16(acc_i16, _mm256_maddubs_epi16(w_u8, x_i8));
    ES_PIN("x", acc_i16);
    return acc_i16;
}

ES_INLINE es_vec es_quad_sums(es_vec acc_i16) {
    return _mm256_madd_epi16(acc_i16, _mm256_set1_epi16(1));
}

#include "ternary_panel.h"

enum {
    t2_BLOCK = ES_T2_BLOCK,
    t2_DOT_ROWS = 2,
    t2_FOLD_BLOCKS = 8,
    t5_BLOCK = ES_T5_BLOCK,
    t5_DOT_ROWS = 4,
    t5_FOLD_BLOCKS = 12
};

typedef struct t2_acc {
    __m256i x1_i16, x4_i16; /* sums of the fields at bits 1-0 and at bits 3-2 */
    __m256i x4_i32;         /* 4 times the folded sums */
} t2_acc;

ES_INLINE t2_acc t2_zero(void) {
    return (t2_acc){es_zero(), es_zero(), es_zero()};
}

ES_INLINE void t2_step(t2_acc *acc, es_vec w, const int8_t *a) {
    const __m256i low = _mm256_set1_epi8(3), high = _mm256_set1_epi8(12);
    const __m256i w4 = _mm256_srli_epi16(w, 4);
    acc->x4_i16 = es_quad_dot(acc->x4_i16, _mm256_and_si256(w4, high), es_load(a));
    acc->x1_i16 = es_quad_dot(acc->x1_i16, _mm256_and_si256(w4, low), es_load(a + 32));
    acc->x4_i16 = es_quad_dot(acc->x4_i16, _mm256_and_si256(w, high), es_load(a + 64));
    acc->x1_i16 = es_quad_dot(acc->x1_i16, _mm256_and_si256(w, low), es_load(a + 96));
}

ES_INLINE void t2_fold(t2_acc *acc) {
    const __m256i x1 = _mm256_madd_epi16(acc->x1_i16, _mm256_set1_epi16(4));
    const __m256i x4 = _mm256_madd_epi16(acc->x4_i16, _mm256_set1_epi16(1));
    acc->x4_i32 = _mm256_add_epi32(acc->x4_i32, _mm256_add_epi32(x1, x4));
    acc->x1_i16 = es_zero();
    acc->x4_i16 = es_zero();
}

ES_INLINE es_vec_i32 t2_finish(const t2_acc *acc) {
    return _mm256_srai_epi32(acc->x4_i32, 2);
}

typedef struct t5_acc {
    __m256i i16, i32;
} t5_acc;

ES_INLINE t5_acc t5_zero(void) {
    return (t5_acc){es_zero(), es_zero()};
}

ES_INLINE void t5_step(t5_acc *acc, es_vec w, const int8_t *a) {
    __m256i s = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
    ES_UNROLL
    for (int f = 0; f < ES_T5_FIELDS; f++) {
        const __m256i codes = _mm256_abs_epi8(t5_minus_digit(s));
        acc->i16 = es_quad_dot(acc->i16, codes, es_load(a + 32 * f));
        s = t5_triple(s);
    }
}

ES_INLINE void t5_fold(t5_acc *acc) {
    acc->i32 = _mm256_add_epi32(acc->i32, es_quad_sums(acc->i16));
    acc->i16 = es_zero();
}

ES_INLINE es_vec_i32 t5_finish(const t5_acc *acc) {
    return acc->i32;
}

#define ES_FORMAT t2
#include "ternary_dot.inc"
#define ES_FORMAT t2
#include "ternary_list.inc"
#define ES_FORMAT t5
#include "ternary_dot.inc"
#define ES_FORMAT t5
#include "ternary_list.inc"
#include "t2n_256.h"

#define ES_VARIANT avx2
#define ES_T2_PANEL_BLOCKS 2
#define ES_T5_PANEL_BLOCKS 1
#include "ternary_table.inc"
