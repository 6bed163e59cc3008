/* For each byte of a bitmap: where pshufb finds the codes of its set bits, and zeros elsewhere. */
#ifndef ES_EXPAND_TABLE_H
#define ES_EXPAND_TABLE_H

#include <stdint.h>

#define ES_BIT(m, i) ((m) >> (i) & 1)
#define ES_BELOW(m, i)                                                                      \
    ((i > 0 ? ES_BIT(m, 0) : 0) + (i > 1 ? ES_BIT(m, 1) : 0) + (i > 2 ? ES_BIT(m, 2) : 0) + \
     (i > 3 ? ES_BIT(m, 3) : 0) + (i > 4 ? ES_BIT(m, 4) : 0) + (i > 5 ? ES_BIT(m, 5) : 0) + \
     (i > 6 ? ES_BIT(m, 6) : 0))
#define ES_PLACE(m, i) (ES_BIT(m, i) ? ES_BELOW(m, i) : 0x80)
#define ES_PLACES(m)                                                 \
    {ES_PLACE(m, 0), ES_PLACE(m, 1), ES_PLACE(m, 2), ES_PLACE(m, 3), \
     ES_PLACE(m, 4), ES_PLACE(m, 5), ES_PLACE(m, 6), ES_PLACE(m, 7)}
#define ES_PLACES4(m) ES_PLACES(m), ES_PLACES(m + 1), ES_PLACES(m + 2), ES_PLACES(m + 3)
#define ES_PLACES16(m) ES_PLACES4(m), ES_PLACES4(m + 4), ES_PLACES4(m + 8), ES_PLACES4(m + 12)
#define ES_PLACES64(m) ES_PLACES16(m), ES_PLACES16(m + 16), ES_PLACES16(m + 32), ES_PLACES16(m + 48)

static const uint8_t es_expand_places[256][8] = {ES_PLACES64(0), ES_PLACES64(64), ES_PLACES64(128),
                                                 ES_PLACES64(192)};

#endif
