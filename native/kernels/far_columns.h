/* Live columns of a block further on, asked for into the second-level cache while the lines of the present
 * one are multiplied; shared by formats by columns.
 *
 * The kernels walk a block line by line, so that they touch each column's few lines far apart in time, and
 * ask for the next block in that order, into the first level. Zen processors, whose first level waits for few
 * lines at once, get no further than a third of the memory's speed by that. Asked for column by column and
 * two blocks ahead before, q8n reads 15 GB/s instead of 8.8 with 60 % of the columns live (Zen 4, one
 * thread), 19 to 24 instead of 10 with all. From the second-level cache it costs 15 to 30 %. */
#ifndef ES_FAR_COLUMNS_H
#define ES_FAR_COLUMNS_H

#include "kernels.h"
#include "kernels/prefetch.h"

#include "src/cpu.h"

typedef struct es_far_columns {
    const uint8_t *lines; /* the wanted ones of the block's first column */
    const es_live_pair *pairs;
    int32_t n;     /* pairs that have not been asked for */
    size_t column; /* bytes from a column to the next */
    size_t bytes;  /* wanted ones of a column */
} es_far_columns;

/* Blocks between the one multiplied and the one asked for; 0: nothing is. `spare`: the kernel has time for
 * more requests, so that on Intel's processors, too, they pay: an Emerald Rapids server reads q8n with 60 % of
 * the columns live at 12.8 GB/s instead of 12.3 (AVX-512; AVX2 loses 2 % and nibbles lose 5). */
static inline size_t es_far_blocks(int spare) {
    return spare || es_cpu_is_amd() ? 2 : 0;
}

/* Asks for an even share of what is left, the present line being one of `n_lines` to come. */
static inline __attribute__((always_inline)) void es_far_share(es_far_columns *far,
                                                               size_t n_lines) {
    const int32_t lines = (int32_t)n_lines;
    for (int32_t share = (far->n + lines - 1) / lines; share > 0; share--) {
        const uint8_t *a = far->lines + far->pairs->a * far->column;
        const uint8_t *b = far->lines + far->pairs->b * far->column;
        for (size_t i = 0; i < far->bytes; i += ES_CACHE_LINE) {
            __builtin_prefetch(a + i, 0, 2);
            __builtin_prefetch(b + i, 0, 2);
        }
        far->pairs++;
        far->n--;
    }
}

#endif
