/* The engine's inside, shared by engine.c and the op drivers in ops/. */
#ifndef ES_ENGINE_H
#define ES_ENGINE_H

#include "edgesparse.h"
#include "kernels.h"
#include "pool.h"

/* Linear inputs after glu and norm, in every form that weights ask for; `capacity` tokens. */
typedef struct es_input {
    float *h;     /* [capacity][h_stride] */
    int8_t *q8;   /* [capacity][q8_stride], zero beyond k: quantize_i8 pads */
    float *s;     /* [capacity]: int8 scale, q = x * s */
    int32_t *sum; /* [capacity]: sum of q8 */
    int16_t *q16; /* [capacity][n_blocks * 32] */
    float *d;     /* [capacity][n_blocks] */
    int32_t *sum16;
    float *xsum;
    size_t h_stride, q8_stride, n_blocks;
} es_input;

/* Sums are made in blocks of so many rows and tokens; neuron-major weights come in whole packed blocks. */
enum { ES_ROW_BLOCK = 64, ES_NEURON_ROWS = 128, ES_TOKEN_BLOCK = 64 };

/* What one thread alone uses. */
typedef struct es_scratch {
    es_input input;     /* one token: every thread prepares its own, no barrier needed */
    uint64_t input_job; /* the linear whose input it holds */
    float *attention;   /* es_attention_scratch of the plan's largest attention */
    int32_t *list;      /* live inputs of one token */
    int32_t n_listed;
    int32_t *neurons;  /* its share of a neuron-major product: one sum per stored output */
    uint8_t *bits;     /* signs of one input: max_k bits, in whole runs of 32 bytes */
    uint64_t list_job; /* the product that list and neurons belong to */
    float *sums;       /* ES_TOKEN_BLOCK * ES_NEURON_ROWS floats or int32 */
} es_scratch;

struct es_engine {
    es_plan plan; /* arrays are the engine's own copies */
    es_kernels k;
    es_pool *pool;
    float **buffers;
    es_scratch *scratch; /* [n_threads] */
    es_input input;      /* max_tokens tokens, shared by the threads of one step */
    int32_t *list;       /* live rows of one token, shared by the threads */
    int32_t *votes;      /* of sign planes against the rows of one token, shared by the threads */
    uint64_t moved;      /* bytes of weights that the op in progress has read */
    float *scores;       /* [n_heads][scores_stride]: of one token that all threads work on */
    float *inverse;      /* [n_heads]: 1 / sum of its weights */
    int32_t *unscored;   /* [n_kv_heads]: pieces of positions whose scores are missing */
    size_t scores_stride;
    uint64_t job; /* counts linears, so that a thread knows a stale input */
};

int32_t es_run_embed(es_engine *engine, const es_op *op, const es_step *step);
int32_t es_run_linear(es_engine *engine, const es_op *op, const es_step *step);
int32_t es_run_rope_kv(es_engine *engine, const es_op *op, const es_step *step);
int32_t es_run_attention(es_engine *engine, const es_op *op, const es_step *step);
int32_t es_run_norm(es_engine *engine, const es_op *op, const es_step *step);
int32_t es_run_glu(es_engine *engine, const es_op *op, const es_step *step);
int32_t es_run_add(es_engine *engine, const es_op *op, const es_step *step);

/* Ops that are light per token hand out this many at a time: taking a chunk costs a shared cache line. */
enum { ES_TOKENS_PER_CHUNK = 8 };

static inline int32_t es_token_chunks(int32_t n_tokens) {
    return (n_tokens + ES_TOKENS_PER_CHUNK - 1) / ES_TOKENS_PER_CHUNK;
}

/* Keys or values of one kv head of the op's layer; `position` is the first row. */
static inline es_cache_rows es_cache_plane(const es_engine *engine, const es_op *op,
                                           const es_cache *cache, int values, int32_t kv_head,
                                           int32_t position) {
    const int32_t type = values ? engine->plan.cache_type_v : engine->plan.cache_type_k;
    const size_t row_bytes = es_cache_row_bytes(type, op->head_dim);
    const size_t plane = (size_t)op->layer * (size_t)op->n_kv_heads + (size_t)kv_head;
    const size_t row = plane * (size_t)cache->capacity + (size_t)position;
    return (es_cache_rows){(values ? cache->values : cache->keys) + row * row_bytes, row_bytes,
                           type};
}

/* Row `token` of buffer `id`. */
static inline float *es_row(const es_engine *engine, int32_t id, int32_t token) {
    return engine->buffers[id] + (size_t)token * (size_t)engine->plan.widths[id];
}

static inline size_t es_round_up(size_t n, size_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

static inline int32_t es_min(int32_t a, int32_t b) {
    return a < b ? a : b;
}
static inline int32_t es_max(int32_t a, int32_t b) {
    return a > b ? a : b;
}

#endif
