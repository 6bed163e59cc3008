/* Add on its own, for plans that are not fused. */
#include "engine.h"

int32_t es_run_add(es_engine *engine, const es_op *op, const es_step *step) {
    for (int32_t t = 0; t < step->n_tokens; t++) {
        engine->k.add(es_row(engine, op->dst, t), es_row(engine, op->src, t),
                      engine->plan.widths[op->src]);
    }
    return ES_OK;
}
