/* The building blocks of edgesparse/ops/README.md in plain C: sixteen-lane sums and exp. */
#ifndef ES_VECTOR_H
#define ES_VECTOR_H

#include "kernels/half.h"

#include <stddef.h>
#include <stdint.h>

enum { ES_LANES = 16 };

/* gelu by tanh is g / (1 + exp(-t)) with t = ((g * g) * cube + 1) * (g * slope) */
#define ES_GELU_CUBE 0.044715f
#define ES_GELU_SLOPE 1.59576912f

/* Sum of the lanes, halving: a fixed tree. Overwrites them. */
static inline float es_fold16(float lane[ES_LANES]) {
    for (int width = ES_LANES / 2; width >= 1; width /= 2) {
        for (int i = 0; i < width; i++) {
            lane[i] += lane[i + width];
        }
    }
    return lane[0];
}

/* To the nearest integer, ties to even, for |x| < 2^22: the sum has no room for a fraction. */
static inline float es_round(float x) {
    const float shift = 0x1.8p23f;
    return (x + shift) - shift;
}

/* x within [low, high]; a NaN becomes high, so that a conversion to integer is always defined. */
static inline float es_clamp(float x, float low, float high) {
    const float below = x < high ? x : high;
    return below > low ? below : low;
}

/* exp by 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes' expf coefficients). */
static inline float es_exp(float x) {
    x = es_clamp(x, -87.0f, 88.0f);
    const float n = es_round(x * 1.44269504f);
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const float e = ((p * (r * r)) + r) + 1.0f;
    return e * es_float_from_bits((uint32_t)((int32_t)n + 127) << 23);
}

#endif
