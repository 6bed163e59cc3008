/* Rows of a pruned cache for AVX-512 with VBMI2: vpexpandw puts up to 32 packed halfs in their places.
 *
 * The first processors of this level have no VBMI2; there the AVX2 kernels stay in the table. */
#include "kernels.h"
#include "kernels/prefetch.h"

#include <immintrin.h>
#include <string.h>

#define VBMI2 __attribute__((target("avx512vbmi2,popcnt")))

#define INLINE static inline VBMI2 __attribute__((always_inline))

/* Elements i to i + 31 of a row, of which 64 bytes at `kept` may be read. */
INLINE const uint8_t *expand_32(uint16_t *to, const uint8_t *kept, uint32_t bits) {
    const __m512i packed = _mm512_loadu_si512(kept);
    _mm512_storeu_si512(to, _mm512_maskz_expand_epi16(bits, packed));
    return kept + 2 * __builtin_popcount(bits);
}

/* The same for fewer than 32 elements, or where the row is the last. */
INLINE const uint8_t *expand_part(uint16_t *to, const uint8_t *kept, uint32_t bits, int32_t n) {
    const int count = __builtin_popcount(bits);
    const __mmask32 loaded = (__mmask32)((UINT64_C(1) << count) - 1);
    const __mmask32 stored = n >= 32 ? UINT32_MAX : (1u << n) - 1u;
    const __m512i packed = _mm512_maskz_loadu_epi16(loaded, kept);
    _mm512_mask_storeu_epi16(to, stored, _mm512_maskz_expand_epi16(bits, packed));
    return kept + 2 * count;
}

/* Rows of n elements, a multiple of 32, behind which 64 more bytes may be read. */
INLINE void expand_whole(uint16_t *to, const uint8_t *rows, size_t row_bytes, int32_t n_rows,
                         const int32_t n) {
    const size_t bitmap = es_sparse_bitmap_bytes(n);
    for (int32_t r = 0; r < n_rows; r++, rows += row_bytes, to += n) {
        es_prefetch_ahead(rows, row_bytes);
        const uint8_t *kept = rows + bitmap;
        for (int32_t i = 0; i < n; i += 32) {
            uint32_t bits;
            memcpy(&bits, rows + i / 8, sizeof bits);
            kept = expand_32(to + i, kept, bits);
        }
    }
}

static VBMI2 void expand_rows(uint16_t *to, const uint8_t *rows, size_t row_bytes, int32_t n_rows,
                              int32_t n) {
    /* So many rows lie before the last 64 bytes. */
    const int32_t n_last = (int32_t)(63 / row_bytes) + 1;
    const int32_t n_whole = n % 32 == 0 && n_rows > n_last ? n_rows - n_last : 0;
    if (n == 64) {
        expand_whole(to, rows, row_bytes, n_whole, 64);
    } else if (n == 128) {
        expand_whole(to, rows, row_bytes, n_whole, 128);
    } else {
        expand_whole(to, rows, row_bytes, n_whole, n);
    }
    rows += (size_t)n_whole * row_bytes;
    to += (size_t)n_whole * (size_t)n;
    for (int32_t r = n_whole; r < n_rows; r++, rows += row_bytes, to += n) {
        const uint8_t *kept = rows + es_sparse_bitmap_bytes(n);
        for (int32_t i = 0; i < n; i += 32) {
            uint32_t bits;
            memcpy(&bits, rows + i / 8, sizeof bits);
            kept = expand_part(to + i, kept, bits, n - i);
        }
    }
}

void es_kvsparse_avx512vnni(es_kernels *table) {
    if (__builtin_cpu_supports("avx512vbmi2")) {
        table->expand_rows = expand_rows;
        table->kvsparse_variant = "avx512vbmi2";
    }
}
