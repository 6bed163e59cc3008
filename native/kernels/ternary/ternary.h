/* Ternary weights times int8 activations, exact in int32.
 *
 *   sums[t][r] = sum over i < k of code[r][i] * q[t][i],   code in {0, 1, 2},  q in -128 ... 127
 *
 * Preconditions: a row holds ceil(k / block) blocks of 32 bytes (byte pictures of t2 and t5 in
 * edgesparse/formats/README.md) and rows follow one another at row_bytes; nothing outside those bytes
 * is read. q rows are 64-byte aligned, zero from k on, and readable to the end of the last block.
 * Because q is zero there, padding codes may be anything. k >= 1, sums do not overlap the inputs.
 *
 * Exactness: |sum| <= 256 k, so int32 holds for k < 2^23; every narrower stage states its own bound
 * where it is used, as the number of steps after which it is folded into int32.
 *
 * A SIMD variant is four primitives (es_ternary_ops) under the loops of ternary_driver.h. Kernels of
 * another kind, tables instead of multiplications, would be other es_ternary_dot functions here. */
#ifndef ES_TERNARY_H
#define ES_TERNARY_H

#include "kernels.h"
#include "../prefetch.h"
#include "src/cpu.h"

enum {
    ES_T2_BLOCK = 128, /* weights in a block */
    ES_T5_BLOCK = 160,
    ES_T2_FIELDS = 4, /* weights in a byte; field f of byte j is weight 32 f + j */
    ES_T5_FIELDS = 5,
    ES_TERNARY_BLOCK_BYTES = 32,
    ES_TERNARY_MAX_DOT_ROWS = 8,
    ES_TERNARY_SCRATCH_BYTES = 16384 /* on the stack: a panel, or rearranged activations */
};

#if defined(__GNUC__) && !defined(__clang__)
#define ES_UNROLL _Pragma("GCC unroll 16")
#else
#define ES_UNROLL _Pragma("unroll")
#endif
/* Keeps GCC from copying every accumulator of a loop to another register and back: pins `v` to the
 * register it is in, of the class `constraint`. Up to 40 % faster, no instruction of its own. */
#define ES_PIN(constraint, v) __asm__("" : "+" constraint(v))
#define ES_INLINE static inline __attribute__((always_inline))

/* Requests the cache line `ahead` bytes beyond p; the address need not exist. */
ES_INLINE void es_prefetch(const void *p, size_t ahead) {
    __builtin_prefetch((const void *)((uintptr_t)p + ahead), 0, 3);
}

/* Rows of a list between the one multiplied and the ones asked for: a first time, into the second-level
 * cache (0: never), and then into the first. One thread, AVX-512, a list of 20 % of 6912 rows of 640 bytes,
 * Emerald Rapids server: 11.3 GB/s with the second request alone, 14.8 with both; of 160 bytes 7.8 and 11.1
 * (AVX2 9.4 and 11.5, 6.9 and 9.1). A Zen 4, 22 %: 43 ns a row instead of 76 and 21 instead of 33. */
#ifdef __x86_64__
enum { ES_LIST_FAR = 32, ES_LIST_NEAR = 12 };
#else
enum { ES_LIST_FAR = 0, ES_LIST_NEAR = 8 };
#endif

/* The entry `ahead` further down a list of n; near its end the entry itself, which costs nothing. */
ES_INLINE int32_t es_list_entry(int32_t i, int32_t ahead, int32_t n) {
    return i + ahead < n ? i + ahead : i;
}

/* Rows ahead of the request into the first level. Where that of a Zen processor could not wait for as many
 * lines as a group has it is left out, which 0 does: it would only hold up the loads. */
ES_INLINE int32_t es_list_near(int32_t n_rows, size_t n_blocks) {
    enum { ZEN_LINES = 24 };
    const size_t group_bytes = (size_t)n_rows * n_blocks * ES_TERNARY_BLOCK_BYTES;
    return es_cpu_is_amd() && group_bytes > ZEN_LINES * ES_CACHE_LINE ? 0 : ES_LIST_NEAR;
}

ES_INLINE void es_prefetch_listed(const uint8_t *near, const uint8_t *far, size_t block) {
    if (ES_LIST_FAR > 0) {
        __builtin_prefetch(far + block * ES_TERNARY_BLOCK_BYTES, 0, 2);
    }
    es_prefetch(near, block * ES_TERNARY_BLOCK_BYTES);
}

/* The primitives of one format on one instruction set. "panel": panel_rows rows, unpacked to one code
 * per byte in an order that only the pair (unpack, tile) knows. */
typedef struct es_ternary_ops {
    size_t block;            /* weights in a block */
    size_t dot_rows;         /* rows that `dot` takes at once */
    size_t panel_rows;       /* rows of a panel */
    size_t panel_blocks;     /* blocks along k of a panel, at most */
    size_t tile_tokens;      /* tokens that `tile` takes, at most */
    size_t panel_min_tokens; /* from so many tokens on, unpacking a panel pays */

    /* Reorders n_blocks blocks of one token's activations for `dot`; NULL: `dot` reads them as they
     * are. `a` is 64-byte aligned and holds n_blocks rounded up to even. */
    void (*arrange)(int8_t *a, const int8_t *q, size_t n_blocks);
    /* sums[r] of n_rows <= dot_rows rows and one token over n_blocks blocks. For every cache
     * line it reads, it requests those `ahead` of it. */
    void (*dot)(int32_t *sums, const uint8_t *w, size_t row_bytes, size_t n_rows, const int8_t *a,
                size_t n_blocks, es_ahead ahead);
    /* Unpacks n_rows <= panel_rows rows; the codes of missing rows are any. */
    void (*unpack)(uint8_t *panel, const uint8_t *w, size_t row_bytes, size_t n_rows,
                   size_t n_blocks);
    /* The panel's first n_columns columns times n_tokens <= tile_tokens tokens; n_columns is a
     * multiple of 32. Adds to what is in `sums` if `accumulate`. */
    void (*tile)(int32_t *sums, size_t sums_stride, const uint8_t *panel, size_t n_rows,
                 const int8_t *q, size_t q_stride, size_t n_tokens, size_t n_columns,
                 int accumulate);
} es_ternary_ops;

#endif
