#include "validate.h"

#include "kernels.h"
#include "kernels/coo.h"

#include <float.h>

static int has_width(const es_plan *plan, int32_t id, int64_t width) {
    return id >= 0 && id < plan->n_buffers && width > 0 && plan->widths[id] >= width;
}

/* Bytes of bit slices: heads of groups and blocks of 32 columns, tiles of 64 rows or lines of 128. */
static int slices_are_valid(const es_weight *w, size_t rows, size_t blocks) {
    const int by_columns = es_is_slice_column(w->format);
    const size_t tile_rows = by_columns ? ES_SLICE_LINE_ROWS : 64;
    const size_t tiles = (rows + tile_rows - 1) / tile_rows;
    if (w->mad_tokens < 1 || w->rounded < 0 || w->rounded > !by_columns) {
        return 0;
    }
    if (w->format == ES_FORMAT_BST) {
        return w->scales != NULL && w->group == 0 && w->zeros == ES_ZEROS_NONE && !w->rounded &&
               w->n_bytes == tiles * blocks * 2 * 256;
    }
    if ((w->group != 0 && w->group != 32 && w->group != 64 && w->group != 128) ||
        w->zeros < ES_ZEROS_NONE || w->zeros > ES_ZEROS_OFFSETS || w->wide < 0 || w->wide > 1) {
        return 0;
    }
    const size_t per_group = w->group == 0 ? blocks : (size_t)w->group / 32;
    const size_t groups = (blocks + per_group - 1) / per_group;
    const es_slices layout = {.zeros = w->zeros, .wide = w->wide};
    const size_t head = tile_rows * (es_slice_step_bytes(&layout) + es_slice_beside_bytes(&layout));
    const size_t block = by_columns ? 32 * es_slice_line_bytes(w->format - ES_FORMAT_BS2N + 2)
                                    : (size_t)(w->format - ES_FORMAT_BS1 + 1) * 256;
    return w->n_bytes == tiles * (groups * head + blocks * block);
}

int32_t es_weight_is_valid(const es_weight *w) {
    if (w == NULL || w->n_rows < 1 || w->k < 1 || w->data == NULL) {
        return 0;
    }
    const size_t rows = (size_t)w->n_rows, k = (size_t)w->k;
    const size_t tiles = (rows + 7) / 8, blocks = (k + 31) / 32;
    switch (w->format) {
    case ES_FORMAT_T2:
        return w->scales != NULL && w->n_bytes == rows * ((k + 127) / 128) * 32;
    case ES_FORMAT_T2N:
        return w->scales != NULL && w->n_bytes == k * ((rows + 127) / 128) * 32;
    case ES_FORMAT_T5:
        return w->scales != NULL && w->n_bytes == rows * ((k + 159) / 160) * 32;
    case ES_FORMAT_Q8:
        return w->n_bytes == tiles * blocks * 272;
    case ES_FORMAT_Q8M:
        return w->n_bytes == tiles * blocks * 288;
    case ES_FORMAT_Q4:
        return w->n_bytes == tiles * blocks * 144;
    case ES_FORMAT_Q4M:
        return w->n_bytes == tiles * blocks * 160;
    case ES_FORMAT_Q6:
        return w->n_bytes == tiles * blocks * 208;
    case ES_FORMAT_Q8N:
    case ES_FORMAT_Q4N:
    case ES_FORMAT_Q8MN:
    case ES_FORMAT_Q4MN: {
        const size_t line_rows = es_line_rows(w->format);
        return w->n_bytes ==
               (rows + line_rows - 1) / line_rows * blocks * es_line_block_bytes(w->format);
    }
    case ES_FORMAT_Q8R:
    case ES_FORMAT_Q4R:
    case ES_FORMAT_Q8MR:
    case ES_FORMAT_Q4MR:
        return w->n_bytes == rows * es_row_bytes(w->format, blocks);
    case ES_FORMAT_F16:
    case ES_FORMAT_BF16:
        return w->n_bytes == tiles * 8 * k * 2;
    case ES_FORMAT_F32:
        return w->n_bytes == tiles * 8 * k * 4;
    case ES_FORMAT_BS1:
    case ES_FORMAT_BS2:
    case ES_FORMAT_BS3:
    case ES_FORMAT_BS4:
    case ES_FORMAT_BST:
    case ES_FORMAT_BS2N:
    case ES_FORMAT_BS3N:
    case ES_FORMAT_BS4N:
        return slices_are_valid(w, rows, blocks);
    case ES_FORMAT_BMP8:
    case ES_FORMAT_BMP4:
        return es_bitmap_is_valid(w);
    case ES_FORMAT_CSR:
        return es_csr_is_valid(w);
    case ES_FORMAT_NM8:
    case ES_FORMAT_NM4:
        return es_nm_is_valid(w);
    case ES_FORMAT_COO:
        return es_coo_is_valid(w);
    case ES_FORMAT_SIGNS:
        return w->n_bytes == rows * ((k + 255) / 256) * 32;
    case ES_FORMAT_SIGNS_MASKED:
        return w->n_bytes == rows * ((k + 255) / 256) * 64;
    default:
        return 0;
    }
}

static int is_signs(const es_weight *w) {
    return w->format == ES_FORMAT_SIGNS || w->format == ES_FORMAT_SIGNS_MASKED;
}

/* Whether a weight only ever stands beside another. */
static int is_aside(const es_weight *w) {
    return is_signs(w) || w->format == ES_FORMAT_COO;
}

/* Sign planes of the output's own shape, and a limit for every row; there may be none of either. */
static int signs_are_valid(const es_plan *plan, const es_output *out, const es_weight *w) {
    if (out->signs == -1) {
        return 1;
    }
    if (out->signs < 0 || out->signs >= plan->n_weights || out->limits == NULL) {
        return 0;
    }
    const es_weight *signs = &plan->weights[out->signs];
    return is_signs(signs) && signs->n_rows == w->n_rows && signs->k == w->k && out->dst >= 0 &&
           !out->add && out->live == -1 && w->format != ES_FORMAT_T2N;
}

/* Outliers of the output's own shape, or none. */
static int side_is_valid(const es_plan *plan, const es_output *out, const es_weight *w) {
    if (out->side == -1) {
        return 1;
    }
    if (out->side < 0 || out->side >= plan->n_weights) {
        return 0;
    }
    const es_weight *side = &plan->weights[out->side];
    return side->format == ES_FORMAT_COO && side->n_rows == w->n_rows && side->k == w->k;
}

/* Finite and not negative; what is added to a buffer, and logits, are not cut. */
static int cut_is_valid(const es_output *out) {
    if (out->shift == 0.0f && out->cutoff == 0.0f) {
        return 1;
    }
    return out->shift >= 0.0f && out->shift <= FLT_MAX && out->cutoff >= 0.0f &&
           out->cutoff <= FLT_MAX && out->dst >= 0 && !out->add;
}

/* Every input is one of k, and nothing else reads inputs in their own order. */
static int order_is_valid(const es_op *op, int32_t k) {
    for (int32_t i = 0; i < k; i++) {
        if (op->order[i] < 0 || op->order[i] >= k) {
            return 0;
        }
    }
    for (int32_t i = 0; i < op->n_outputs; i++) {
        if (op->outputs[i].signs != -1 || op->outputs[i].side != -1) {
            return 0;
        }
    }
    return op->coarse == NULL;
}

static int linear_is_valid(const es_plan *plan, const es_op *op) {
    if (op->n_outputs < 1 || op->n_outputs > ES_MAX_OUTPUTS) {
        return 0;
    }
    int32_t k = -1;
    for (int32_t i = 0; i < op->n_outputs; i++) {
        const es_output *out = &op->outputs[i];
        if (out->weight < 0 || out->weight >= plan->n_weights) {
            return 0;
        }
        const es_weight *w = &plan->weights[out->weight];
        if ((k >= 0 && w->k != k) || is_aside(w) || !signs_are_valid(plan, out, w) ||
            !side_is_valid(plan, out, w) || !cut_is_valid(out)) {
            return 0;
        }
        k = w->k;
        if (out->dst == -1 ? w->n_rows != plan->n_vocab || !op->outputs_only || out->add
                           : !has_width(plan, out->dst, w->n_rows) || out->dst == op->src ||
                                 (op->glu != ES_GLU_NONE && out->dst == op->src2)) {
            return 0;
        }
        /* Live rows come from what an earlier output of the op, or an earlier op, has written. */
        if (out->live != -1 &&
            (!has_width(plan, out->live, w->n_rows) || out->live == out->dst || out->dst == -1 ||
             out->add || w->format == ES_FORMAT_T2N || es_is_column(w->format))) {
            return 0;
        }
    }
    if (op->coarse != NULL &&
        (op->n_outputs != 1 || op->outputs[0].dst != -1 || op->coarse_scales == NULL ||
         op->outputs[0].side != -1 || k > ES_COARSE_MAX_K ||
         es_is_sparse(plan->weights[op->outputs[0].weight].format))) {
        return 0;
    }
    if (op->order != NULL && !order_is_valid(op, k)) {
        return 0;
    }
    return has_width(plan, op->src, k) && op->glu >= ES_GLU_NONE && op->glu <= ES_GLU_RELU &&
           (op->glu == ES_GLU_NONE || has_width(plan, op->src2, k));
}

/* Every expert has the shapes of the first, and a token has n_used rows in every destination. */
static int expert_is_valid(const es_plan *plan, const es_op *op, int32_t expert) {
    for (int32_t i = 0; i < op->n_outputs; i++) {
        const int32_t id = op->experts[(int64_t)expert * op->n_outputs + i];
        if (id < 0 || id >= plan->n_weights || op->outputs[i].weight < 0 ||
            op->outputs[i].weight >= plan->n_weights) {
            return 0;
        }
        const es_output *out = &op->outputs[i];
        const es_weight *w = &plan->weights[id], *first = &plan->weights[out->weight];
        const int64_t width = (int64_t)op->n_used * w->n_rows;
        if (w->n_rows != first->n_rows || w->k != plan->weights[op->outputs[0].weight].k ||
            is_aside(w) || !has_width(plan, out->dst, width) || plan->widths[out->dst] != width ||
            out->dst == op->src || (op->glu != ES_GLU_NONE && out->dst == op->src2)) {
            return 0;
        }
        if (out->live != -1 &&
            (!has_width(plan, out->live, width) || plan->widths[out->live] != width ||
             out->live == out->dst || w->format == ES_FORMAT_T2N || es_is_column(w->format))) {
            return 0;
        }
        if (out->add || out->bias != NULL || out->live_threshold > 0.0f || out->signs != -1 ||
            out->side != -1 || !cut_is_valid(out)) {
            return 0;
        }
    }
    return 1;
}

static int uses_experts(const es_plan *plan, const es_op *op) {
    return op->n_used >= 1 && op->n_used <= op->n_experts && op->n_experts <= ES_MAX_EXPERTS &&
           (int64_t)plan->max_tokens * op->n_used <= INT32_MAX;
}

static int experts_are_valid(const es_plan *plan, const es_op *op) {
    if (!uses_experts(plan, op) || op->n_outputs < 1 || op->n_outputs > ES_MAX_OUTPUTS ||
        op->experts == NULL || !has_width(plan, op->route, 2 * (int64_t)op->n_used) ||
        op->coarse != NULL || op->threshold > 0.0f || op->outputs_only || op->order != NULL) {
        return 0;
    }
    for (int32_t e = 0; e < op->n_experts; e++) {
        if (!expert_is_valid(plan, op, e)) {
            return 0;
        }
    }
    const int64_t k = plan->weights[op->outputs[0].weight].k;
    const int64_t width = op->per_slot ? op->n_used * k : k;
    const int is_gated = op->glu != ES_GLU_NONE;
    return op->glu >= ES_GLU_NONE && op->glu <= ES_GLU_RELU && has_width(plan, op->src, width) &&
           (!op->per_slot || plan->widths[op->src] == width) &&
           (!is_gated || (has_width(plan, op->src2, width) &&
                          (!op->per_slot || plan->widths[op->src2] == width)));
}

static int heads_are_valid(const es_plan *plan, const es_op *op) {
    return op->layer >= 0 && op->layer < plan->n_layers && op->n_kv_heads > 0 && op->head_dim > 0 &&
           op->n_heads > 0 && op->n_heads % op->n_kv_heads == 0 && op->head_dim >= plan->kv_kept &&
           (int64_t)op->n_kv_heads * op->head_dim == plan->kv_dim &&
           has_width(plan, op->src, (int64_t)op->n_heads * op->head_dim);
}

static int op_is_valid(const es_plan *plan, const es_op *op) {
    switch (op->kind) {
    case ES_OP_EMBED:
        return op->outputs[0].weight >= 0 && op->outputs[0].weight < plan->n_weights &&
               plan->weights[op->outputs[0].weight].format != ES_FORMAT_T2N &&
               !es_is_column(plan->weights[op->outputs[0].weight].format) &&
               !es_is_row(plan->weights[op->outputs[0].weight].format) &&
               !es_is_sparse(plan->weights[op->outputs[0].weight].format) &&
               !is_aside(&plan->weights[op->outputs[0].weight]) &&
               plan->weights[op->outputs[0].weight].n_rows >= plan->n_vocab &&
               has_width(plan, op->dst, plan->weights[op->outputs[0].weight].k);
    case ES_OP_LINEAR:
        return linear_is_valid(plan, op);
    case ES_OP_ROPE_KV:
        return heads_are_valid(plan, op) && has_width(plan, op->src2, plan->kv_dim) &&
               has_width(plan, op->src3, plan->kv_dim) && op->rope_dim >= 0 &&
               op->rope_dim % 2 == 0 && op->rope_dim <= op->head_dim && op->rope != NULL;
    case ES_OP_ATTENTION:
        return heads_are_valid(plan, op) && op->window >= 0 && op->dst != op->src &&
               has_width(plan, op->dst, (int64_t)op->n_heads * op->head_dim);
    case ES_OP_NORM:
        return op->norm != NULL && has_width(plan, op->src, 1) &&
               has_width(plan, op->dst, plan->widths[op->src]);
    case ES_OP_GLU:
        return op->glu > ES_GLU_NONE && op->glu <= ES_GLU_RELU && has_width(plan, op->src, 1) &&
               has_width(plan, op->src2, plan->widths[op->src]) &&
               has_width(plan, op->dst, plan->widths[op->src]);
    case ES_OP_ROUTE:
        return uses_experts(plan, op) && has_width(plan, op->src, op->n_experts) &&
               has_width(plan, op->dst, 2 * (int64_t)op->n_used) && op->src != op->dst;
    case ES_OP_EXPERTS:
        return experts_are_valid(plan, op);
    case ES_OP_COMBINE:
        return uses_experts(plan, op) && has_width(plan, op->dst, 1) &&
               has_width(plan, op->src, (int64_t)op->n_used * plan->widths[op->dst]) &&
               has_width(plan, op->route, 2 * (int64_t)op->n_used) && op->src != op->dst &&
               (op->src2 < 0 || has_width(plan, op->src2, plan->widths[op->dst])) &&
               (op->gate < 0 || has_width(plan, op->gate, 1));
    case ES_OP_ADD:
        return has_width(plan, op->src, 1) && has_width(plan, op->dst, plan->widths[op->src]);
    default:
        return 0;
    }
}

static int cache_type_is_valid(int32_t type) {
    return type == ES_CACHE_F16 || type == ES_CACHE_Q8_0;
}

/* Pruned rows have room for heads at least as long as what they keep; see edgesparse.h for the ring. */
static int pruning_is_valid(const es_plan *plan) {
    if (plan->kv_kept == 0) {
        return 1;
    }
    return plan->kv_kept > 0 && plan->kv_kept <= plan->kv_dim &&
           plan->cache_type_k == ES_CACHE_F16 && plan->cache_type_v == ES_CACHE_F16 &&
           plan->kv_window > 0 && plan->kv_recent > 0 && plan->kv_recent % ES_CACHE_CHUNK == 0 &&
           (int64_t)plan->max_tokens + plan->kv_window + ES_KV_GROUP <= plan->kv_recent;
}

int es_plan_is_valid(const es_plan *plan) {
    if (plan == NULL || plan->n_ops < 1 || plan->n_buffers < 1 || plan->n_weights < 1 ||
        plan->n_layers < 1 || plan->n_ctx < 1 || plan->n_vocab < 1 || plan->max_tokens < 1 ||
        plan->kv_dim < 1 || !cache_type_is_valid(plan->cache_type_k) ||
        !cache_type_is_valid(plan->cache_type_v) || !pruning_is_valid(plan)) {
        return 0;
    }
    for (int32_t i = 0; i < plan->n_weights; i++) {
        if (!es_weight_is_valid(&plan->weights[i])) {
            return 0;
        }
    }
    for (int32_t i = 0; i < plan->n_ops; i++) {
        if (!op_is_valid(plan, &plan->ops[i])) {
            return 0;
        }
    }
    return 1;
}

int es_step_is_valid(const es_plan *plan, const es_step *step) {
    if (step == NULL || step->n_tokens < 1 || step->n_tokens > plan->max_tokens ||
        step->n_outputs < 0 || step->n_outputs > step->n_tokens || step->n_caches < 1 ||
        step->n_tiles < 0) {
        return 0;
    }
    for (int32_t t = 0; t < step->n_tokens; t++) {
        const int32_t sequence = step->sequences[t];
        if (step->tokens[t] < 0 || step->tokens[t] >= plan->n_vocab || sequence < 0 ||
            sequence >= step->n_caches || step->positions[t] < 0 ||
            step->positions[t] >= plan->n_ctx ||
            step->positions[t] >= step->caches[sequence].capacity) {
            return 0;
        }
    }
    for (int32_t j = 0; j < step->n_outputs; j++) {
        if (step->outputs[j] < 0 || step->outputs[j] >= step->n_tokens) {
            return 0;
        }
    }
    return step->n_outputs == 0 || step->logits != NULL;
}
