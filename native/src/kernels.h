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

/* Many tokens by looking up, in two steps. First weights become the numbers below 81 of their groups of
 * four: index[pass][row][ES_LOOKUP_GROUPS], es_lookup_bytes(n_rows, k) in all. For t2n, w and row_bytes
 * are as for t2n_dot. Then, for n_tokens <= ES_LOOKUP_TOKENS tokens,
 *   wide[row][token] = sum over i < k of (code[row][i] - 1) * q[token * q_stride + i];
 * `wide` and `narrow` have room for es_lookup_rows(n_rows) rows of ES_LOOKUP_TOKENS, 64-byte aligned;
 * q is readable to the end of the last block of 128 columns. */
enum { ES_LOOKUP_TOKENS = 32, ES_LOOKUP_GROUPS = 4 };
typedef void es_ternary_index(uint8_t *index, const uint8_t *w, size_t row_bytes, int32_t n_rows,
                              int32_t k);
typedef void es_ternary_lookup(int32_t *wide, int16_t *narrow, const uint8_t *index, int32_t n_rows,
                               const int8_t *q, size_t q_stride, int32_t n_tokens, int32_t k);

/* What ternary sums are multiplied with. */
typedef struct es_scaling {
    const float *scales; /* [n_rows] */
    int32_t shared;      /* all of them are the first, which is divided once */
    const float *s;      /* [n_tokens] */
    const int32_t *qsum; /* [n_tokens]; NULL: zeros */
    const float
        *live; /* [n_tokens][live_stride]: results are +0 where this is not above 0; or NULL */
    size_t live_stride;
} es_scaling;

/* Far: results that will have left the caches before they are read need not pass through them. */
typedef enum es_store_kind { ES_STORE, ES_STORE_FAR, ES_STORE_ADD } es_store_kind;

/* Rows are worked on in whole packed blocks of t2n. */
static inline size_t es_lookup_rows(int32_t n_rows) {
    return ((size_t)n_rows + 127) / 128 * 128;
}

static inline size_t es_lookup_bytes(int32_t n_rows, int32_t k) {
    return es_lookup_rows(n_rows) * (((size_t)k + 127) / 128 * 32);
}

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

/* How the codes and steps of bit slices lie, see es_weight. */
typedef struct es_slices {
    int32_t planes;
    int32_t n_blocks;     /* of 32 columns */
    int32_t group_blocks; /* blocks that share a step */
    int32_t zeros;        /* ES_ZEROS_* */
    int32_t wide;
} es_slices;

/* Bytes of a token's table for one block: 16 sums of 16 bits for each of 8 quads. How they lie is the
 * business of an instruction set. */
enum { ES_TABLE_BYTES = 256, ES_ROUNDED_BYTES = 128 };

/* Activations quantised to int8, for n_tokens rows; blocks of 32 along k. */
typedef struct es_q8 {
    const int8_t *q;       /* [n_tokens][q_stride], zero up to a whole block */
    const float *d;        /* [n_tokens][stride_blocks]: step of the block */
    const int32_t *sum;    /* [n_tokens][stride_blocks]: sum of q over the block */
    const float *xsum;     /* [n_tokens][stride_blocks]: d * (float)sum */
    const uint8_t *tables; /* [n_tokens][stride_blocks][ES_TABLE_BYTES], 64-byte aligned */
    size_t q_stride, stride_blocks;
} es_q8;

/* y[t * y_stride + 64 * tile + lane] for n_tiles tiles of 64 rows; n_tokens <= 64. */
typedef void es_slice_dot(float *y, size_t y_stride, const uint8_t *w, const es_slices *s,
                          int32_t n_tiles, const es_q8 *x, int32_t n_tokens);

/* Ternary planes: sums[t * sums_stride + 64 * tile + lane] = sum of code {0,1,2} * q, for whole tiles. */
typedef void es_slice_sums(int32_t *sums, size_t sums_stride, const uint8_t *w, int32_t n_tiles,
                           const es_q8 *x, int32_t n_tokens, int32_t n_blocks);

/* One token of a block that attention works on: its heads lie side by side, head_dim floats each. */
typedef struct es_attention_token {
    const float *q; /* [n_heads][head_dim] */
    float *part;    /* [n_heads][es_attention_part_floats(head_dim)], see below */
    int32_t first;  /* attends to rows [first, end) of the chunk, at least one */
    int32_t end;
} es_attention_token;

/* Bytes of the bitmap of a pruned row of head_dim elements, and of the row. */
static inline size_t es_sparse_bitmap_bytes(int32_t head_dim) {
    return ((size_t)head_dim + 63) / 64 * 8;
}

static inline size_t es_sparse_row_bytes(int32_t head_dim, int32_t n_kept) {
    return es_sparse_bitmap_bytes(head_dim) + (size_t)n_kept * sizeof(uint16_t);
}

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
    ES_ATTENTION_TILE = 16     /* rows that are worked on together */
};

/* What attention makes of one chunk for one query: the largest score, the sum of the weights, then
 * from ES_PART_VALUES on the weighted sum of values, padded. */
enum { ES_PART_TOP = 0, ES_PART_SUM = 1, ES_PART_VALUES = 16 };

/* head_dim rounded up to 16. */
static inline size_t es_attention_width(size_t head_dim) {
    return (head_dim + 15) / 16 * 16;
}

static inline size_t es_attention_part_floats(size_t head_dim) {
    return ES_PART_VALUES + es_attention_width(head_dim);
}

/* Floats of scratch for n_queries heads: the query and the scores of each, and a tile of widened rows. */
static inline size_t es_attention_scratch(size_t n_queries, size_t head_dim) {
    const size_t width = es_attention_width(head_dim);
    return n_queries * (width + ES_CACHE_CHUNK + 16) + ES_ATTENTION_TILE * width;
}

enum { ES_LIST_SLACK = 16 };

/* Column formats (edgesparse/formats/README.md): a line is 64 bytes of a column, which hold 64 rows or,
 * of nibbles, 128. A tile is ES_COLUMN_WIDTH lines wide, the last one of a matrix what is left. One
 * block of it has 32 columns, one after the other, then the steps of its rows and, for some formats,
 * their minima, as halfs. */
enum { ES_LINE_BYTES = 64, ES_COLUMN_WIDTH = 8 };

static inline int es_is_column(int32_t format) {
    return format >= ES_FORMAT_Q8N && format <= ES_FORMAT_Q8MN;
}

static inline int es_column_is_nibble(int32_t format) {
    return format == ES_FORMAT_Q4N || format == ES_FORMAT_Q4MN;
}

static inline int es_column_has_minimum(int32_t format) {
    return format == ES_FORMAT_Q8MN || format == ES_FORMAT_Q4MN;
}

static inline size_t es_line_rows(int32_t format) {
    return es_column_is_nibble(format) ? 128 : 64;
}

/* Bytes that one line takes in a block: 32 columns, and the steps and minima of its rows. */
static inline size_t es_line_block_bytes(int32_t format) {
    const size_t halfs = es_column_has_minimum(format) ? 2 : 1;
    return 32 * ES_LINE_BYTES + halfs * 2 * es_line_rows(format);
}

/* Some lines of one tile. */
typedef struct es_column_lines {
    const uint8_t *tile; /* its first byte */
    size_t width;        /* lines of the tile */
    size_t first, n;     /* the lines that are meant */
} es_column_lines;

/* Two columns whose inputs are not 0, and their inputs side by side. */
typedef struct es_live_pair {
    uint16_t a, b; /* columns of the block */
    uint32_t q;    /* int16 of a in the low half, of b in the high one */
} es_live_pair;

/* The live columns of one token, block by block. */
typedef struct es_columns {
    const es_live_pair *pairs;
    const int32_t *begin; /* [n_blocks + 1]: block b has pairs [begin[b], begin[b + 1]) */
} es_columns;

/* The rows of some lines for one token, reading live columns only. */
typedef void es_column_list(float *y, const es_column_lines *lines, const es_columns *live,
                            const es_q16 *x, int32_t n_blocks);

/* The same for n_tokens tokens and all columns: y[t * y_stride + row]. */
typedef void es_column_dot(float *y, size_t y_stride, const es_column_lines *lines, const es_q16 *x,
                           int32_t n_tokens, int32_t n_blocks);

/* Row formats (edgesparse/formats/README.md): a row's codes lie together, then the steps of its blocks and,
 * for some formats, their minima, as halfs, up to a whole cache line. */
static inline int es_is_row(int32_t format) {
    return format >= ES_FORMAT_Q8R && format <= ES_FORMAT_Q8MR;
}

static inline int es_row_is_nibble(int32_t format) {
    return format == ES_FORMAT_Q4R || format == ES_FORMAT_Q4MR;
}

static inline int es_row_has_minimum(int32_t format) {
    return format == ES_FORMAT_Q8MR || format == ES_FORMAT_Q4MR;
}

/* Bytes of the codes of one block. */
static inline size_t es_row_code_bytes(int32_t format) {
    return es_row_is_nibble(format) ? 16 : 32;
}

static inline size_t es_row_bytes(int32_t format, size_t n_blocks) {
    const size_t halfs = es_row_has_minimum(format) ? 2 : 1;
    return (n_blocks * (es_row_code_bytes(format) + 2 * halfs) + 63) / 64 * 64;
}

/* y[i] of row rows[i], for one token. */
typedef void es_row_list(float *y, const uint8_t *w, size_t row_bytes, const int32_t *rows,
                         int32_t n_rows, const es_q16 *x, int32_t n_blocks);

/* A tile of eight rows, as q8, q4, q4m or q8m store it, of n_rows rows and zeros. */
typedef void es_row_tile(uint8_t *tile, const uint8_t *w, size_t row_bytes, int32_t n_rows,
                         int32_t n_blocks);

/* The format of tiles whose codes and steps a column or row format holds; others are their own. */
static inline int32_t es_tile_format(int32_t format) {
    switch (format) {
    case ES_FORMAT_Q8N:
    case ES_FORMAT_Q8R:
        return ES_FORMAT_Q8;
    case ES_FORMAT_Q4N:
    case ES_FORMAT_Q4R:
        return ES_FORMAT_Q4;
    case ES_FORMAT_Q8MN:
    case ES_FORMAT_Q8MR:
        return ES_FORMAT_Q8M;
    case ES_FORMAT_Q4MN:
    case ES_FORMAT_Q4MR:
        return ES_FORMAT_Q4M;
    default:
        return format;
    }
}

/* Longest row of a coarse head: its sums stay below 2^31. */
enum { ES_COARSE_MAX_K = 1 << 20 };

/* Formats without zeros (edgesparse/formats/README.md): tiles of 16 rows, of varying length but for 2:4. */
enum { ES_BITMAP_ROWS = 16, ES_BITMAP_HEAD = 96, ES_BITMAP_SLACK = 64 };

static inline int es_is_sparse(int32_t format) {
    return format >= ES_FORMAT_BMP8 && format <= ES_FORMAT_NM4;
}

static inline int es_is_two_of_four(int32_t format) {
    return format == ES_FORMAT_NM8 || format == ES_FORMAT_NM4;
}

/* Bytes of 16 rows and 32 columns in nm8 or nm4: steps, places, codes. */
static inline size_t es_nm_block_bytes(int32_t format) {
    return format == ES_FORMAT_NM8 ? 32 + 64 + 256 : 32 + 64 + 128;
}

/* The dense format with the same codes and steps. */
static inline int32_t es_dense_format(int32_t format) {
    return format == ES_FORMAT_BMP4 || format == ES_FORMAT_NM4 ? ES_FORMAT_Q4 : ES_FORMAT_Q8;
}

/* int16 inputs of one token taken apart, for instruction sets that multiply bytes; see split_q16. */
typedef struct es_split {
    const uint8_t *bytes;  /* [n_blocks][64] */
    const int32_t *centre; /* [n_blocks] */
} es_split;

/* One token: y[16 * tile + lane] for n_tiles tiles that follow one another from w on. Reads up to
 * ES_BITMAP_SLACK bytes behind them. */
typedef void es_bitmap_dot(float *y, const uint8_t *w, int32_t n_tiles, const es_q16 *x,
                           const es_split *split, int32_t n_blocks);

/* One tile as the two dense tiles of 8 rows with the same codes and steps. */
typedef void es_bitmap_expand(uint8_t *tiles, const uint8_t *w, int32_t n_blocks);

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
    /* The same for at least many_tokens tokens, where something better than t2_dot, t5_dot and t2n_dot
     * exists; many_tokens is INT32_MAX where not. q is readable up to a multiple of 64 columns. */
    es_ternary_dot *t2_many, *t5_many, *t2n_many;
    int32_t many_tokens;
    /* Looking up, where it is faster for ES_LOOKUP_TOKENS tokens than the above; NULL where not.
     * turn_sums: sums[t * sums_stride + r] = wide[r][t] for a multiple of 8 rows. */
    es_ternary_index *t2_index, *t2n_index;
    es_ternary_lookup *t2_lookup, *t2n_lookup;
    void (*turn_sums)(int32_t *sums, size_t sums_stride, const int32_t *wide, int32_t n_rows,
                      int32_t n_tokens);
    es_neuron_sums *t2n_sums;
    /* Ascending indices i < n with x[i] > 0, or q[i] != 0; `list` has room for n + ES_LIST_SLACK. */
    int32_t (*list_positive)(int32_t *list, const float *x, int32_t n);
    int32_t (*list_nonzero)(int32_t *list, const int8_t *q, int32_t n);
    es_block_dot *q8_dot;
    es_block_dot *q4_dot;
    es_block_dot *q8m_dot;
    es_block_dot *q4m_dot;
    es_block_dot *q6_dot;
    es_column_dot *q8n_dot, *q4n_dot, *q8mn_dot, *q4mn_dot;
    es_column_list *q8n_list, *q4n_list, *q8mn_list, *q4mn_list;
    /* Lists the columns with q != 0 and returns their number; `pairs` has room for 16 * n_blocks. */
    int32_t (*list_columns)(es_live_pair *pairs, int32_t *begin, const int16_t *q,
                            int32_t n_blocks);
    /* By format, from ES_FORMAT_Q8R on. */
    es_row_list *row_list[4];
    es_row_tile *row_tile[4];
    es_bitmap_dot *bmp8_dot, *bmp4_dot, *csr_dot, *nm8_dot, *nm4_dot;
    es_bitmap_expand *bmp8_expand, *bmp4_expand, *csr_expand, *nm8_expand, *nm4_expand;
    /* Makes es_split of a token's n_blocks blocks; NULL where the products do not want it. */
    void (*split_q16)(uint8_t *bytes, int32_t *centre, const int16_t *q, int32_t n_blocks);
    es_float_dot *f16_dot;
    es_float_dot *bf16_dot;
    es_float_dot *f32_dot;
    /* Bit slices: tables of n_blocks blocks of activations; products that look them up (x->tables), or
     * that multiply x->q. */
    void (*slice_tables)(uint8_t *table, const int8_t *q, int32_t n_blocks);
    es_slice_dot *slice_lut;
    /* The same with rounded tables of ES_ROUNDED_BYTES for a block, which are not exact: x->tables and
     * x->d are what rounded_tables made of a token's q and d. */
    void (*rounded_tables)(uint8_t *table, float *d, const int8_t *q, const float *d_q,
                           int32_t n_blocks);
    es_slice_dot *slice_rounded;
    es_slice_dot *slice_mad;
    es_slice_sums *bst_lut;
    es_slice_sums *bst_mad;

    /* y = x * r * w with r = 1 / sqrt(mean(x^2) + eps); y may be x. */
    void (*rmsnorm)(float *y, const float *x, const float *w, int32_t n, float eps);
    /* Per-token int8: q[0..n) and zeros up to n_padded; *sum = sum of q; returns the scale s (q = x*s). */
    float (*quantize_i8)(int8_t *q, int32_t *sum, const float *x, int32_t n, int32_t n_padded);
    /* Blocks of 32 to int8, -127 to 127; n as below. */
    void (*quantize_i8_blocks)(int8_t *q, float *d, int32_t *sum, float *xsum, const float *x,
                               int32_t n);
    /* Blocks of 32 to int16; n is rounded up to whole blocks, x beyond n counts as zero. */
    void (*quantize_i16)(int16_t *q, float *d, int32_t *sum, float *xsum, const float *x,
                         int32_t n);
    /* y = relu(gate)^2 * up, y = relu(gate) * up, y = silu(gate) * up; y may be gate or up. */
    void (*glu_relu2)(float *y, const float *gate, const float *up, int32_t n);
    void (*glu_relu)(float *y, const float *gate, const float *up, int32_t n);
    void (*glu_silu)(float *y, const float *gate, const float *up, int32_t n);
    void (*glu_gelu)(float *y, const float *gate, const float *up, int32_t n);
    /* y += x */
    void (*add)(float *y, const float *x, int32_t n);
    /* y[t * y_stride + r] = (sums[t * sums_stride + r] - qsum[t]) * (scales[r] / s[t]) for r < n_rows and
     * t < n_tokens, or that is added; `live` is NULL where it is. */
    void (*scale_sums)(float *y, size_t y_stride, const int32_t *sums, size_t sums_stride,
                       const es_scaling *by, int32_t n_rows, int32_t n_tokens, es_store_kind kind);
    /* Rotates one head in place: n_rot/2 cosines then n_rot/2 sines; pairs (i, i + n_rot/2) or (2i, 2i+1). */
    void (*rope_neox)(float *x, const float *table, int32_t n_rot);
    void (*rope_norm)(float *x, const float *table, int32_t n_rot);
    /* float32 to IEEE half, round to nearest even; and back. */
    void (*f32_to_f16)(uint16_t *y, const float *x, int32_t n);
    void (*f16_to_f32)(float *y, const uint16_t *x, int32_t n);
    /* A row of the q8_0 cache from n floats. */
    void (*store_q8_0)(uint8_t *to, const float *x, int32_t n);
    /* One chunk's part of attention (edgesparse/ops/README.md) for n_heads heads of each of n_tokens
     * tokens, at most ES_ATTENTION_QUERIES in all, which read one kv head of one cache. k and v begin
     * at the chunk's first row; rows beyond the last token's end are not touched.
     * Parts are 64-byte aligned; scratch: es_attention_scratch(...) floats, 64-byte aligned. */
    void (*attention)(const es_attention_token *tokens, int32_t n_tokens, int32_t n_heads,
                      const es_cache_rows *k, const es_cache_rows *v, int32_t head_dim, float scale,
                      float *scratch);

    /* A pruned row (edgesparse/plan/sparse_rows.py) of the n_kept largest of n halfs. */
    void (*prune_row)(uint8_t *row, const uint16_t *halfs, int32_t n, int32_t n_kept);
    /* Pruned rows as n halfs each, 0 where one was dropped. */
    void (*expand_rows)(uint16_t *to, const uint8_t *rows, size_t row_bytes, int32_t n_rows,
                        int32_t n);

    /* The two-stage head's first pass: sums[r] = sum of code * q over a row of blocks of 128 two-bit codes,
     * in t2's order but with all four codes; q is zero beyond k and k at most 2^20. */
    void (*proposal_dot)(int32_t *sums, const uint8_t *w, size_t row_bytes, int32_t n_rows,
                         const int8_t *q);

    /* Loading. Numbers to symmetric blocks of 32: d = half(largest / q_max), codes of at most q_max; ES_OK,
     * or ES_E_VALUE where a number or its step is not finite. */
    int32_t (*requantize)(int8_t *codes, uint16_t *d, const float *values, size_t n_blocks,
                          float q_max);
    /* Codes [8][n_blocks * 32] of eight rows into the words of q6 blocks, dst_stride bytes apart. */
    void (*weave_six)(uint8_t *dst, const int8_t *codes, size_t n_blocks, size_t dst_stride);
    /* dst[c * dst_stride + l] = lanes[l * k + c] for c < k and l < 32. */
    void (*turn_lanes)(uint8_t *dst, size_t dst_stride, const uint8_t *lanes, size_t k);

    /* Variant names for reporting, same order of families as es_kernel_variant. */
    const char *t2_variant, *t2n_variant, *t5_variant, *q8_variant, *q4_variant, *q8m_variant,
        *q4m_variant, *q6_variant, *columns_variant, *rows_variant;
    const char *lut_variant, *mad_variant, *bitmap_variant, *csr_variant, *nm_variant;
    const char *f16_variant, *bf16_variant, *f32_variant, *vector_variant, *attention_variant,
        *kvsparse_variant;
} es_kernels;

/* Fills `table` for `isa`: scalar, then every level up to `isa` that this build holds. */
void es_kernels_fill(es_kernels *table, int32_t isa);

void es_ternary_scalar(es_kernels *table);
void es_ternary_avx2(es_kernels *table);
void es_lookup_avx2(es_kernels *table);
void es_ternary_avxvnni(es_kernels *table);
void es_ternary_avx512vnni(es_kernels *table);
void es_ternary_amx(es_kernels *table);
void es_ternary_neon(es_kernels *table);
void es_ternary_neondot(es_kernels *table);
void es_sparse_scalar(es_kernels *table);
void es_sparse_avx2(es_kernels *table);
void es_sparse_avx512vnni(es_kernels *table);
void es_sparse_neon(es_kernels *table);
void es_sparse_neondot(es_kernels *table);
void es_predict_scalar(es_kernels *table);
void es_predict_avx2(es_kernels *table);
void es_predict_avx512vnni(es_kernels *table);
void es_predict_neon(es_kernels *table);
void es_dense_scalar(es_kernels *table);
void es_dense_avx2(es_kernels *table);
void es_dense_avxvnni(es_kernels *table);
void es_dense_avx512vnni(es_kernels *table);
void es_dense_neon(es_kernels *table);
void es_dense_neondot(es_kernels *table);
void es_proposal_scalar(es_kernels *table);
void es_proposal_avx2(es_kernels *table);
void es_proposal_avx512vnni(es_kernels *table);
void es_proposal_neon(es_kernels *table);
void es_proposal_neondot(es_kernels *table);
void es_storing_scalar(es_kernels *table);
void es_storing_avx2(es_kernels *table);
void es_storing_neon(es_kernels *table);
void es_rows_scalar(es_kernels *table);
void es_rows_avx2(es_kernels *table);
void es_rows_neon(es_kernels *table);
void es_columns_scalar(es_kernels *table);
void es_columns_avx2(es_kernels *table);
void es_columns_avxvnni(es_kernels *table);
void es_columns_avx512vnni(es_kernels *table);
void es_columns_neon(es_kernels *table);
void es_bitmap_scalar(es_kernels *table);
void es_bitmap_avx2(es_kernels *table);
void es_bitmap_avxvnni(es_kernels *table);
void es_bitmap_avx512vnni(es_kernels *table);
void es_bitmap_neon(es_kernels *table);
void es_bitmap_neondot(es_kernels *table);
void es_csr_scalar(es_kernels *table);
void es_csr_avx2(es_kernels *table);
void es_csr_avx512vnni(es_kernels *table);
void es_nm_scalar(es_kernels *table);
void es_nm_avx2(es_kernels *table);
void es_nm_avx512vnni(es_kernels *table);
void es_bitslice_scalar(es_kernels *table);
void es_bitslice_avx2(es_kernels *table);
void es_bitslice_avxvnni(es_kernels *table);
void es_bitslice_avx512vnni(es_kernels *table);
void es_bitslice_neon(es_kernels *table);
void es_bitslice_neondot(es_kernels *table);
void es_vector_scalar(es_kernels *table);
void es_vector_avx2(es_kernels *table);
void es_vector_neon(es_kernels *table);
void es_kvsparse_scalar(es_kernels *table);
void es_kvsparse_avx2(es_kernels *table);
void es_kvsparse_avx512vnni(es_kernels *table);
void es_kvsparse_neon(es_kernels *table);
void es_attention_scalar(es_kernels *table);
void es_attention_avx2(es_kernels *table);
void es_attention_avx512vnni(es_kernels *table);
void es_attention_neon(es_kernels *table);

#endif
