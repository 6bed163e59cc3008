/* What the parts of the linear op share: linear_input.c prepares inputs, linear_deal.c deals out rows,
 * linear.c multiplies by rows, linear_sparse.c by lists of live rows or live inputs. */
#ifndef ES_LINEAR_H
#define ES_LINEAR_H

#include "engine.h"

/* Forms of the input that weights ask for. */
enum {
    ES_NEEDS_INT8 = 1,         /* per token */
    ES_NEEDS_INT16 = 2,        /* per block */
    ES_NEEDS_INT8_BLOCKS = 4,  /* per block */
    ES_NEEDS_TABLE = 8,        /* of int8 per block */
    ES_NEEDS_TOKEN_TABLE = 16, /* of int8 per token */
    ES_NEEDS_ROUNDED = 32      /* rounded, of int8 per block */
};

typedef struct es_linear_job {
    es_engine *engine;
    const es_op *op;
    const es_step *step;
    uint64_t id;      /* of this run of the op */
    int32_t n_tokens; /* rows of the product's left side */
    int32_t k;
    int32_t first, n_outputs; /* outputs of the job in progress */
    int32_t panel;            /* rows that stay together, a multiple of 8 */
    int32_t unit_rows;        /* rows per chunk, whole panels */
    int32_t tokens_per_chunk;
    int32_t forms;        /* ES_NEEDS_* */
    int32_t sides_later;  /* whether side matrices wait for a phase of their own */
    int32_t keeps_floats; /* whether the input's floats are read once its forms are made */
    /* Of an expert: the rows of the destinations that its tokens have, and how many each row of the
     * sources stands for. Rows are as long as the product is wide. NULL: any other linear. */
    const int32_t *rows;
    int32_t rows_per_source;
} es_linear_job;

static inline const es_weight *es_linear_weight(const es_linear_job *job, const es_output *out) {
    return &job->engine->plan.weights[out->weight];
}

/* The step's token, or the row of an expert's sources, that row `row` of the product belongs to. */
static inline int32_t es_linear_token(const es_linear_job *job, int32_t row) {
    if (job->rows != NULL) {
        return job->rows[row] / job->rows_per_source;
    }
    return job->op->outputs_only ? job->step->outputs[row] : row;
}

/* Where buffer `id` has the input of row `row`. */
static inline const float *es_linear_source(const es_linear_job *job, int32_t id, int32_t row) {
    const int32_t token = es_linear_token(job, row);
    if (job->rows != NULL && job->rows_per_source == 1) {
        return job->engine->buffers[id] + (size_t)token * (size_t)job->k;
    }
    return es_row(job->engine, id, token);
}

/* Where buffer `id`, a destination or a gate, has row `row` of an output that does not go to logits. */
static inline float *es_linear_target(const es_linear_job *job, const es_output *out, int32_t id,
                                      int32_t row) {
    if (job->rows != NULL) {
        const size_t width = (size_t)es_linear_weight(job, out)->n_rows;
        return job->engine->buffers[id] + (size_t)job->rows[row] * width;
    }
    return es_row(job->engine, id, es_linear_token(job, row));
}

/* Whether all rows of a ternary weight have the same scale. */
static inline int es_linear_one_scale(const es_linear_job *job, const es_weight *w) {
    return job->engine->one_scale[w - job->engine->plan.weights];
}

/* Bytes of the row scales, which ternary weights have beside their codes. */
static inline uint64_t es_linear_scale_bytes(const es_weight *w) {
    return w->scales != NULL ? (uint64_t)w->n_rows * sizeof(float) : 0;
}

/* Bytes of one row of a weight that is stored row by row, its scale included. */
static inline uint64_t es_linear_row_bytes(const es_weight *w) {
    return w->n_bytes / (size_t)w->n_rows + (w->scales != NULL ? sizeof(float) : 0);
}

/* Where an output has row `row` of the product. */
static inline float *es_linear_destination(const es_linear_job *job, const es_output *out,
                                           int32_t row) {
    if (out->dst < 0) {
        return job->step->logits + (size_t)row * (size_t)job->engine->plan.n_vocab;
    }
    return job->rows != NULL ? es_linear_target(job, out, out->dst, row)
                             : es_row(job->engine, out->dst, row);
}

/* Whether an output is computed through lists. */
static inline int es_linear_skips(const es_linear_job *job, const es_output *out) {
    return out->live >= 0 || out->signs >= 0 || es_linear_weight(job, out)->format == ES_FORMAT_T2N;
}

/* Tokens that a ternary product takes at once. A kernel for many unpacks weights once per block, and
 * reads the block's activations again and again, so they should stay in the second-level cache. */
static inline int32_t es_linear_token_block(const es_linear_job *job, int32_t k) {
    enum { CACHE_BYTES = 1280 * 1024, UNIT = 32 };
    if (job->n_tokens < job->engine->k.many_tokens) {
        return ES_TOKEN_BLOCK;
    }
    const int32_t most = es_min(es_max(CACHE_BYTES / k / UNIT * UNIT, UNIT), ES_MANY_TOKENS);
    const int32_t n_blocks = (job->n_tokens + most - 1) / most;
    return ((job->n_tokens + n_blocks - 1) / n_blocks + UNIT - 1) / UNIT * UNIT;
}

/* Runs a linear whose engine, op, step, id, n_tokens and k are set. */
int32_t es_linear_run(es_linear_job *job);

/* Prepares the input of several tokens; that of one is prepared by es_linear_input. */
void es_linear_prepare(es_linear_job *job);

/* The quantised input: of one token, prepared by each thread for itself, or of all tokens. */
const es_input *es_linear_input(const es_linear_job *job, int32_t thread);

/* The tokens of an input from `slot` on, quantised to int16 in blocks. */
static inline es_q16 es_linear_blocks(const es_input *input, size_t slot) {
    const size_t at = slot * input->n_blocks;
    return (es_q16){input->q16 + at * 32, input->d + at, input->sum16 + at, input->xsum + at,
                    input->n_blocks};
}

/* What decides over rows [first, first + n_rows) of an output with `live`, ES_ROW_BLOCK at most: an
 * element above 0 keeps its row. `room` holds the result where it is not a buffer's own row. */
const float *es_linear_gate(const es_linear_job *job, const es_output *out, int32_t row,
                            int32_t first, int32_t n_rows, float *room);

/* Rows of weights in tiles of 8, ES_ROW_BLOCK at most, for all tokens; first is a multiple of 8. */
void es_linear_tiles(const es_linear_job *job, const es_output *out, const es_input *input,
                     es_scratch *scratch, int32_t first, int32_t n_rows);

/* The same from tiles that lie at `data`, in the tiled format of the output's codes. */
void es_linear_tile_products(const es_linear_job *job, const es_output *out, const es_input *input,
                             es_scratch *scratch, const uint8_t *data, int32_t first,
                             int32_t n_rows);

/* Weights stored row by row (linear_rows.c): y[i] = row rows[i] of the product with the token that
 * `slot` of the input holds, ... */
void es_linear_row_list(const es_linear_job *job, const es_weight *w, const es_input *input,
                        size_t slot, const int32_t *rows, int32_t n_rows, float *y);
/* ... and rows [first, first + n_rows), ES_ROW_BLOCK at most, for all tokens; first is a multiple of 8. */
void es_linear_whole_rows(const es_linear_job *job, const es_output *out, const es_input *input,
                          es_scratch *scratch, int32_t first, int32_t n_rows);

/* Rows of a work item of products with n_rows rows of length k: a multiple of `panel`, of which at least
 * `together` are no work items of their own; more than one are half a tile (linear_deal.c). */
int32_t es_linear_unit(int64_t n_rows, int32_t n_threads, int32_t k, int32_t panel,
                       int32_t together);

/* Outputs [first, first + n_outputs), dense and row by row. */
void es_linear_products(es_linear_job *job, int32_t first, int32_t n_outputs);

/* Rows [begin, end) of one output, begin a multiple of 8, in blocks that fit the scratch, from an input
 * of es_linear_input. */
void es_linear_rows(const es_linear_job *job, const es_output *out, const es_input *input,
                    es_scratch *scratch, int32_t begin, int32_t end);

static inline int es_is_sliced(const es_weight *w) {
    return (w->format >= ES_FORMAT_BS1 && w->format <= ES_FORMAT_BST) ||
           es_is_slice_column(w->format);
}

/* Whether rows are stored in tiles of 8, of which one can be left out. */
static inline int es_has_tiles(const es_weight *w) {
    return w->format >= ES_FORMAT_Q8 && w->format <= ES_FORMAT_F32;
}

/* Bit slices (linear_bitslice.c): the forms that they want of the input, ... */
int32_t es_slice_forms(const es_linear_job *job, const es_weight *w);
/* ... made for row `slot` of `input`, whose h and, for ternary planes, q8 are there, ... */
void es_slice_prepare(const es_linear_job *job, es_input *input, size_t slot);
/* ... how their codes and steps lie (not of ternary planes), ... */
es_slices es_slice_layout(const es_weight *w);
/* ... `slot` of an input and the tokens behind it, without tables, ... */
es_q8 es_slice_tokens(const es_input *input, size_t slot);
/* ... and rows [first, first + n_rows) of a product, one tile at most. */
void es_slice_rows(const es_linear_job *job, const es_output *out, const es_weight *w,
                   const es_input *input, es_scratch *scratch, int32_t first, int32_t n_rows);

/* Rows [begin, end) of one output whose weight is a bitmap (linear_bitmap.c); begin is a multiple of
 * ES_BITMAP_ROWS. */
void es_bitmap_rows(const es_linear_job *job, const es_output *out, const es_input *input,
                    es_scratch *scratch, int32_t begin, int32_t end);

/* The side matrix of an output (linear_side.c): rows [begin, end), begin a multiple of ES_COO_ROWS, once
 * its base is stored there, ... */
void es_side_rows(const es_linear_job *job, const es_output *out, const es_input *input,
                  int32_t begin, int32_t end);
/* ... or all rows, in a phase of their own. Nothing happens without one. */
void es_linear_side(es_linear_job *job, int32_t output);

/* Outputs [first, first + n_outputs), complete but for their shift and cutoff (linear_cut.c); and a part of
 * one row of the product. */
void es_linear_cut(const es_linear_job *job, int32_t first, int32_t n_outputs);
void es_linear_cut_row(const es_linear_job *job, const es_output *out, int32_t row, int32_t first,
                       int32_t n_rows);

/* The logits of one token through the op's coarse head. */
void es_linear_two_stage(es_linear_job *job);

/* Rotates k floats for a coarse head. */
void es_rotate(float *x, int32_t k);

/* One output whose dead rows sign planes predict (linear_predict.c). */
void es_linear_predicted(es_linear_job *linear, int32_t output);

/* Whether a product can read single rows. */
static inline int es_reads_rows(const es_weight *w) {
    return w->format == ES_FORMAT_T2 || w->format == ES_FORMAT_T5 || es_is_row(w->format);
}

/* Few tokens go one by one through their lists; more share a dense product. */
enum { ES_LISTED_TOKENS = 4, ES_PIECES_PER_THREAD = 2 };

/* Where a piece of a list of n begins. */
static inline int32_t es_piece_begin(int32_t n, int32_t piece, int32_t n_pieces) {
    return (int32_t)((int64_t)n * piece / n_pieces);
}

/* The first n_listed tiles of the engine's list, of a tiled output, for the only token; rows of other
 * tiles are +0. */
void es_linear_listed_tiles(es_linear_job *linear, int32_t output, int32_t n_listed);

/* Lists the rows in [begin, begin + n_rows) that row `row` of the product needs of an output with `live`;
 * `list` has room for n_rows + ES_LIST_SLACK. And whether a list of so many of so many rows is faster than
 * all of them. */
int32_t es_linear_live(const es_linear_job *linear, const es_output *out, int32_t row,
                       int32_t begin, int32_t n_rows, int32_t *list);
int es_linear_list_pays(int64_t n_live, int64_t n_rows);

/* Stores the listed rows of an output that es_reads_rows and does not add, for one row of the product. */
void es_linear_list_products(const es_linear_job *linear, const es_output *out,
                             const es_input *input, int32_t row, const int32_t *rows,
                             int32_t n_rows);

/* Whether an output is gated by the one before it and both can be computed in one job (linear_gated.c),
 * and both of them. */
int es_linear_is_gated(const es_linear_job *linear, int32_t output);
void es_linear_gated(es_linear_job *linear, int32_t output);

/* The first n_listed rows of the engine's list, of an output that es_reads_rows, for one row of the
 * product; all other rows are +0. */
void es_linear_listed(es_linear_job *linear, int32_t output, int32_t row, int32_t n_listed);

/* One output that skips dead neurons. */
void es_linear_sparse(es_linear_job *job, int32_t output);

/* Rows [begin, end) of one output whose weights lie by columns (linear_columns.c); begin is a multiple
 * of the format's lines. And the bytes that all its rows have taken, once the job has run. */
void es_linear_column_rows(const es_linear_job *job, const es_output *out, const es_input *input,
                           es_scratch *scratch, int32_t begin, int32_t end);
uint64_t es_linear_column_bytes(const es_linear_job *job, const es_weight *w);

/* Ternary sums of codes 0, 1 and 2, or of -1, 0 and 1. */
typedef enum es_sums { ES_SUMS_OF_CODES, ES_SUMS_OF_SIGNS } es_sums;

/* Sums of rows [row, row + n_tokens) of the product, from column `first` on, are scaled and join their
 * destination; n_rows is ES_NEURON_ROWS at most, and ES_ROW_BLOCK for outputs with `live`. */
void es_linear_finish(const es_linear_job *job, const es_output *out, const es_input *input,
                      int32_t row, int32_t n_tokens, const int32_t *sums, size_t sums_stride,
                      es_sums kind, int32_t first, int32_t n_rows);

/* Whether outputs are ternary products that are looked up (linear_lookup.c), and one that is. */
int es_linear_looks_up(const es_linear_job *job, int32_t first, int32_t n_outputs);
void es_linear_lookup(es_linear_job *job, int32_t output);

/* y[0..n_rows) of one row of the product joins its destination, from column `first` on. */
void es_linear_store(const es_linear_job *job, const es_output *out, int32_t row, int32_t first,
                     int32_t n_rows, float *restrict y);

#endif
