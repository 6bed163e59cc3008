/* For each byte of bits: where pshufb or tbl finds the two bytes of every set bit's number, and zeros
 * elsewhere. */
#ifndef ES_CSR_PLACES_H
#define ES_CSR_PLACES_H

#include "kernels/bitmap/expand_table.h"

#define ES_PAIR(m, i) \
    (ES_BIT(m, i) ? 2 * ES_BELOW(m, i) : 0x80), (ES_BIT(m, i) ? 2 * ES_BELOW(m, i) + 1 : 0x80)
#define ES_PAIRS(m)                                              \
    {ES_PAIR(m, 0), ES_PAIR(m, 1), ES_PAIR(m, 2), ES_PAIR(m, 3), \
     ES_PAIR(m, 4), ES_PAIR(m, 5), ES_PAIR(m, 6), ES_PAIR(m, 7)}
#define ES_PAIRS4(m) ES_PAIRS(m), ES_PAIRS(m + 1), ES_PAIRS(m + 2), ES_PAIRS(m + 3)
#define ES_PAIRS16(m) ES_PAIRS4(m), ES_PAIRS4(m + 4), ES_PAIRS4(m + 8), ES_PAIRS4(m + 12)
#define ES_PAIRS64(m) ES_PAIRS16(m), ES_PAIRS16(m + 16), ES_PAIRS16(m + 32), ES_PAIRS16(m + 48)

static const uint8_t es_csr_places[256][16] = {ES_PAIRS64(0), ES_PAIRS64(64), ES_PAIRS64(128),
                                               ES_PAIRS64(192)};

#endif
