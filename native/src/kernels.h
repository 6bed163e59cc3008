/* The table of kernels: one function pointer per kernel, filled scalar first, then overridden upward.
 *
 * Every ISA file of a family exports one function, es_<family>_<isa>(es_kernels *), that overrides the
 * pointers it implements (and the matching variant name) and leaves the rest. What the kernels of a
 * family take and give is in families/, the arithmetic that makes all variants bit-identical in
 * edgesparse/ops/README.md. */
#ifndef ES_KERNELS_H
#define ES_KERNELS_H

#include "edgesparse.h"
#include "families/attention.h"
#include "families/blocks.h"
#include "families/columns.h"
#include "families/rows.h"
#include "families/slice_columns.h"
#include "families/slices.h"
#include "families/ternary.h"
#include "families/without_zeros.h"

/* Longest row of a coarse head: its sums stay below 2^31. */
enum { ES_COARSE_MAX_K = 1 << 20 };

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
    /* Bit slices by columns, and list_columns for their inputs. */
    es_slice_list *slice_list;
    es_slice_column_dot *slice_column_dot;
    int32_t (*list_bytes)(es_live_pair *pairs, int32_t *begin, const int8_t *q, int32_t n_blocks);

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
     * Parts are 64-byte aligned; scratch: es_attention_scratch(...) floats, 64-byte aligned.
     * Rows may be pruned only for a kernel that reads such rows itself. */
    int32_t attention_reads_pruned;
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
void es_csr_neon(es_kernels *table);
void es_nm_scalar(es_kernels *table);
void es_nm_avx2(es_kernels *table);
void es_nm_avx512vnni(es_kernels *table);
void es_nm_neon(es_kernels *table);
void es_nm_neondot(es_kernels *table);
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
void es_kvsparse_neon(es_kernels *table);
void es_attention_scalar(es_kernels *table);
void es_attention_avx2(es_kernels *table);
void es_attention_avx512vnni(es_kernels *table);
void es_attention_neon(es_kernels *table);

#endif
