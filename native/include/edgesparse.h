/* edgesparse: the one contract between Python and the native engine.
 *
 * cffi reads the text between the two markers as it stands, so it holds declarations only.
 * Memory belongs to the caller: weights, tables, caches, token lists and logits are pointers into
 * buffers that Python keeps alive for as long as the engine or the call needs them. The engine owns
 * its threads, its activation buffers and its scratch. */
#ifndef EDGESPARSE_H
#define EDGESPARSE_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */
enum {
    ES_OK = 0,
    ES_CANCELLED = 1,      /* the step's cancel flag was seen set; buffers hold partial results */
    ES_E_ARGUMENT = -1,    /* an index, size or pointer is out of its range */
    ES_E_MEMORY = -2,      /* an allocation failed */
    ES_E_NOT_UNIFORM = -3, /* repack: block scales differ inside a row, so it is no ternary row */
    ES_E_UNSUPPORTED = -4, /* repack: no such pair of source type and storage format */
    ES_E_VALUE = -5        /* repack: a scale is not finite, or a code is outside its range */
};

/* Instruction sets, ascending within one machine family. */
enum {
    ES_ISA_SCALAR = 0,
    ES_ISA_AVX2 = 1,
    ES_ISA_AVXVNNI = 2,
    ES_ISA_AVX512VNNI = 3,
    ES_ISA_AMX = 4,
    ES_ISA_NEON = 5,
    ES_ISA_NEONDOT = 6,
    ES_ISA_COUNT = 7
};

/* Storage formats; byte pictures in edgesparse/formats/README.md. */
enum {
    ES_FORMAT_T2 = 1,
    ES_FORMAT_T5 = 2,
    ES_FORMAT_Q8 = 3,
    ES_FORMAT_Q4 = 4,
    ES_FORMAT_Q8M = 5,
    ES_FORMAT_Q4M = 6,
    ES_FORMAT_Q6 = 7,
    ES_FORMAT_F16 = 8,
    ES_FORMAT_BF16 = 9,
    ES_FORMAT_F32 = 10,
    ES_FORMAT_T2N = 11,
    ES_FORMAT_Q8N = 12, /* columns side by side over a tile of rows */
    ES_FORMAT_Q4N = 13,
    ES_FORMAT_Q4MN = 14,
    ES_FORMAT_Q8MN = 15,
    ES_FORMAT_BS1 = 16, /* bit planes: 1 to 4 of them, */
    ES_FORMAT_BS2 = 17,
    ES_FORMAT_BS3 = 18,
    ES_FORMAT_BS4 = 19,
    ES_FORMAT_BST = 20, /* and two of a ternary matrix */
    /* A bitmap and the codes that are not 0; codes, steps and products are those of q8 and q4. */
    ES_FORMAT_BMP8 = 24,
    ES_FORMAT_BMP4 = 25,
    ES_FORMAT_CSR = 26, /* the same with the column of each, for few of them */
    ES_FORMAT_NM8 = 27, /* two codes of every four columns, and which (2:4) */
    ES_FORMAT_NM4 = 28,
    ES_FORMAT_COO = 29, /* outliers: floats with their rows and columns, beside another matrix */
    /* Not for products: the signs of a matrix, alone or beside the places of its non-zeros. */
    ES_FORMAT_SIGNS = 32,
    ES_FORMAT_SIGNS_MASKED = 33,
    ES_FORMAT_Q8R = 36, /* blocks row by row, so that a row can be left out */
    ES_FORMAT_Q4R = 37,
    ES_FORMAT_Q4MR = 38,
    ES_FORMAT_Q8MR = 39,
    ES_FORMAT_BS2N =
        41, /* codes and steps of bit slices, columns side by side over a tile of rows */
    ES_FORMAT_BS3N = 42,
    ES_FORMAT_BS4N = 43
};
/* What a group of bit slices has beside its steps. */
enum { ES_ZEROS_NONE = 0, ES_ZEROS_POINTS = 1, ES_ZEROS_OFFSETS = 2 };

enum {
    ES_OP_EMBED = 1,
    ES_OP_LINEAR = 2,
    ES_OP_ROPE_KV = 3,
    ES_OP_ATTENTION = 4,
    ES_OP_NORM = 5,
    ES_OP_GLU = 6,
    ES_OP_ADD = 7,
    ES_OP_ROUTE = 8,
    ES_OP_EXPERTS = 9,
    ES_OP_COMBINE = 10
};
enum { ES_GLU_NONE = 0, ES_GLU_SILU = 1, ES_GLU_RELU2 = 2, ES_GLU_GELU = 3, ES_GLU_RELU = 4 };
enum { ES_ROPE_NEOX = 0, ES_ROPE_NORM = 1 };
/* How keys and values lie in a cache: head_dim halfs, or blocks of 32 int8 codes behind their half step. */
enum { ES_CACHE_F16 = 0, ES_CACHE_Q8_0 = 1 };
enum { ES_MAX_OUTPUTS = 4, ES_MAX_EXPERTS = 1024 };
/* With more live rows, or tiles with one, than so many of a hundred, an output with `live` is computed as a
 * whole: a list of single rows leaves gaps in what is read, one of tiles hardly any. */
enum { ES_DENSE_ROWS_PERCENT = 70, ES_DENSE_TILES_PERCENT = 90 };

typedef struct es_weight {
    int32_t format; /* ES_FORMAT_* */
    int32_t n_rows; /* output features */
    int32_t k;      /* input features */
    int32_t reserved;
    const uint8_t *data; /* 64-byte aligned */
    size_t n_bytes;
    const float *scales; /* ternary: one per row; NULL otherwise */
    /* Bit slices: */
    int32_t group; /* columns that share a step: 32, 64, 128, or 0 for the whole row; bst: 0 */
    int32_t zeros; /* ES_ZEROS_* */
    int32_t wide;  /* 1: steps and offsets are float32, 0: halfs */
    /* Steps of so many tokens, at least 1, multiply unpacked codes; fewer look sums up, */
    int32_t mad_tokens;
    int32_t rounded; /* 1: in rounded tables (bs1 to bs4), which are not exact */
    int32_t reserved2;
} es_weight;

typedef struct es_output {
    int32_t weight;    /* index into es_plan.weights */
    int32_t dst;       /* buffer id, or -1: the step's logits */
    int32_t add;       /* 1: dst += y, 0: dst = y */
    int32_t live;      /* buffer id, or -1: rows whose element there is not above 0 become +0 */
    const float *bias; /* n_rows floats, or NULL */
    /* With a threshold, rows g of `live` with |silu(g)| * live_factors[i] < live_threshold become +0
     * instead (factors NULL: all 1), in tokens from es_step.sparse_from on; other tokens keep all. */
    const float *live_factors;
    float live_threshold;
    /* Rows r with more than limits[r] votes of the sign planes weights[signs] against them become +0. */
    int32_t signs;         /* index into es_plan.weights, or -1 */
    const int32_t *limits; /* n_rows, or NULL */
    int32_t side; /* index into es_plan.weights, or -1: a coo matrix that is added, dead rows too */
    /* Last of all y = y - shift, and y = +0 where it is below cutoff; neither is negative. */
    float shift;
    float cutoff;
    int32_t reserved;
} es_output;

/* One op; the meaning of every field by kind is in edgesparse/ops/README.md. */
typedef struct es_op {
    int32_t kind;         /* ES_OP_* */
    int32_t src;          /* buffer id */
    int32_t src2;         /* GLU's up, ROPE_KV's k, ADD's second term; -1: none */
    int32_t src3;         /* ROPE_KV's v; -1: none */
    int32_t dst;          /* buffer id of the result, where outputs[] does not say it */
    int32_t glu;          /* ES_GLU_* */
    int32_t outputs_only; /* 1: only the tokens listed in es_step.outputs */
    int32_t n_outputs;
    es_output outputs[4];
    int32_t layer;
    int32_t n_heads;
    int32_t n_kv_heads;
    int32_t head_dim;
    int32_t rope_dim;
    int32_t rope_style; /* ES_ROPE_* */
    int32_t window;     /* attend to the last `window` positions; 0: all */
    float eps;
    float scale;         /* EMBED: factor on the row; ATTENTION: factor on the dot product */
    const float *norm;   /* LINEAR, NORM: RMSNorm weight; ROPE_KV: per-head norm of q; or NULL */
    const float *norm_k; /* ROPE_KV: per-head norm of k, or NULL */
    const float *rope;   /* n_ctx rows of rope_dim/2 cosines, then rope_dim/2 sines */
    /* LINEAR with one output, the logits: rotated two-bit rows and their n_rows scales, or NULL. */
    const uint8_t *coarse;
    const float *coarse_scales;
    /* LINEAR: inputs x with |x| * factors[i] < threshold count as 0 (factors NULL: all 1); 0: none do.
     * Tokens at positions below es_step.sparse_from are exempt. */
    const float *factors;
    float threshold;
    /* Mixture of experts. ROUTE: src holds n_experts scores, dst n_used chosen numbers, ascending, and
     * their weights. EXPERTS: a linear for each expert over the tokens of `route`, a ROUTE's dst, that
     * chose it; outputs[] are the first expert's; a token has n_used rows, one for each expert that it
     * chose, in their destinations and, with per_slot, in the sources. COMBINE: dst plus the weighted
     * rows of src; src2: output of a shared expert, weighted by the logistic function of `gate`; -1:
     * none. */
    int32_t n_experts;
    int32_t n_used;
    int32_t normalize; /* 1: weights of the chosen experts add up to 1 */
    int32_t route;     /* buffer id */
    int32_t gate;      /* buffer id */
    int32_t per_slot;
    const int32_t *experts; /* [n_experts][n_outputs] indices into es_plan.weights */
    /* LINEAR: input i of the matrices is element order[i] of what is made of src; NULL: element i. k numbers,
     * none of them outside [0, k). Neither with sign planes nor with a coarse head. */
    const int32_t *order;
} es_op;

typedef struct es_plan {
    int32_t n_ops;
    int32_t n_buffers;
    int32_t n_weights;
    int32_t n_layers;
    int32_t n_ctx;        /* rows in every rope table; no position reaches it */
    int32_t n_vocab;      /* row length of logits */
    int32_t max_tokens;   /* tokens in one step, at most */
    int32_t kv_dim;       /* n_kv_heads * head_dim */
    int32_t cache_type_k; /* ES_CACHE_* */
    int32_t cache_type_v;
    /* Elements that a key or value keeps in the cache, pruned rows of halfs; 0: all. To a token at position
     * p the rows [0, n) are pruned with n = max(0, p + 1 - kv_window) rounded down to ES_KV_GROUP; it reads
     * the others whole from es_cache.recent_*, rings of kv_recent positions. */
    int32_t kv_kept;
    int32_t kv_window;
    int32_t
        kv_recent; /* a multiple of ES_CACHE_CHUNK, at least max_tokens + kv_window + ES_KV_GROUP */
    int32_t reserved;
    const es_op *ops;
    const int32_t *widths; /* floats per token of every buffer */
    const es_weight *weights;
} es_plan;

/* Positions that lie together in a cache and are attended to together. */
enum { ES_CACHE_CHUNK = 256 };
enum { ES_KV_GROUP = 64 };

/* One sequence's keys and values: chunk after chunk of ES_CACHE_CHUNK positions, the last one maybe shorter,
 * each [n_layers][n_kv_heads][positions] rows of the plan's cache types. */
typedef struct es_cache {
    uint8_t *keys;
    uint8_t *values;
    int32_t capacity;
    int32_t reserved;
    uint8_t
        *recent_keys; /* of a plan with kv_kept: caches of kv_recent positions, position p in row */
    uint8_t *recent_values; /* p mod kv_recent, whole; else NULL */
} es_cache;

typedef struct es_step {
    int32_t n_tokens;
    int32_t n_outputs;
    int32_t n_caches;
    int32_t sparse_from; /* first position whose inputs thresholds apply to */
    /* With one output and a coarse head: tiles of 8 rows that are computed exactly, all other logits
     * being -inf; 0: every logit. */
    int32_t n_tiles;
    int32_t reserved;
    const int32_t *tokens;    /* n_tokens ids */
    const int32_t *positions; /* n_tokens positions, each below its cache's capacity */
    const int32_t *sequences; /* n_tokens indices into caches */
    const int32_t *outputs;   /* n_outputs ascending indices of tokens whose logits are wanted */
    const es_cache *caches;
    float *logits;         /* [n_outputs][n_vocab] */
    const int32_t *cancel; /* polled between ops; non-zero stops the run; may be NULL */
    uint64_t *op_ns;       /* n_ops wall-clock nanoseconds, added to; may be NULL */
    uint64_t *op_bytes;    /* n_ops bytes of weights that linears read, added to; may be NULL */
} es_step;

typedef struct es_engine es_engine;

/* Copies the plan's arrays; NULL with *status set on failure. isa: ES_ISA_* not above the machine's. */
es_engine *es_engine_create(const es_plan *plan, int32_t n_threads, int32_t isa, int32_t *status);
void es_engine_destroy(es_engine *engine);

/* Runs ops [begin, end) for one step. One caller at a time. ES_OK, ES_CANCELLED or an error. */
int32_t es_engine_run(es_engine *engine, const es_step *step, int32_t begin, int32_t end);

/* Activation buffer `id`: float [max_tokens][width]. NULL for a bad id. */
float *es_engine_buffer(es_engine *engine, int32_t id);

/* Highest instruction set this CPU and this build both have; 1 if `isa` can run here. */
int32_t es_isa_best(void);
int32_t es_isa_supported(int32_t isa);
const char *es_isa_name(int32_t isa);

/* Name of the kernel variant ("scalar", "avx2", …) that `isa` uses for an activation-weight family
 * ("t2", "t2n", "t5", "signs", "q8", "q4", "q8m", "q4m", "q6", "q8n", "q4n", "q8mn", "q4mn", "q8r",
 * "q4r", "q8mr", "q4mr", "bmp8", "bmp4", "f16", "bf16", "f32", "lut", "mad", "vector", "attention",
 * "kvsparse"); NULL if unknown. Bit slices by columns are of the family "mad". */
const char *es_kernel_variant(int32_t isa, const char *family);

/* Sequential read bandwidth in GB/s of `n_threads` threads over `n_bytes` each, best of `repeats`. */
double es_read_bandwidth(int32_t n_threads, size_t n_bytes, int32_t repeats);

/* Nanoseconds that a phase (a job of the thread pool) costs when it has no work: the median over about
 * `n_phases` of them. Negative where an argument is out of range or threads cannot be had. */
double es_barrier_ns(int32_t n_threads, int32_t n_phases);

/* Types of tensors in files that es_repack reads, named as in edgesparse.checkpoint.TensorType. */
enum {
    ES_SRC_F32 = 1,
    ES_SRC_F16 = 2,
    ES_SRC_BF16 = 3,
    ES_SRC_Q8_0 = 4,
    ES_SRC_Q4_0 = 5,
    ES_SRC_Q4_1 = 6,
    ES_SRC_Q5_0 = 7,
    ES_SRC_Q5_1 = 8,
    ES_SRC_Q2_K = 9,
    ES_SRC_Q3_K = 10,
    ES_SRC_Q4_K = 11,
    ES_SRC_Q5_K = 12,
    ES_SRC_Q6_K = 13,
    ES_SRC_TQ1_0 = 14,
    ES_SRC_TQ2_0 = 15,
    ES_SRC_PTQ1_0 = 16,
    ES_SRC_Q2_0 = 17,
    ES_SRC_PQ2_0 = 18,
    ES_SRC_Q1_0 = 19,
    ES_SRC_I2_S_128X32 = 20,
    ES_SRC_I2_S_64X16 = 21,
    ES_SRC_I2_S_ROW4 = 22,
    ES_SRC_IQ2_BN = 23,
    ES_SRC_IQ1_BN = 24,
    ES_SRC_HF_T2 = 25 /* planar: rows lie in stripes over the whole tensor */
};

/* Rows [row_begin, row_end) of one file tensor, converted into one weight's storage.
 * `src` holds exactly those rows, except for the planar types (HF_T2), where it holds
 * the whole tensor. Tiled formats need row_begin to be a multiple of 8. Thread-safe for disjoint rows. */
typedef struct es_repack_job {
    int32_t src_type;   /* edgesparse.checkpoint.TensorType value */
    int32_t dst_format; /* ES_FORMAT_* */
    int32_t n_rows;     /* of the whole tensor */
    int32_t k;
    int32_t row_begin;
    int32_t row_end;
    const uint8_t *src;
    size_t src_bytes;
    uint8_t *dst; /* the whole tensor's storage */
    size_t dst_bytes;
    float *scales;   /* ternary: n_rows floats; else NULL */
    float src_scale; /* types whose scale stands outside the rows; else 1 */
    int32_t isa;     /* ES_ISA_* of the kernels; the bytes do not depend on it */
} es_repack_job;

int32_t es_repack(const es_repack_job *job);

/* Rows [row_begin, row_end) of a weight into the coarse copy that proposes (formats/coarse.py).
 * Thread-safe for disjoint rows. */
typedef struct es_coarse_job {
    const es_weight *weight;
    int32_t row_begin;
    int32_t row_end;
    int32_t isa; /* ES_ISA_* of the kernels; the bytes do not depend on it */
    int32_t reserved;
    uint8_t *codes; /* [n_rows][ceil(k / 128) * 32] */
    float *scales;  /* [n_rows] */
} es_coarse_job;

int32_t es_coarse(const es_coarse_job *job);

/* A matrix in q8 or q4 into a format without its zeros, with the same codes and steps: q8 into bmp8, csr
 * or nm8, q4 into bmp4, csr or nm4. */
typedef struct es_bitmap_job {
    int32_t src_format; /* ES_FORMAT_Q8 or ES_FORMAT_Q4 */
    int32_t dst_format;
    int32_t n_rows;
    int32_t k;
    const uint8_t *src;
    size_t src_bytes;
    uint8_t *dst;     /* NULL: nothing is written */
    size_t dst_bytes; /* at dst; what an earlier call without dst has returned */
} es_bitmap_job;

/* Bytes of the result, or a negative error: ES_E_VALUE where four columns have over two codes for nm8, nm4. */
int64_t es_bitmap_pack(const es_bitmap_job *job);

/* A matrix in csr into coo, the same numbers; bytes of the result, which is written where dst is not NULL
 * and dst_bytes are as many, or ES_E_ARGUMENT. */
int64_t es_coo_pack(const es_weight *csr, uint8_t *dst, size_t dst_bytes);

/* 1 if a matrix's bytes have the length that its format and shape mean and agree with each other. */
int32_t es_weight_is_valid(const es_weight *weight);
/* cffi:end */

#endif
