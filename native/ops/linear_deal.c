/* How the rows of a product are dealt to threads. */
#include "linear.h"

/* Most panels that one thread gets where the others take what they can. */
static int64_t largest_share(int64_t n_panels, int64_t unit, int32_t n_threads) {
    const int64_t n_chunks = (n_panels + unit - 1) / unit;
    const int64_t each = n_chunks / n_threads, rest = n_chunks % n_threads;
    const int64_t last = n_panels - (n_chunks - 1) * unit;
    return each * unit + (rest == 0 ? 0 : rest == 1 ? last : unit);
}

/* Chunks big enough to amortise taking one, small enough that threads finish together, and whole panels:
 * of the ternary kernels (32 rows at most), which are tiles of the block formats too, lines of the
 * column formats or whole tiles of bit slices. Of those, the size that deals out most evenly. At least so
 * many panels stay together, if there are enough of them for all threads. */
int32_t es_linear_unit(int64_t n_rows, int32_t n_threads, int32_t k, int32_t panel,
                       int32_t together) {
    enum { MIN_WORK = 65536, CHUNKS_PER_THREAD = 16 };
    const int64_t n_panels = (n_rows + panel - 1) / panel;
    if (n_threads == 1) {
        return (int32_t)(n_panels * panel);
    }
    const int64_t fair = n_panels / ((int64_t)n_threads * CHUNKS_PER_THREAD);
    const int64_t enough = (MIN_WORK / k + panel - 1) / panel;
    const int64_t share_of_one = (n_panels + n_threads - 1) / n_threads;
    const int64_t several = together < share_of_one ? together : share_of_one;
    const int64_t least = es_max((int32_t)several, (int32_t)(fair > enough ? fair : enough));
    int64_t best = least, best_share = INT64_MAX;
    for (int64_t unit = least; unit <= 2 * least; unit++) {
        const int64_t n_chunks = (n_panels + unit - 1) / unit;
        const int64_t share = (n_chunks + n_threads - 1) / n_threads * unit;
        if (share <= best_share) {
            best = unit;
            best_share = share;
        }
    }
    const int64_t tile = 2 * (int64_t)together;
    if (together > 1 && best % tile != 0 &&
        largest_share(n_panels, together, n_threads) <= largest_share(n_panels, best, n_threads)) {
        best = together; /* half a tile: no end of one cuts it */
    }
    return (int32_t)(best * panel);
}
