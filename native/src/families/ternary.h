/* Ternary products: lists, look-up, scaling, neuron-major sums. */
#ifndef ES_FAMILIES_TERNARY_H
#define ES_FAMILIES_TERNARY_H

#include "edgesparse.h"

/* Integer sums of ternary codes {0,1,2} against int8 activations:
 *   sums[t * sums_stride + r] = sum over i < k of code[r][i] * q[t * q_stride + i]
 * for rows r < n_rows of `row_bytes` each and tokens t < n_tokens. q rows are 64-byte aligned and zero
 * from k up to the padded width, so padding codes do not matter. */
typedef void es_ternary_dot(int32_t *sums, size_t sums_stride, const uint8_t *w, size_t row_bytes,
                            int32_t n_rows, const int8_t *q, size_t q_stride, int32_t n_tokens,
                            int32_t k);

/* Many tokens by looking up, in two steps. First weights become the numbers below 81 of their groups of
 * four: index[pass][row][ES_LOOKUP_GROUPS], es_lookup_bytes(n_rows, k) in all. For t2n, w and row_bytes
 * are as for t2n_dot. Then, for n_tokens <= ES_LOOKUP_TOKENS tokens,
 *   wide[row][token] = sum over i < k of (code[row][i] - 1) * q[token * q_stride + i];
 * `wide` and `narrow` have room for es_lookup_rows(n_rows) rows of ES_LOOKUP_TOKENS, 64-byte aligned;
 * q is readable to the end of the last block of 128 columns. */
enum { ES_LOOKUP_TOKENS = 32, ES_LOOKUP_GROUPS = 4 };
typedef void es_ternary_index(uint8_t *index, const uint8_t *w, size_t row_bytes, int32_t n_rows,
                              int32_t k);
typedef void es_ternary_lookup(int32_t *wide, int16_t *narrow, const uint8_t *index, int32_t n_rows,
                               const int8_t *q, size_t q_stride, int32_t n_tokens, int32_t k);

/* What ternary sums are multiplied with. */
typedef struct es_scaling {
    const float *scales; /* [n_rows] */
    int32_t shared;      /* all of them are the first, which is divided once */
    const float *s;      /* [n_tokens] */
    const int32_t *qsum; /* [n_tokens]; NULL: zeros */
    const float
        *live; /* [n_tokens][live_stride]: results are +0 where this is not above 0; or NULL */
    size_t live_stride;
} es_scaling;

/* Far: results that will have left the caches before they are read need not pass through them. */
typedef enum es_store_kind { ES_STORE, ES_STORE_FAR, ES_STORE_ADD } es_store_kind;

/* Rows are worked on in whole packed blocks of t2n. */
static inline size_t es_lookup_rows(int32_t n_rows) {
    return ((size_t)n_rows + 127) / 128 * 128;
}

static inline size_t es_lookup_bytes(int32_t n_rows, int32_t k) {
    return es_lookup_rows(n_rows) * (((size_t)k + 127) / 128 * 32);
}

/* The same for one token and the rows of an ascending list; sums[i] belongs to row rows[i]. */
typedef void es_ternary_list(int32_t *sums, const uint8_t *w, size_t row_bytes, const int32_t *rows,
                             int32_t n_rows, const int8_t *q, int32_t k);

/* Neuron-major weights (t2n): `w` holds one packed row of outputs for every input i, row_bytes apart.
 *   sums[r] += sum over the list's inputs i of code[r][i] * q[i]   for all r < 4 * row_bytes
 * The list ascends; `sums` is 64-byte aligned. */
typedef void es_neuron_sums(int32_t *sums, const uint8_t *w, size_t row_bytes,
                            const int32_t *inputs, int32_t n_inputs, const int8_t *q);

enum { ES_LIST_SLACK = 16 };

#endif
