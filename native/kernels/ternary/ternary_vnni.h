/* The steps of `dot` with vpdpbusd, for both widths: four unsigned times signed products are added to
 * an int32 lane at once, exactly (the form that does not saturate).
 *
 * t2, masks without shifts: field f is multiplied where it stands in the byte, so its sum comes out
 *   4^(3-f) times as large in an accumulator of its own, and is shifted down once per row. A step
 *   adds at most 4 * 128 * 128 = 2^16 to a lane, the 128 blocks of one call 2^23.
 *
 * t5, no digits at all: with y_0 the stored byte and y_(n+1) = 3 y_n mod 256, digit n is exactly
 *   (3 y_n - y_(n+1)) / 256, so
 *     sum of digit_n x_n = (3 sum of y_n x_n - sum of y_(n+1) x_n) / 256.
 *   The sums may wrap: their difference is 256 times at most 5 * 4 * 256 per block and lane, below
 *   2^28 for the 102 blocks of one call, and so exact modulo 2^32.
 *
 * Needs es_and, es_add8, es_add32, es_sub32, es_sra32(v, n), es_set8 beside what ternary_panel.h wants. */
#ifndef ES_TERNARY_VNNI_H
#define ES_TERNARY_VNNI_H

#include "ternary.h"

enum {
    t2_BLOCK = ES_T2_BLOCK,
    t5_BLOCK = ES_T5_BLOCK,
    /* int32 sums need no emptying within a call. */
    t2_FOLD_BLOCKS = 1 << 20,
    t5_FOLD_BLOCKS = 1 << 20,
    ES_FIELD_BYTES = ES_VEC_BYTES /* of one field, in the order that `dot` reads */
};

typedef struct t2_acc {
    es_vec field[ES_T2_FIELDS]; /* field f: 4^(3-f) times its sum */
} t2_acc;

ES_INLINE t2_acc t2_zero(void) {
    return (t2_acc){{es_zero(), es_zero(), es_zero(), es_zero()}};
}

ES_INLINE void t2_step(t2_acc *acc, es_vec w, const int8_t *a) {
    ES_UNROLL
    for (int f = 0; f < ES_T2_FIELDS; f++) {
        const es_vec scaled = es_and(w, es_set8((char)(3 << (6 - 2 * f))));
        acc->field[f] = es_quad_dot(acc->field[f], scaled, es_load(a + f * ES_FIELD_BYTES));
    }
}

ES_INLINE void t2_fold(t2_acc *acc) {
    (void)acc;
}

ES_INLINE es_vec_i32 t2_finish(const t2_acc *acc) {
    const es_vec high = es_add32(es_sra32(acc->field[0], 6), es_sra32(acc->field[1], 4));
    return es_add32(high, es_add32(es_sra32(acc->field[2], 2), acc->field[3]));
}

typedef struct t5_acc {
    es_vec y, next; /* sums of y_n x_n and of y_(n+1) x_n */
} t5_acc;

ES_INLINE t5_acc t5_zero(void) {
    return (t5_acc){es_zero(), es_zero()};
}

ES_INLINE void t5_step(t5_acc *acc, es_vec w, const int8_t *a) {
    es_vec y = w;
    ES_UNROLL
    for (int f = 0; f < ES_T5_FIELDS; f++) {
        const es_vec x = es_load(a + f * ES_FIELD_BYTES);
        acc->y = es_quad_dot(acc->y, y, x);
        y = es_add8(es_add8(y, y), y);
        acc->next = es_quad_dot(acc->next, y, x);
    }
}

ES_INLINE void t5_fold(t5_acc *acc) {
    (void)acc;
}

ES_INLINE es_vec_i32 t5_finish(const t5_acc *acc) {
    const es_vec thrice = es_add32(es_add32(acc->y, acc->y), acc->y);
    return es_sra32(es_sub32(thrice, acc->next), 8);
}

#endif
