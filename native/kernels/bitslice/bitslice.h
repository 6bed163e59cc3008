/* Bit-slice weights times int8 activations in blocks of 32 columns (edgesparse/formats/README.md has
 * the bytes, edgesparse/ops/README.md the arithmetic).
 *
 *   isum[r] = sum over the block's columns of (code[r] - middle) * q      exact
 *
 * Two ways give the same integers: looking up sums of four activations by the bits of four weights
 * (lut, T-MAC's way, arXiv 2407.00088), and multiplying unpacked codes (mad). What follows in floats,
 * slice_finish.h, is the same code in the same order for both.
 *
 * Bounds. abs(q) <= 127 in block activations, so abs(isum) <= 8 * 127 * 32 = 32512 fits int16, and
 * sums of stored codes may wrap around on the way. Per-token activations (bst) reach -128, but codes
 * end at 2: abs(sum) <= 8192 per block. Sums of four activations lie in -512 ... 508: 10 bits. */
#ifndef ES_BITSLICE_H
#define ES_BITSLICE_H

#include "kernels.h"
/* A block of four planes is 1 KiB. On a Sapphire Rapids server one request 4 KiB ahead suits weights in
 * the last-level cache, one of 2 KiB those in memory (a tenth slower and a fifth faster); both together
 * are within 5 % of the former in the cache and 10 to 25 % faster in memory. */
#ifndef ES_PREFETCH_BYTES
#ifdef __x86_64__
#define ES_PREFETCH_BYTES 2048
#define ES_PREFETCH_FAR 5120
#else
#define ES_PREFETCH_BYTES 4096
#endif
#endif
#include "kernels/prefetch.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Pins `v` to a register of the class `constraint`: keeps GCC from summing up as a tree, which needs more
 * registers than there are. No instruction of its own. */
#define ES_KEEP_ORDER(constraint, v) __asm__("" : "+" constraint(v))
#define ES_INLINE static inline __attribute__((always_inline))

enum {
    ES_SLICE_ROWS = 64,       /* rows of a tile */
    ES_SLICE_BLOCK = 32,      /* columns of a block */
    ES_SLICE_PAIRS = 4,       /* pairs of quads in a block */
    ES_SLICE_PLANE_BYTES = 64 /* of one pair of quads in one plane of a tile */
};

/* Bytes of one block of a tile. */
ES_INLINE size_t es_slice_block_bytes(int planes) {
    return (size_t)planes * ES_SLICE_PAIRS * ES_SLICE_PLANE_BYTES;
}

/* Bytes of the steps and zeros in front of a group of a tile. */
ES_INLINE size_t es_slice_head_bytes(const es_slices *s) {
    return ES_SLICE_ROWS * (es_slice_step_bytes(s) + es_slice_beside_bytes(s));
}

/* Rounded tables (not exact; T-MAC's with fast aggregation). An entry is 128 + round(sum of +-q * 127 /
 * largest such sum of the block). The entries of the 8 quads are averaged by a tree of additions that
 * round up: a. In the mean, eight times a is the sum of the entries and 6 more, so the sum of +-q is
 * 8 * (a - 128.75) * largest / 127. */
static const float ES_MEAN_ENTRY = 128.75f;

/* The rounded sum of (code - middle) * x of a block is (sum of 2^plane * a - es_mean(planes)) * d *
 * es_rounded_factor(planes), minus half of xsum where codes are not -1 and 1. */
ES_INLINE float es_mean(int planes) {
    return (float)((1 << planes) - 1) * ES_MEAN_ENTRY;
}

ES_INLINE float es_rounded_factor(int planes) {
    return planes == 1 ? 8.0f : 4.0f;
}

/* isum = factor * (sum of stored codes * q) - middle * (sum of q): a single bit counts as -1 or 1. */
ES_INLINE int32_t es_slice_factor(int planes) {
    return planes == 1 ? 2 : 1;
}

ES_INLINE int32_t es_slice_middle(int planes) {
    return planes == 1 ? 1 : 1 << (planes - 1);
}

/* Tables for byte shuffles. A sum of four activations has 10 bits; it is looked up in two tables of 16
 * bytes, its lower 5 bits and its upper 5 bits plus 16. Both are within 0 ... 31, so that byte additions
 * hold the 8 quads of a block (248), and only then 16-bit lanes are needed:
 *   sum of stored codes * q = sum over planes of 2^plane * (lower + 32 * upper - 8 * 16 * 32).
 * This is what the 16s make sums too large by. */
ES_INLINE int32_t es_excess(const int planes) {
    return es_slice_factor(planes) * ((1 << planes) - 1) * 8 * 16 * 32;
}

#endif
