/* Half precision by integer arithmetic: the same bits on every machine, no F16C needed. */
#include "repack.h"

#include <string.h>

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

float es_half_to_float(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    const uint32_t rest = half & 0x7fff;
    if (rest >= 0x7c00) { /* infinity, NaN */
        return from_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    }
    if (rest < 0x400) { /* subnormal: rest * 2^-24, exact */
        const float magnitude = (float)rest * 5.9604644775390625e-8f;
        return sign ? -magnitude : magnitude;
    }
    return from_bits(sign | ((rest << 13) + (112u << 23)));
}

uint16_t es_float_to_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits >= 0x47800000) { /* 2^16 and above, infinity, NaN */
        return (uint16_t)(sign | (bits > 0x7f800000 ? 0x7e00u : 0x7c00u));
    }
    if (bits < 0x38800000) { /* below 2^-14: adding 2^-1 puts the last half bit at bit 0 */
        float shifted = from_bits(bits) + 0.5f;
        memcpy(&bits, &shifted, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    const uint32_t odd = bits >> 13 & 1;
    return (uint16_t)(sign | ((bits - (112u << 23) + 0xfff + odd) >> 13));
}
