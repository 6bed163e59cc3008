/* The engine: owns threads, activations and scratch, and walks a range of the op list. */
#include "engine.h"

#include "cpu.h"
#include "memory.h"
#include "validate.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static int32_t max_k(const es_plan *plan) {
    int32_t k = 1;
    for (int32_t i = 0; i < plan->n_weights; i++) {
        k = es_max(k, plan->weights[i].k);
    }
    return k;
}

/* Of the weights that are used through lists: outputs, in whole packed blocks, and live rows. */
static size_t max_neuron_rows(const es_plan *plan) {
    int32_t n_rows = 0;
    for (int32_t i = 0; i < plan->n_weights; i++) {
        if (plan->weights[i].format == ES_FORMAT_T2N) {
            n_rows = es_max(n_rows, plan->weights[i].n_rows);
        }
    }
    return es_round_up((size_t)n_rows, ES_NEURON_ROWS);
}

size_t es_max_blocks(const es_plan *plan, int (*is_of_family)(int32_t format)) {
    int32_t k = 0;
    for (int32_t i = 0; i < plan->n_weights; i++) {
        if (is_of_family(plan->weights[i].format)) {
            k = es_max(k, plan->weights[i].k);
        }
    }
    return ((size_t)k + 31) / 32;
}

static size_t max_live_rows(const es_plan *plan) {
    int32_t n_rows = 0;
    for (int32_t i = 0; i < plan->n_ops; i++) {
        const es_op *op = &plan->ops[i];
        const int is_linear = op->kind == ES_OP_LINEAR || op->kind == ES_OP_EXPERTS;
        for (int32_t j = 0; is_linear && j < op->n_outputs; j++) {
            if (op->outputs[j].live >= 0 || op->outputs[j].signs >= 0) {
                n_rows = es_max(n_rows, plan->weights[op->outputs[j].weight].n_rows);
            }
        }
    }
    return (size_t)n_rows;
}

static void *copy_of(const void *source, size_t n_bytes) {
    void *copy = malloc(n_bytes);
    if (copy != NULL) {
        memcpy(copy, source, n_bytes);
    }
    return copy;
}

static int copy_plan(es_plan *to, const es_plan *from) {
    *to = *from;
    to->ops = copy_of(from->ops, (size_t)from->n_ops * sizeof *from->ops);
    to->widths = copy_of(from->widths, (size_t)from->n_buffers * sizeof *from->widths);
    to->weights = copy_of(from->weights, (size_t)from->n_weights * sizeof *from->weights);
    return to->ops != NULL && to->widths != NULL && to->weights != NULL;
}

/* The plan's largest attention. */
typedef struct attention_size {
    int32_t n_heads, head_dim;
} attention_size;

static attention_size largest_attention(const es_plan *plan) {
    attention_size size = {1, 1};
    for (int32_t i = 0; i < plan->n_ops; i++) {
        if (plan->ops[i].kind == ES_OP_ATTENTION) {
            size.n_heads = es_max(size.n_heads, plan->ops[i].n_heads);
            size.head_dim = es_max(size.head_dim, plan->ops[i].head_dim);
        }
    }
    return size;
}

static int create_proposal(es_engine *engine) {
    for (int32_t i = 0; i < engine->plan.n_ops; i++) {
        const es_op *op = &engine->plan.ops[i];
        if (op->coarse != NULL) {
            const es_weight *w = &engine->plan.weights[op->outputs[0].weight];
            const size_t n_tiles = ((size_t)w->n_rows + 7) / 8;
            engine->tile_best = es_aligned(2 * n_tiles * sizeof(float));
            engine->tiles = es_aligned(n_tiles * sizeof(int32_t));
            return engine->tile_best != NULL && engine->tiles != NULL &&
                   es_input_create(&engine->proposal, 1, (size_t)w->k);
        }
    }
    return 1;
}

/* A block of sums: some rows by some tokens. */
static size_t sums_bytes(const es_engine *engine) {
    const int many = engine->plan.max_tokens >= engine->k.many_tokens;
    return ES_NEURON_ROWS * (size_t)(many ? ES_MANY_TOKENS : ES_TOKEN_BLOCK) * sizeof(float);
}

static int gathers(const es_plan *plan) {
    for (int32_t i = 0; i < plan->n_ops; i++) {
        if (plan->ops[i].order != NULL) {
            return 1;
        }
    }
    return 0;
}

static int column_scratch_create(es_column_scratch *scratch, const es_plan *plan,
                                 int (*is_of_family)(int32_t format)) {
    const size_t n_blocks = es_max_blocks(plan, is_of_family);
    scratch->pairs = es_aligned(16 * n_blocks * sizeof *scratch->pairs);
    scratch->begin = es_aligned((n_blocks + 1) * sizeof(int32_t));
    return scratch->pairs != NULL && scratch->begin != NULL;
}

static void column_scratch_destroy(es_column_scratch *scratch) {
    free(scratch->pairs);
    free(scratch->begin);
}

static int create_scratch(es_engine *engine, int32_t n_threads) {
    const size_t k = (size_t)max_k(&engine->plan);
    const attention_size attention = largest_attention(&engine->plan);
    const size_t head_dim = (size_t)attention.head_dim;
    const size_t part_floats = es_attention_part_floats(head_dim);
    engine->scratch = calloc((size_t)n_threads, sizeof *engine->scratch);
    if (engine->scratch == NULL) {
        return 0;
    }
    for (int32_t i = 0; i < n_threads; i++) {
        es_scratch *scratch = &engine->scratch[i];
        scratch->attention =
            es_aligned(es_attention_scratch(ES_ATTENTION_QUERIES, head_dim) * sizeof(float));
        scratch->parts = es_aligned(2 * ES_ATTENTION_QUERIES * part_floats * sizeof(float));
        if (engine->plan.kv_kept > 0) {
            scratch->whole = es_aligned(2 * ES_CACHE_CHUNK * head_dim * sizeof(uint16_t));
        }
        scratch->sums = es_aligned(sums_bytes(engine));
        /* Eight rows of the widest matrix in a row format, as a tile of bytes and minima. */
        scratch->tile = es_aligned(es_max_blocks(&engine->plan, es_is_row) * 288);
        scratch->unordered = gathers(&engine->plan) ? es_aligned(k * sizeof(float)) : NULL;
        scratch->list = es_aligned((k + ES_LIST_SLACK) * sizeof(int32_t));
        scratch->bits = es_aligned(es_round_up(k, 256) / 8);
        scratch->neurons = es_aligned(max_neuron_rows(&engine->plan) * sizeof(int32_t));
        if (engine->k.t2_lookup != NULL) {
            const size_t n_sums = ES_LOOKUP_ROWS * ES_LOOKUP_TOKENS;
            scratch->index = es_aligned(ES_LOOKUP_INDEX_BYTES);
            scratch->wide = es_aligned(n_sums * sizeof(int32_t));
            scratch->narrow = es_aligned(n_sums * sizeof(int16_t));
            if (scratch->index == NULL || scratch->wide == NULL || scratch->narrow == NULL) {
                return 0;
            }
        }
        if (!es_input_create(&scratch->input, 1, k) ||
            !es_slice_input_create(&scratch->input, &engine->plan, 1) ||
            !es_bitmap_scratch_create(&scratch->bitmap, &engine->plan) ||
            !column_scratch_create(&scratch->int16, &engine->plan, es_is_block_column) ||
            !column_scratch_create(&scratch->int8, &engine->plan, es_is_slice_column) ||
            scratch->attention == NULL || scratch->parts == NULL || scratch->bits == NULL ||
            scratch->sums == NULL || scratch->list == NULL || scratch->neurons == NULL ||
            scratch->tile == NULL || (engine->plan.kv_kept > 0 && scratch->whole == NULL) ||
            (gathers(&engine->plan) && scratch->unordered == NULL)) {
            return 0;
        }
    }
    engine->list = es_aligned((max_live_rows(&engine->plan) + ES_LIST_SLACK) * sizeof(int32_t));
    engine->votes = es_aligned((max_live_rows(&engine->plan) + 1) * sizeof(int32_t));
    const size_t n_heads = (size_t)attention.n_heads;
    const size_t n_chunks = (size_t)es_attention_chunks(engine->plan.n_ctx);
    engine->parts = es_aligned(n_heads * n_chunks * part_floats * sizeof(float));
    engine->unmerged = es_aligned(n_heads * sizeof(int32_t));
    if (engine->list == NULL || engine->votes == NULL || engine->parts == NULL ||
        engine->unmerged == NULL) {
        return 0;
    }
    return create_proposal(engine) && es_experts_create(engine) &&
           es_input_create(&engine->input, (size_t)engine->plan.max_tokens, k) &&
           es_slice_input_create(&engine->input, &engine->plan, (size_t)engine->plan.max_tokens);
}

/* One scale for a whole tensor, as in every BitNet model, is in the cache; an array of them is read from
 * memory behind every block of rows. */
static int create_one_scale(es_engine *engine) {
    const es_plan *plan = &engine->plan;
    engine->one_scale = calloc((size_t)plan->n_weights + 1, 1);
    for (int32_t i = 0; engine->one_scale != NULL && i < plan->n_weights; i++) {
        const es_weight *w = &plan->weights[i];
        int32_t n_same = 0;
        while (w->scales != NULL && n_same < w->n_rows && w->scales[n_same] == w->scales[0]) {
            n_same++;
        }
        engine->one_scale[i] = n_same == w->n_rows;
    }
    return engine->one_scale != NULL;
}

static int create_buffers(es_engine *engine) {
    const es_plan *plan = &engine->plan;
    engine->buffers = calloc((size_t)plan->n_buffers, sizeof *engine->buffers);
    if (engine->buffers == NULL) {
        return 0;
    }
    for (int32_t i = 0; i < plan->n_buffers; i++) {
        engine->buffers[i] =
            es_aligned((size_t)plan->max_tokens * (size_t)plan->widths[i] * sizeof(float));
        if (engine->buffers[i] == NULL) {
            return 0;
        }
    }
    return 1;
}

es_engine *es_engine_create(const es_plan *plan, int32_t n_threads, int32_t isa, int32_t *status) {
    *status = ES_E_ARGUMENT;
    if (!es_plan_is_valid(plan) || n_threads < 1 || n_threads > 1024 || !es_cpu_has(isa)) {
        return NULL;
    }
    *status = ES_E_MEMORY;
    es_engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL) {
        return NULL;
    }
    es_kernels_fill(&engine->k, isa);
    if (copy_plan(&engine->plan, plan) && (engine->pool = es_pool_create(n_threads)) != NULL &&
        create_scratch(engine, n_threads) && create_one_scale(engine) && create_buffers(engine)) {
        *status = ES_OK;
        return engine;
    }
    es_engine_destroy(engine);
    return NULL;
}

void es_engine_destroy(es_engine *engine) {
    if (engine == NULL) {
        return;
    }
    if (engine->scratch != NULL) {
        for (int32_t i = 0; i < es_pool_threads(engine->pool); i++) {
            es_slice_input_destroy(&engine->scratch[i].input);
            es_input_destroy(&engine->scratch[i].input);
            es_bitmap_scratch_destroy(&engine->scratch[i].bitmap);
            free(engine->scratch[i].attention);
            free(engine->scratch[i].parts);
            free(engine->scratch[i].whole);
            free(engine->scratch[i].list);
            free(engine->scratch[i].neurons);
            free(engine->scratch[i].tile);
            free(engine->scratch[i].unordered);
            column_scratch_destroy(&engine->scratch[i].int16);
            column_scratch_destroy(&engine->scratch[i].int8);
            free(engine->scratch[i].bits);
            free(engine->scratch[i].sums);
            free(engine->scratch[i].index);
            free(engine->scratch[i].wide);
            free(engine->scratch[i].narrow);
        }
    }
    es_pool_destroy(engine->pool);
    es_slice_input_destroy(&engine->input);
    es_input_destroy(&engine->input);
    if (engine->buffers != NULL) {
        for (int32_t i = 0; i < engine->plan.n_buffers; i++) {
            free(engine->buffers[i]);
        }
    }
    es_input_destroy(&engine->proposal);
    free(engine->one_scale);
    free(engine->tile_best);
    free(engine->tiles);
    free(engine->expert_rows);
    free(engine->expert_begin);
    free(engine->list);
    free(engine->votes);
    free(engine->scratch);
    free(engine->parts);
    free(engine->unmerged);
    free(engine->buffers);
    free((void *)engine->plan.ops);
    free((void *)engine->plan.widths);
    free((void *)engine->plan.weights);
    free(engine);
}

float *es_engine_buffer(es_engine *engine, int32_t id) {
    return id >= 0 && id < engine->plan.n_buffers ? engine->buffers[id] : NULL;
}

static int32_t run_op(es_engine *engine, const es_op *op, const es_step *step) {
    switch (op->kind) {
    case ES_OP_EMBED:
        return es_run_embed(engine, op, step);
    case ES_OP_LINEAR:
        return es_run_linear(engine, op, step);
    case ES_OP_ROPE_KV:
        return es_run_rope_kv(engine, op, step);
    case ES_OP_ATTENTION:
        return es_run_attention(engine, op, step);
    case ES_OP_NORM:
        return es_run_norm(engine, op, step);
    case ES_OP_GLU:
        return es_run_glu(engine, op, step);
    case ES_OP_ADD:
        return es_run_add(engine, op, step);
    case ES_OP_ROUTE:
        return es_run_route(engine, op, step);
    case ES_OP_EXPERTS:
        return es_run_experts(engine, op, step);
    case ES_OP_COMBINE:
        return es_run_combine(engine, op, step);
    default:
        return ES_E_ARGUMENT;
    }
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Another thread sets the flag through ordinary memory; an atomic load keeps the poll honest. */
static int is_cancelled(const es_step *step) {
    return step->cancel != NULL && __atomic_load_n(step->cancel, __ATOMIC_RELAXED) != 0;
}

int32_t es_engine_run(es_engine *engine, const es_step *step, int32_t begin, int32_t end) {
    if (begin < 0 || end < begin || end > engine->plan.n_ops ||
        !es_step_is_valid(&engine->plan, step)) {
        return ES_E_ARGUMENT;
    }
    for (int32_t i = begin; i < end; i++) {
        if (is_cancelled(step)) {
            return ES_CANCELLED;
        }
        const uint64_t start = step->op_ns != NULL ? now_ns() : 0;
        engine->moved = 0;
        const int32_t status = run_op(engine, &engine->plan.ops[i], step);
        if (status != ES_OK) {
            return status;
        }
        if (step->op_ns != NULL) {
            step->op_ns[i] += now_ns() - start;
        }
        if (step->op_bytes != NULL) {
            step->op_bytes[i] += engine->moved;
        }
    }
    return ES_OK;
}
