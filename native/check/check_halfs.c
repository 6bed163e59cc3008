/* Conversions between float32 and half against the definition of the format. */
#include "check/check_vector.h"

#include <math.h>
#include <string.h>

enum { LARGEST = 0x7bff, INFINITE = 0x7c00 };

enum { LONGEST = 50 };

/* Every half but the NaNs, in runs of all lengths up to LONGEST, so that tails are met at all values. */
static void widen(check_count *count, const es_kernels *table) {
    float y[LONGEST];
    uint16_t x[LONGEST];
    int32_t n = 1;
    for (uint32_t first = 0; first <= 0xffff; first += (uint32_t)n, n = n % LONGEST + 1) {
        int good = 1;
        memset(y, 0x55, sizeof y);
        for (int32_t i = 0; i < n; i++) {
            x[i] = (uint16_t)(first + (uint32_t)i);
        }
        table->f16_to_f32(y, x, n);
        for (int32_t i = 0; i < n; i++) {
            const int is_nan = (x[i] & 0x7fff) > INFINITE;
            const double value = check_half(x[i]);
            good &= is_nan || ((double)y[i] == value && !signbit(y[i]) == !signbit(value));
        }
        check_case(count, good, "f16_to_f32, first half, n", first, n, 0);
    }
}

/* Around every half: the value, the middle to the next one and the floats beside that middle. */
static void narrow(check_count *count, const es_kernels *table) {
    for (uint32_t h = 0; h <= LARGEST; h++) {
        /* What comes after the largest half is where infinity would stand. */
        const double here = check_half((uint16_t)h);
        const double next = h == LARGEST ? 65536.0 : check_half((uint16_t)(h + 1));
        const float middle = (float)((here + next) / 2);
        const uint16_t low = (uint16_t)h, high = (uint16_t)(h + 1), even = h & 1 ? high : low;
        const float x[10] = {(float)here,
                             nextafterf((float)here, INFINITY),
                             nextafterf(middle, 0.0f),
                             middle,
                             nextafterf(middle, INFINITY),
                             -(float)here,
                             -nextafterf((float)here, INFINITY),
                             -nextafterf(middle, 0.0f),
                             -middle,
                             -nextafterf(middle, INFINITY)};
        const uint16_t expected[5] = {low, low, low, even, high};
        uint16_t y[10];
        int good = 1;
        memset(y, 0x55, sizeof y);
        table->f32_to_f16(y, x, 10); /* eight in a register, two behind it */
        for (int i = 0; i < 5; i++) {
            good &= y[i] == expected[i] && y[5 + i] == (expected[i] | 0x8000);
        }
        table->f32_to_f16(y, x + 2, 8);
        good &= memcmp(y, expected + 2, 3 * sizeof y[0]) == 0;
        check_case(count, good, "f32_to_f16 around half", h, 0, 0);
    }
    const float beyond[3] = {65520.0f, 1e30f, INFINITY};
    uint16_t y[3];
    table->f32_to_f16(y, beyond, 3);
    check_case(count, y[0] == INFINITE && y[1] == INFINITE && y[2] == INFINITE, "f32_to_f16 beyond",
               0, 0, 0);
}

void check_halfs(check_count *count, const es_kernels *table) {
    if (check_wants((check_any_kernel *)table->f16_to_f32)) {
        widen(count, table);
    }
    if (check_wants((check_any_kernel *)table->f32_to_f16)) {
        narrow(count, table);
    }
}
