/* Continues tokens greedily, without Python. */
#ifndef ES_GREEDY_H
#define ES_GREEDY_H

#include "run/esp.h"

/* Takes a token and the CRC-32 of the logits that it had the largest of. */
typedef void es_greedy_token(int32_t token, uint32_t digest);

/* Appends n_generate tokens to n_tokens; `tokens` has room for both. NULL, or one sentence about what is
 * wrong. Memory: what one step of these tokens needs, and a cache of so many positions. */
const char *es_greedy(const esp_model *model, int32_t n_threads, int32_t isa, int32_t *tokens,
                      int32_t n_tokens, int32_t n_generate, es_greedy_token *take);

#endif
