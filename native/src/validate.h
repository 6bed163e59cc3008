/* Every index that comes from Python is checked once, here. */
#ifndef ES_VALIDATE_H
#define ES_VALIDATE_H

#include "edgesparse.h"

/* 1 when every op's buffers, weights and shapes fit together. */
int es_plan_is_valid(const es_plan *plan);

/* 1 when every token, position, sequence and output of the step is in range. */
int es_step_is_valid(const es_plan *plan, const es_step *step);

/* 1 when a bitmap's offsets and length fit its words (repack/bitmap.c). */
int es_bitmap_is_valid(const es_weight *w);

/* The same for columns that are stored, and for places of two in four. */
int es_csr_is_valid(const es_weight *w);
int es_nm_is_valid(const es_weight *w);

#endif
