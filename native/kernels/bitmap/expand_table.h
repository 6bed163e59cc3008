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

/* entry(m) for every byte m. */
#define ES_TABLE4(entry, m) entry(m), entry(m + 1), entry(m + 2), entry(m + 3)
#define ES_TABLE16(entry, m) \
    ES_TABLE4(entry, m), ES_TABLE4(entry, m + 4), ES_TABLE4(entry, m + 8), ES_TABLE4(entry, m + 12)
#define ES_TABLE64(entry, m)                                                    \
    ES_TABLE16(entry, m), ES_TABLE16(entry, m + 16), ES_TABLE16(entry, m + 32), \
        ES_TABLE16(entry, m + 48)
#define ES_TABLE256(entry) \
    ES_TABLE64(entry, 0), ES_TABLE64(entry, 64), ES_TABLE64(entry, 128), ES_TABLE64(entry, 192)

static const uint8_t es_expand_places[256][8] = {ES_TABLE256(ES_PLACES)};

#endif
