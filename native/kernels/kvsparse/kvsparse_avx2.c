/* Rows of a pruned cache for AVX2: what is kept, and the table of byte shuffles, indexed by eight bits of the
 * bitmap, by which attention reads such rows itself. */
#include "kernels/kvsparse/kvsparse_avx2.h"
#include "kernels/kvsparse/prune_row.h"

#include <immintrin.h>
#include <string.h>

uint8_t es_half_places[256][16] __attribute__((aligned(64)));

static void __attribute__((constructor)) fill_places(void) {
    for (int b = 0; b < 256; b++) {
        uint8_t next = 0;
        for (int i = 0; i < 8; i++) {
            const int set = b >> i & 1;
            es_half_places[b][2 * i] = set ? next : 0x80;
            es_half_places[b][2 * i + 1] = set ? (uint8_t)(next + 1) : 0x80;
            next = (uint8_t)(next + 2 * set);
        }
    }
}

/* Halfs whose magnitude is below `bound`, of n. */
static int32_t count_below(const uint16_t *halfs, int32_t n, uint16_t bound) {
    const __m256i limit = _mm256_set1_epi16((short)bound), low = _mm256_set1_epi16(0x7fff);
    int32_t count = 0, i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)(halfs + i));
        const __m256i below = _mm256_cmpgt_epi16(limit, _mm256_and_si256(x, low));
        count += __builtin_popcount((unsigned)_mm256_movemask_epi8(below));
    }
    count /= 2;
    for (; i < n; i++) {
        count += (halfs[i] & 0x7fff) < bound;
    }
    return count;
}

static void prune_row(uint8_t *row, const uint16_t *halfs, int32_t n, int32_t n_kept) {
    const es_prune by = find_bound(halfs, n, n - n_kept);
    uint8_t *kept = row + es_sparse_bitmap_bytes(n);
    memset(row, 0, es_sparse_bitmap_bytes(n));
    keep_end(row, kept, kept + 2 * (size_t)n_kept, halfs, 0, n, by);
}

void es_kvsparse_avx2(es_kernels *table) {
    table->prune_row = prune_row;
    table->kvsparse_variant = "avx2";
}
