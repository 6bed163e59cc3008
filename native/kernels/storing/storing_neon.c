/* Loading's kernels for NEON: the same bytes as storing_scalar.c. */
#include "kernels.h"
#include "kernels/vector/vector_neon.h"

/* ---- numbers to block codes ---- */

static int32_t requantize(int8_t *codes, uint16_t *d, const float *values, size_t n_blocks,
                          float q_max) {
    const float32x4_t high = vdupq_n_f32(q_max), low = vdupq_n_f32(-q_max);
    const float32x4_t largest = vdupq_n_f32(3.402823466e38f);
    for (size_t b = 0; b < n_blocks; b++, values += 32, codes += 32) {
        float32x4_t x[8], amax = vdupq_n_f32(0.0f);
        uint32x4_t whole = vdupq_n_u32(UINT32_MAX);
        for (int i = 0; i < 8; i++) {
            x[i] = vld1q_f32(values + 4 * i);
            const float32x4_t magnitude = vabsq_f32(x[i]);
            whole = vandq_u32(whole, vcleq_f32(magnitude, largest));
            amax = vmaxnmq_f32(amax, magnitude);
        }
        const float16x4_t half = vcvt_f16_f32(vdupq_n_f32(vmaxnmvq_f32(amax) / q_max));
        d[b] = vget_lane_u16(vreinterpret_u16_f16(half), 0);
        if (vminvq_u32(whole) == 0 || (d[b] & 0x7c00) == 0x7c00) {
            return ES_E_VALUE;
        }
        const float32x4_t step = vcvt_f32_f16(half);
        const uint32x4_t live = vcgtq_f32(step, vdupq_n_f32(0.0f));
        int16x8_t code[4];
        for (int i = 0; i < 8; i += 2) {
            int16x4_t four[2];
            for (int j = 0; j < 2; j++) {
                const uint32x4_t bits = vreinterpretq_u32_f32(vdivq_f32(x[i + j], step));
                const float32x4_t ratio = vreinterpretq_f32_u32(vandq_u32(bits, live));
                const float32x4_t kept = vmaxnmq_f32(vminnmq_f32(ratio, high), low);
                four[j] = vmovn_s32(vcvtnq_s32_f32(kept));
            }
            code[i / 2] = vcombine_s16(four[0], four[1]);
        }
        vst1q_s8(codes, vcombine_s8(vmovn_s16(code[0]), vmovn_s16(code[1])));
        vst1q_s8(codes + 16, vcombine_s8(vmovn_s16(code[2]), vmovn_s16(code[3])));
    }
    return ES_OK;
}

/* ---- codes of eight rows into one tile ---- */

/* The words of one row's block, both columns of a pair in one lane: the first four pairs, the last two.
 * Pair i holds columns 2i and 12 + 2i, and four bits of the last eight columns. */
ES_INLINE_NEON uint16x8x2_t six_bit_words(const int8_t *codes) {
    const uint8x16_t offset = vdupq_n_u8(32), mask = vdupq_n_u8(63);
    const uint8x16_t a = vandq_u8(vaddq_u8(vreinterpretq_u8_s8(vld1q_s8(codes)), offset), mask);
    const uint8x16_t b =
        vandq_u8(vaddq_u8(vreinterpretq_u8_s8(vld1q_s8(codes + 16)), offset), mask);
    const uint16x8_t first = vmovl_u8(vget_low_u8(a)), next = vmovl_high_u8(a);
    const uint8x16_t second = vextq_u8(a, b, 12); /* columns 12 to 27 */
    const uint16x8_t last = vmovl_high_u8(b);     /* columns 24 to 31 */
    uint16x8_t low = vsliq_n_u16(first, vmovl_u8(vget_low_u8(second)), 6);
    low = vsliq_n_u16(low, last, 12);
    /* Two more bits of columns 24, 25, 28, 29, and above them of 26, 27, 30, 31. */
    const uint32x4_t above = vreinterpretq_u32_u16(vshrq_n_u16(last, 4));
    const uint16x8_t even = vreinterpretq_u16_u32(vuzp1q_u32(above, above));
    const uint16x8_t odd = vreinterpretq_u16_u32(vuzp2q_u32(above, above));
    uint16x8_t high = vsliq_n_u16(next, vmovl_high_u8(second), 6);
    high = vsliq_n_u16(high, vsliq_n_u16(even, odd, 2), 12);
    return (uint16x8x2_t){{low, high}};
}

/* Four rows of four 32-bit lanes, turned: 16 bytes at to, and at every 32 after it. */
ES_INLINE_NEON void store_turned(uint8_t *to, const uint16x8_t rows[4], int n) {
    const uint32x4_t a = vreinterpretq_u32_u16(rows[0]), b = vreinterpretq_u32_u16(rows[1]);
    const uint32x4_t c = vreinterpretq_u32_u16(rows[2]), d = vreinterpretq_u32_u16(rows[3]);
    const uint64x2_t ab[2] = {vreinterpretq_u64_u32(vzip1q_u32(a, b)),
                              vreinterpretq_u64_u32(vzip2q_u32(a, b))};
    const uint64x2_t cd[2] = {vreinterpretq_u64_u32(vzip1q_u32(c, d)),
                              vreinterpretq_u64_u32(vzip2q_u32(c, d))};
    for (int i = 0; i < n; i += 2) {
        vst1q_u8(to + 32 * i, vreinterpretq_u8_u64(vzip1q_u64(ab[i / 2], cd[i / 2])));
        vst1q_u8(to + 32 * i + 32, vreinterpretq_u8_u64(vzip2q_u64(ab[i / 2], cd[i / 2])));
    }
}

static void weave_six(uint8_t *dst, const int8_t *codes, size_t n_blocks, size_t dst_stride) {
    for (size_t block = 0; block < n_blocks; block++, dst += dst_stride) {
        for (size_t half = 0; half < 2; half++) {
            uint16x8_t low[4], high[4];
            for (size_t r = 0; r < 4; r++) {
                const uint16x8x2_t words =
                    six_bit_words(codes + ((4 * half + r) * n_blocks + block) * 32);
                low[r] = words.val[0];
                high[r] = words.val[1];
            }
            store_turned(dst + 16 * half, low, 4);
            store_turned(dst + 128 + 16 * half, high, 2);
        }
    }
}

/* ---- lanes into neurons ---- */

/* Sixteen rows of sixteen bytes, turned. */
ES_INLINE_NEON void turn_16x16(uint8x16_t v[16]) {
    uint8x16_t t[16];
    for (int pass = 0; pass < 4; pass++) {
        for (int i = 0; i < 8; i++) {
            t[2 * i] = vzip1q_u8(v[i], v[i + 8]);
            t[2 * i + 1] = vzip2q_u8(v[i], v[i + 8]);
        }
        memcpy(v, t, sizeof t);
    }
}

static void turn_lanes(uint8_t *dst, size_t dst_stride, const uint8_t *lanes, size_t k) {
    size_t c = 0;
    for (; c + 16 <= k; c += 16) {
        for (size_t half = 0; half < 32; half += 16) {
            uint8x16_t v[16];
            for (size_t l = 0; l < 16; l++) {
                v[l] = vld1q_u8(lanes + (half + l) * k + c);
            }
            turn_16x16(v);
            for (size_t i = 0; i < 16; i++) {
                vst1q_u8(dst + (c + i) * dst_stride + half, v[i]);
            }
        }
    }
    for (; c < k; c++) {
        for (size_t l = 0; l < 32; l++) {
            dst[c * dst_stride + l] = lanes[l * k + c];
        }
    }
}

void es_storing_neon(es_kernels *table) {
    table->requantize = requantize;
    table->weave_six = weave_six;
    table->turn_lanes = turn_lanes;
}
