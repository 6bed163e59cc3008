/* Allocation of the engine's own buffers. */
#ifndef ES_MEMORY_H
#define ES_MEMORY_H

#include "engine.h"

/* `n_bytes` bytes on a 64-byte boundary, or NULL; release with free(). Not filled: pages that no step ever
 * needs are then never touched. */
void *es_aligned(size_t n_bytes);

/* Room for `capacity` tokens of up to `max_k` floats; 0 when memory runs out. */
int es_input_create(es_input *input, size_t capacity, size_t max_k);
void es_input_destroy(es_input *input);

#endif
