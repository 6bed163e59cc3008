/* The table of kernels: one function pointer per kernel, filled scalar first, then overridden upward.
 *
 * Every ISA file of a family exports one function, es_<family>_<isa>(es_kernels *), that overrides the
 * pointers it implements (and the matching variant name) and leaves the rest. The arithmetic that makes
 * all variants bit-identical is written down in edgesparse/ops/README.md. */
#ifndef ES_KERNELS_H
#define ES_KERNELS_H

#include "edgesparse.h"

/* Integer sums of ternary codes {0,1,2} against int8 activations:
 *   sums[t * sums_stride + r] = sum over i < k of code[r][i] * q[t * q_stride + i]
 * for rows r < n_rows of `row_bytes` each and tokens t < n_tokens. q rows are 64-byte aligned and zero
 * from k up to the padded width, so padding codes do not matter. */
typedef void es_ternary_dot(int32_t *sums, size_t sums_stride, const uint8_t *w, size_t row_bytes,
                            int32_t n_rows, const int8_t *q, size_t q_stride, int32_t n_tokens,
                            int32_t k);

/* The same for one token and the rows of an ascending list; sums[i] belongs to row rows[i]. */
typedef void es_ternary_list(int32_t *sums, const uint8_t *w, size_t row_bytes, const int32_t *rows,
                             int32_t n_rows, const int8_t *q, int32_t k);

/* Neuron-major weights (t2n): `w` holds one packed row of outputs for every input i, row_bytes apart.
 *   sums[r] += sum over the list's inputs i of code[r][i] * q[i]   for all r < 4 * row_bytes
 * The list ascends; `sums` is 64-byte aligned. */
typedef void es_neuron_sums(int32_t *sums, const uint8_t *w, size_t row_bytes,
                            const int32_t *inputs, int32_t n_inputs, const int8_t *q);

/* Activations quantised to int16 in blocks of 32 along k, for n_tokens rows. */
typedef struct es_q16 {
    const int16_t *q;   /* [n_tokens][stride_blocks * 32], 64-byte aligned */
    const float *d;     /* [n_tokens][stride_blocks]: step of the block */
    const int32_t *sum; /* [n_tokens][stride_blocks]: sum of q over the block */
    const float *xsum;  /* [n_tokens][stride_blocks]: d * (float)sum */
    size_t stride_blocks;
} es_q16;

/* y[t * y_stride + 8 * tile + lane] for n_tiles tiles of 8 rows, n_blocks blocks of 32 columns. */
typedef void es_block_dot(float *y, size_t y_stride, const uint8_t *w, int32_t n_tiles,
                          const es_q16 *x, int32_t n_tokens, int32_t n_blocks);

/* The same for float weights: x is [n_tokens][x_stride] float32, 64-byte aligned rows. */
typedef void es_float_dot(float *y, size_t y_stride, const uint8_t *w, int32_t n_tiles,
                          const float *x, size_t x_stride, int32_t n_tokens, int32_t k);

/* One token of a block that attention works on: its heads lie side by side, head_dim floats each. */
typedef struct es_attention_token {
    const float *q; /* [n_heads][head_dim] */
    float *out;     /* [n_heads][head_dim]; may not overlap any q of the block */
    int32_t first;  /* attends to rows [first, end), at least one */
    int32_t end;
} es_attention_token;

/* Rows of one kv head of one layer's cache: row j lies at data + j * row_bytes. */
typedef struct es_cache_rows {
    const uint8_t *data;
    size_t row_bytes; /* es_cache_row_bytes */
    int32_t type;     /* ES_CACHE_* */
} es_cache_rows;

/* A block of the q8_0 cache: a half as step, then 32 int8 codes. */
enum { ES_CACHE_BLOCK = 32, ES_CACHE_BLOCK_BYTES = 34 };

static inline size_t es_cache_row_bytes(int32_t type, int32_t head_dim) {
    const size_t dim = (size_t)head_dim;
    return type == ES_CACHE_Q8_0
               ? (dim + ES_CACHE_BLOCK - 1) / ES_CACHE_BLOCK * ES_CACHE_BLOCK_BYTES
               : dim * sizeof(uint16_t);
}

static inline es_cache_rows es_cache_rows_from(const es_cache_rows *rows, int32_t first) {
    es_cache_rows later = *rows;
    later.data += (size_t)first * rows->row_bytes;
    return later;
}

enum {
    ES_ATTENTION_QUERIES = 16, /* heads times tokens in one call, at most */
    ES_ATTENTION_TILE = 16     /* positions that are widened and worked on together */
};

/* Floats of scratch for n_queries heads over n_pos rows: the query, the result and the scores (with a
 * tile's room on either side) of each, and one tile of widened rows. */
static inline size_t es_attention_scratch(size_t n_queries, size_t n_pos, size_t head_dim) {
    const size_t tile = ES_ATTENTION_TILE, width = (head_dim + 15) / 16 * 16;
    return n_queries * (2 * width + (n_pos + 15) / 16 * 16 + 2 * tile) + tile * width;
}

enum { ES_LIST_SLACK = 16 };

typedef struct es_kernels {
    /* Bit i of `bits` is x[i] < 0 for i < n, and 0 up to the end of n_bytes, a multiple of 32. */
    void (*sign_bits)(uint8_t *bits, size_t n_bytes, const float *x, int32_t n);
    /* votes[r] = bits set in (signs of row r ^ x), and in its plane of non-zeros if it is masked. Rows
     * are plane_bytes long, a multiple of 32, or twice that. */
    void (*sign_votes)(int32_t *votes, const uint8_t *w, size_t plane_bytes, int32_t masked,
                       int32_t n_rows, const uint8_t *x);
    const char *signs_variant;

    es_ternary_dot *t2_dot;
    es_ternary_dot *t5_dot;
    es_ternary_list *t2_list;
    es_ternary_list *t5_list;
    /* As es_ternary_dot, for neuron-major weights: `w` points at the bytes of output 0, a multiple of
     * 128 from the matrix's first, in the row of input 0, and row_bytes is from input to input. */
    es_ternary_dot *t2n_dot;
    es_neuron_sums *t2n_sums;
    /* Ascending indices i < n with x[i] > 0, or q[i] != 0; `list` has room for n + ES_LIST_SLACK. */
    int32_t (*list_positive)(int32_t *list, const float *x, int32_t n);
    int32_t (*list_nonzero)(int32_t *list, const int8_t *q, int32_t n);
    es_block_dot *q8_dot;
    es_block_dot *q4_dot;
    es_block_dot *q8m_dot;
    es_block_dot *q4m_dot;
    es_block_dot *q6_dot;
    es_float_dot *f16_dot;
    es_float_dot *bf16_dot;
    es_float_dot *f32_dot;

    /* y = x * r * w with r = 1 / sqrt(mean(x^2) + eps); y may be x. */
    void (*rmsnorm)(float *y, const float *x, const float *w, int32_t n, float eps);
    /* Per-token int8: q[0..n) and zeros up to n_padded; *sum = sum of q; returns the scale s (q = x*s). */
    float (*quantize_i8)(int8_t *q, int32_t *sum, const float *x, int32_t n, int32_t n_padded);
    /* Blocks of 32 to int16; n is rounded up to whole blocks, x beyond n counts as zero. */
    void (*quantize_i16)(int16_t *q, float *d, int32_t *sum, float *xsum, const float *x,
                         int32_t n);
    /* y = relu(gate)^2 * up, y = relu(gate) * up, y = silu(gate) * up; y may be gate or up. */
    void (*glu_relu2)(float *y, const float *gate, const float *up, int32_t n);
    void (*glu_relu)(float *y, const float *gate, const float *up, int32_t n);
    void (*glu_silu)(float *y, const float *gate, const float *up, int32_t n);
    /* y += x */
    void (*add)(float *y, const float *x, int32_t n);
    /* Rotates one head in place: n_rot/2 cosines then n_rot/2 sines; pairs (i, i + n_rot/2) or (2i, 2i+1). */
    void (*rope_neox)(float *x, const float *table, int32_t n_rot);
    void (*rope_norm)(float *x, const float *table, int32_t n_rot);
    /* float32 to IEEE half, round to nearest even; and back. */
    void (*f32_to_f16)(uint16_t *y, const float *x, int32_t n);
    void (*f16_to_f32)(float *y, const uint16_t *x, int32_t n);
    /* A row of the q8_0 cache from n floats. */
    void (*store_q8_0)(uint8_t *to, const float *x, int32_t n);
    /* n_heads heads of each of n_tokens tokens, at most ES_ATTENTION_QUERIES in all, which read one kv
     * head of one cache.
     * scratch: es_attention_scratch(...) floats, 64-byte aligned. */
    void (*attention)(const es_attention_token *tokens, int32_t n_tokens, int32_t n_heads,
                      const es_cache_rows *k, const es_cache_rows *v, int32_t head_dim, float scale,
                      float *scratch);
    /* The same in three parts, for heads of one token, at most ES_ATTENTION_QUERIES, so that threads can
     * share the positions of the first and the columns of the last. Scratch as above.
     *   scores: s[h * stride + j] = dot16(q[h], row j of k) * scale for rows j < n; s has room for n
     *           rounded up to 16 in every head.
     *   weigh:  s[j] = exp(s[j] - max s) for j < n; returns 1 / their sum. s is 64-byte aligned and has
     *           room for n rounded up to 16, and 16 more.
     *   values: out[h * head_dim + i] = inverse[h] * sum over j < n of e[h * stride + j] * v[j][i] for
     *           columns i in [column, column + n_columns); column is a multiple of 32. */
    void (*attention_scores)(float *s, size_t stride, const float *q, int32_t n_heads,
                             const es_cache_rows *k, int32_t n, int32_t head_dim, float scale,
                             float *scratch);
    float (*attention_weigh)(float *s, int32_t n);
    void (*attention_values)(float *out, const float *e, size_t stride, const float *inverse,
                             int32_t n_heads, const es_cache_rows *v, int32_t n, int32_t head_dim,
                             int32_t column, int32_t n_columns, float *scratch);

    /* Variant names for reporting, same order of families as es_kernel_variant. */
    const char *t2_variant, *t2n_variant, *t5_variant, *q8_variant, *q4_variant, *q8m_variant,
        *q4m_variant, *q6_variant;
    const char *f16_variant, *bf16_variant, *f32_variant, *vector_variant, *attention_variant;
} es_kernels;

/* Fills `table` for `isa`: scalar, then every level up to `isa` that this build holds. */
void es_kernels_fill(es_kernels *table, int32_t isa);

void es_ternary_scalar(es_kernels *table);
void es_ternary_avx2(es_kernels *table);
void es_ternary_avxvnni(es_kernels *table);
void es_ternary_avx512vnni(es_kernels *table);
void es_ternary_neon(es_kernels *table);
void es_ternary_neondot(es_kernels *table);
void es_sparse_scalar(es_kernels *table);
void es_sparse_avx2(es_kernels *table);
void es_sparse_avx512vnni(es_kernels *table);
void es_predict_scalar(es_kernels *table);
void es_predict_avx2(es_kernels *table);
void es_predict_avx512vnni(es_kernels *table);
void es_dense_scalar(es_kernels *table);
void es_dense_avx2(es_kernels *table);
void es_dense_avxvnni(es_kernels *table);
void es_dense_avx512vnni(es_kernels *table);
void es_vector_scalar(es_kernels *table);
void es_vector_avx2(es_kernels *table);
void es_attention_scalar(es_kernels *table);
void es_attention_avx2(es_kernels *table);
void es_attention_avx512vnni(es_kernels *table);

#endif
