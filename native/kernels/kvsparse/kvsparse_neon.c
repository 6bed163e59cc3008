/* Rows of a pruned cache for NEON: eight halfs at a time through tbl, indexed by eight bits of the
 * bitmap. */
#include "kernels/bitmap/bitmap_128.h"
#include "kernels/kvsparse/prune_row.h"
#include "kernels/vector/vector_neon.h"

/* Eight elements from the halfs at `kept` on; reads 16 bytes. */
ES_INLINE void expand_eight(uint16_t *to, const uint8_t *kept, uint64_t bits) {
    const uint8x8_t places = vld1_u8(es_expand_places[bits]);
    const uint8x16_t twice = vzip1q_u8(vcombine_u8(places, places), vcombine_u8(places, places));
    /* Bytes 2p and 2p + 1 of each half; where there is none, 255 leads beyond the register. */
    const uint8x16_t odd = vreinterpretq_u8_u16(vdupq_n_u16(0x0100));
    const uint8x16_t order = vorrq_u8(vqaddq_u8(twice, twice), odd);
    vst1q_u16(to, vreinterpretq_u16_u8(vqtbl1q_u8(vld1q_u8(kept), order)));
}

/* Elements from i on of a row, one by one: a load of eight may not pass the end of what is there. */
static void expand_end(uint16_t *to, const uint8_t *row, const uint8_t *kept, int32_t i,
                       int32_t n) {
    for (; i < n; i++) {
        to[i] = 0;
        if (row[i / 8] >> i % 8 & 1) {
            memcpy(&to[i], kept, sizeof to[i]);
            kept += sizeof to[i];
        }
    }
}

static void expand_rows(uint16_t *to, const uint8_t *rows, size_t row_bytes, int32_t n_rows,
                        int32_t n) {
    const size_t bitmap = es_sparse_bitmap_bytes(n);
    const uint8_t *end = rows + (size_t)n_rows * row_bytes;
    for (int32_t r = 0; r < n_rows; r++, rows += row_bytes, to += n) {
        es_prefetch_ahead(rows, row_bytes);
        const uint8_t *kept = rows + bitmap;
        int32_t i = 0;
        for (; i + 64 <= n && end - kept >= 128; i += 64) {
            uint64_t word;
            memcpy(&word, rows + i / 8, sizeof word);
            const es_bitmap_places p = es_places_of(word);
#pragma GCC unroll 8
            for (int b = 0; b < 8; b++) {
                const size_t start = p.starts >> 8 * b & 255;
                expand_eight(to + i + 8 * b, kept + 2 * start, word >> 8 * b & 255);
            }
            kept += 2 * p.n;
        }
        for (; i + 8 <= n && end - kept >= 16; i += 8) {
            const uint8_t bits = rows[i / 8];
            expand_eight(to + i, kept, bits);
            kept += 2 * __builtin_popcount(bits);
        }
        expand_end(to, rows, kept, i, n);
    }
}

enum { RUN = 4096 }; /* registers whose counts fit 16 bits */

static int32_t count_below(const uint16_t *halfs, int32_t n, uint16_t bound) {
    const uint16x8_t limit = vdupq_n_u16(bound), magnitude = vdupq_n_u16(0x7fff);
    int32_t count = 0, i = 0;
    while (i + 8 <= n) {
        const int32_t end = n - i < 8 * RUN ? n : i + 8 * RUN;
        uint16x8_t counts = vdupq_n_u16(0);
        for (; i + 8 <= end; i += 8) {
            const uint16x8_t x = vandq_u16(vld1q_u16(halfs + i), magnitude);
            counts = vsubq_u16(counts, vcltq_u16(x, limit));
        }
        count += (int32_t)vaddlvq_u16(counts);
    }
    for (; i < n; i++) {
        count += (halfs[i] & 0x7fff) < bound;
    }
    return count;
}

static void prune_row(uint8_t *row, const uint16_t *halfs, int32_t n, int32_t n_kept) {
    const size_t bitmap = es_sparse_bitmap_bytes(n);
    es_prune by = find_bound(halfs, n, n - n_kept);
    const uint16x8_t limit = vdupq_n_u16(by.bound), magnitude = vdupq_n_u16(0x7fff);
    uint8_t *kept = row + bitmap;
    const uint8_t *last = kept + 2 * (size_t)n_kept;
    int32_t i = 0;
    memset(row, 0, bitmap);
    for (; i + 8 <= n; i += 8) {
        const uint16x8_t x = vandq_u16(vld1q_u16(halfs + i), magnitude);
        unsigned equal = es_gather_bits(vceqq_u16(x, limit));
        for (; equal != 0 && by.n_equal > 0; by.n_equal--) {
            equal &= equal - 1;
        }
        const unsigned bits = equal | es_gather_bits(vcgtq_u16(x, limit));
        row[i / 8] = (uint8_t)bits;
        for (unsigned left = bits; left != 0; left &= left - 1, kept += 2) {
            memcpy(kept, &halfs[i + __builtin_ctz(left)], sizeof *halfs);
        }
    }
    keep_end(row, kept, last, halfs, i, n, by);
}

void es_kvsparse_neon(es_kernels *table) {
    table->prune_row = prune_row;
    table->expand_rows = expand_rows;
    table->kvsparse_variant = "neon";
}
