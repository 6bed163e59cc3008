/* Pre-packed files (edgesparse/esp): the container and the frozen plan in it. */
#ifndef ES_ESP_H
#define ES_ESP_H

#include "edgesparse.h"

/* A file in memory, with its plan: pointers lead into `bytes`. */
typedef struct esp_model {
    uint8_t *bytes; /* 64-byte aligned */
    size_t n_bytes;
    int is_mapped;
    es_op *ops;
    es_weight *weights;
    int32_t *widths;
    es_plan plan;
} esp_model;

/* CRC-32 as in zlib, going on from `crc`; 0 to begin with. */
uint32_t esp_crc32(uint32_t crc, const uint8_t *bytes, size_t n_bytes);

/* Reads and checks a file: NULL, or one sentence about what is wrong with it. Every size, offset and
 * checksum is checked before it is used; the engine checks the plan itself (es_engine_create). A mapped
 * file shares its pages with other processes, and must not become shorter. */
const char *esp_open(esp_model *model, const char *path, int mapped);

/* The same for bytes from posix_memalign, 64-byte aligned, that the model takes over. */
const char *esp_open_bytes(esp_model *model, uint8_t *bytes, size_t n_bytes);
void esp_close(esp_model *model);

#endif
