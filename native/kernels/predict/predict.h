/* Sign planes: one bit per weight, and what a set bit means (SparseInfer; edgesparse/ops/README.md).
 *
 * A row of a plane is padded to whole runs of 32 bytes. The rows of a matrix lie one after the other;
 * a masked one has two planes in every row, signs and then non-zeros. */
#ifndef ES_PREDICT_H
#define ES_PREDICT_H

#include "kernels.h"

#define ES_INLINE static inline __attribute__((always_inline))
enum { ES_SIGN_RUN = 32 };

#endif
