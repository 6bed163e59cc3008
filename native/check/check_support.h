/* What the checks share: guarded memory, reproducible numbers and a count of cases. */
#ifndef ES_CHECK_SUPPORT_H
#define ES_CHECK_SUPPORT_H

#include "check/check.h"

#include <stddef.h>
#include <stdint.h>

/* Memory that ends at a page nobody may touch, so that a read or write past its end is a crash. */
typedef struct check_buffer {
    uint8_t *base;
    size_t n_bytes;
} check_buffer;

check_buffer check_buffer_new(size_t n_bytes);
void check_buffer_free(check_buffer *buffer);

/* The last n_bytes of the buffer. */
void *check_tail(const check_buffer *buffer, size_t n_bytes);

/* Numbers from check_random (check.h). */
int32_t check_range(uint64_t *random, int32_t low, int32_t high); /* both included */
float check_uniform(uint64_t *random);                            /* within (-1, 1) */

/* A half's value by its definition, not by the kernels' conversion. */
double check_half(uint16_t half);

typedef struct check_count {
    const char *name;
    int n_cases;
    int n_failed;
} check_count;

/* Counts one case; says which one when it failed (the first few of a check only). */
void check_case(check_count *count, int passed, const char *what, int64_t a, int64_t b, int64_t c);

/* Runs a family's cases on every instruction set this machine has, the scalar kernels first; those
 * are also held against the truth. Reports each; returns 0 if all was well. */
int check_each_isa(const char *family, void (*cases)(check_count *count, const es_kernels *table,
                                                     const es_kernels *scalar, int32_t isa));

#endif
