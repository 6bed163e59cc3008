/* The engine's inside, shared by engine.c and the op drivers in ops/. */
#ifndef ES_ENGINE_H
#define ES_ENGINE_H

#include "edgesparse.h"
#include "kernels.h"
#include "pool.h"

/* The forms of inputs that bit slices ask for; NULL where no weight does. Blocks of 32. */
typedef struct es_slice_input {
    int8_t *q;            /* [capacity][q_stride]: int8 per block */
    float *d;             /* [capacity][n_blocks] */
    int32_t *sum;         /* [capacity][n_blocks] */
    float *xsum;          /* [capacity][n_blocks] */
    uint8_t *table;       /* [table_tokens][n_blocks][ES_TABLE_BYTES]: of q */
    uint8_t *token_table; /* the same of es_input.q8, for ternary planes */
    uint8_t *rounded;     /* [table_tokens][n_blocks][ES_ROUNDED_BYTES]: rounded tables of q, */
    float *rounded_d;     /* [capacity][n_blocks]: and their steps */
    size_t q_stride;
} es_slice_input;

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
    size_t h_stride, n_blocks;
    size_t q8_stride; /* of the engine's input: that of the op in progress */
    es_slice_input slices;
} es_input;

/* Sums are made in blocks of so many rows and tokens; neuron-major weights come in whole packed blocks. */
enum { ES_ROW_BLOCK = 64, ES_NEURON_ROWS = 128, ES_TOKEN_BLOCK = 64 };

/* A kernel for many tokens takes larger blocks of them. */
enum { ES_MANY_TOKENS = 512 };

/* Rows that share a table of sums, and room for their numbers, which bounds rows that are very long. */
enum { ES_LOOKUP_ROWS = 1280, ES_LOOKUP_INDEX_BYTES = 2560 * 1024 };

/* What products with bitmaps need of one thread. */
typedef struct es_bitmap_scratch {
    uint8_t *split; /* the input of one token as es_split */
    int32_t *centre;
    uint64_t job;   /* the linear whose input that is */
    uint8_t *tiles; /* an expanded tile */
} es_bitmap_scratch;

/* Live columns of one token. */
typedef struct es_column_scratch {
    es_live_pair *pairs;
    int32_t *begin;
    int32_t n_columns;
    uint64_t job; /* the linear whose columns they are */
} es_column_scratch;

/* What one thread alone uses. */
typedef struct es_scratch {
    es_input input;     /* one token: every thread prepares its own, no barrier needed */
    uint64_t input_job; /* the linear whose input it holds */
    float *attention;   /* es_attention_scratch of the plan's largest attention */
    float *parts;       /* two of each of ES_ATTENTION_QUERIES queries */
    uint16_t *whole; /* a chunk of keys and one of values, expanded; NULL where nothing is pruned */
    int32_t *list;   /* live inputs of one token */
    int32_t n_listed;
    int32_t n_live;    /* rows that its part of a gated product has read */
    int32_t *neurons;  /* its share of a neuron-major product: one sum per stored output */
    uint64_t list_job; /* the product that list and neurons belong to */
    uint8_t *bits;     /* signs of one input: max_k bits, in whole runs of 32 bytes */
    es_column_scratch int16, int8; /* of weights that want either */
    float *sums;                   /* a block of sums, float or int32 */
    uint8_t *tile;                 /* eight rows of a row format in a tile */
    float *unordered; /* max_k floats of an input that is gathered; NULL where none is */
    uint8_t *index;   /* ES_LOOKUP_INDEX_BYTES, and sums of ES_LOOKUP_ROWS rows, for looking up; */
    int32_t *wide;    /* NULL where no kernel does */
    int16_t *narrow;
    es_bitmap_scratch bitmap;
} es_scratch;

struct es_engine {
    es_plan plan; /* arrays are the engine's own copies */
    es_kernels k;
    es_pool *pool;
    float **buffers;
    es_scratch *scratch;   /* [n_threads] */
    uint8_t *one_scale;    /* [n_weights]: all rows of a ternary matrix have the same */
    es_input input;        /* max_tokens tokens, shared by the threads of one step */
    int32_t *list;         /* live rows of one token, shared by the threads */
    int32_t *votes;        /* of sign planes against the rows of one token, shared by the threads */
    uint64_t moved;        /* bytes of weights that the op in progress has read */
    float *parts;          /* of one token that all threads work on: [n_heads][chunks of n_ctx] */
    int32_t *unmerged;     /* [n_kv_heads]: work items whose parts are missing */
    es_input proposal;     /* the coarse head's input: one token, rotated */
    float *tile_best;      /* of its tiles of 8 rows, and a copy to select in; NULL without one */
    int32_t *tiles;        /* those chosen */
    int32_t *expert_rows;  /* rows of a step's tokens, expert after expert, */
    int32_t *expert_begin; /* and where those of each begin */
    uint64_t job;          /* counts linears, so that a thread knows a stale input */
};

/* Blocks along k of the plan's widest weight among the formats of a family, 0 without any. */
size_t es_max_blocks(const es_plan *plan, int (*is_of_family)(int32_t format));

/* Room for the inputs of the plan's bit slices, in `input` of `capacity` tokens; 0 without memory. */
int es_slice_input_create(es_input *input, const es_plan *plan, size_t capacity);
void es_slice_input_destroy(es_input *input);

/* Room for the plan's bitmaps; 0 without memory. */
int es_bitmap_scratch_create(es_bitmap_scratch *scratch, const es_plan *plan);
void es_bitmap_scratch_destroy(es_bitmap_scratch *scratch);

/* Row `row` of bit slices as floats (embed_bitslice.c). */
void es_slice_embed(const es_kernels *kernels, float *dst, const es_weight *w, int32_t row);

/* One row of a weight as floats (embed.c). */
void es_weight_row(const es_kernels *kernels, float *dst, const es_weight *w, int32_t row);

int32_t es_run_embed(es_engine *engine, const es_op *op, const es_step *step);
int32_t es_run_linear(es_engine *engine, const es_op *op, const es_step *step);
int32_t es_run_rope_kv(es_engine *engine, const es_op *op, const es_step *step);
int32_t es_run_attention(es_engine *engine, const es_op *op, const es_step *step);
int32_t es_run_norm(es_engine *engine, const es_op *op, const es_step *step);
int32_t es_run_glu(es_engine *engine, const es_op *op, const es_step *step);
int32_t es_run_add(es_engine *engine, const es_op *op, const es_step *step);
int32_t es_run_route(es_engine *engine, const es_op *op, const es_step *step);
int32_t es_run_experts(es_engine *engine, const es_op *op, const es_step *step);
int32_t es_run_combine(es_engine *engine, const es_op *op, const es_step *step);

/* Room to sort a step's tokens by expert; 0 without memory. */
int es_experts_create(es_engine *engine);

/* Ops that are light per token hand out this many at a time: taking a chunk costs a shared cache line. */
enum { ES_TOKENS_PER_CHUNK = 8 };

static inline int32_t es_token_chunks(int32_t n_tokens) {
    return (n_tokens + ES_TOKENS_PER_CHUNK - 1) / ES_TOKENS_PER_CHUNK;
}

/* Which row of all the cache's is that of one kv head of the op's layer at a position. */
static inline size_t es_cache_row(const es_engine *engine, const es_op *op, int32_t capacity,
                                  int32_t kv_head, int32_t position) {
    const int32_t begin = position / ES_CACHE_CHUNK * ES_CACHE_CHUNK;
    const int32_t n_rows = capacity - begin < ES_CACHE_CHUNK ? capacity - begin : ES_CACHE_CHUNK;
    const size_t n_planes = (size_t)engine->plan.n_layers * (size_t)op->n_kv_heads;
    const size_t plane = (size_t)op->layer * (size_t)op->n_kv_heads + (size_t)kv_head;
    return (size_t)begin * n_planes + plane * (size_t)n_rows + (size_t)(position - begin);
}

/* Keys or values of one kv head of the op's layer from a position on, to the end of its chunk. */
static inline es_cache_rows es_cache_plane(const es_engine *engine, const es_op *op,
                                           const es_cache *cache, int values, int32_t kv_head,
                                           int32_t position) {
    const int32_t type = values ? engine->plan.cache_type_v : engine->plan.cache_type_k;
    const size_t row_bytes = es_cache_row_bytes(type, op->head_dim);
    const size_t row = es_cache_row(engine, op, cache->capacity, kv_head, position);
    return (es_cache_rows){.data = (values ? cache->values : cache->keys) + row * row_bytes,
                           .row_bytes = row_bytes,
                           .type = type};
}

/* Of a plan that prunes keys and values (ops/sparse_cache.c): stores a head's n floats at a position; */
void es_sparse_store(const es_engine *engine, const es_op *op, const es_cache *cache, int values,
                     int32_t kv_head, int32_t position, const float *x);

/* rows [0, n) that a token at `position` reads pruned; */
int32_t es_sparse_rows(const es_plan *plan, int32_t position);

/* and rows [low, high) of the chunk that begins at `begin`, whole, where n_sparse rows of the sequence are
 * pruned. `scratch` may come to hold them: a chunk of halfs for keys and values each. */
es_cache_rows es_sparse_chunk(const es_engine *engine, const es_op *op, const es_cache *cache,
                              int values, int32_t kv_head, int32_t begin, int32_t low, int32_t high,
                              int32_t n_sparse, uint16_t *scratch);

/* Chunks of n_rows rows. */
static inline int32_t es_attention_chunks(int32_t n_rows) {
    return n_rows / ES_CACHE_CHUNK + (n_rows % ES_CACHE_CHUNK != 0);
}

/* From one int8 row to the next: padded for both ternary groups, 128 and 160, and to an odd number of
 * lines, so that tokens side by side spread over all sets of a cache. */
static inline size_t es_q8_stride(size_t k) {
    const size_t t2 = (k + 127) / 128 * 128, t5 = (k + 159) / 160 * 160;
    return (((t2 > t5 ? t2 : t5) + 63) / 64 | 1) * 64;
}

/* Row `token` of buffer `id`. */
static inline float *es_row(const es_engine *engine, int32_t id, int32_t token) {
    return engine->buffers[id] + (size_t)token * (size_t)engine->plan.widths[id];
}

static inline size_t es_round_up(size_t n, size_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

/* a / b, rounded up. */
static inline int32_t es_ratio_up(int32_t a, int32_t b) {
    return (a + b - 1) / b;
}

static inline int32_t es_min(int32_t a, int32_t b) {
    return a < b ? a : b;
}
static inline int32_t es_max(int32_t a, int32_t b) {
    return a > b ? a : b;
}

#endif
