/* Glu on its own, for plans that are not fused. */
#include "engine.h"

int32_t es_run_glu(es_engine *engine, const es_op *op, const es_step *step) {
    for (int32_t t = 0; t < step->n_tokens; t++) {
        const float *gate = es_row(engine, op->src, t), *up = es_row(engine, op->src2, t);
        float *dst = es_row(engine, op->dst, t);
        if (op->glu == ES_GLU_RELU2) {
            engine->k.glu_relu2(dst, gate, up, engine->plan.widths[op->src]);
        } else if (op->glu == ES_GLU_GELU) {
            engine->k.glu_gelu(dst, gate, up, engine->plan.widths[op->src]);
        } else if (op->glu == ES_GLU_RELU) {
            engine->k.glu_relu(dst, gate, up, engine->plan.widths[op->src]);
        } else {
            engine->k.glu_silu(dst, gate, up, engine->plan.widths[op->src]);
        }
    }
    return ES_OK;
}
