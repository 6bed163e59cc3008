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

static const uint8_t es_csr_places[256][16] = {ES_TABLE256(ES_PAIRS)};

#endif
