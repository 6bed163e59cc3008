/* The part of check_vector that stands in its own file. */
#ifndef ES_CHECK_VECTOR_H
#define ES_CHECK_VECTOR_H

#include "check/check_support.h"

/* Half conversions: every half, and every place where rounding to a half changes its mind. */
void check_halfs(check_count *count, const es_kernels *table);

#endif
