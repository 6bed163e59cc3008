/* Outputs of a linear op that skip dead neurons, exactly.
 *
 * Live rows: an output with `live` computes only the rows whose gate is above 0 (the `up` matrix of a
 * gated feed-forward with a ReLU); the rest are +0. Live inputs: weights stored neuron-major (`down`)
 * meet only inputs that are not 0 after quantisation. Both multiply in integers, so the bits are those
 * of the dense product. A handful of tokens go one by one, each with its own list; more of them share
 * unpacked weights in a dense product, where skipping no longer pays. */
#include "linear.h"

#include <string.h>

typedef struct sparse_job {
    es_linear_job *linear;
    const es_output *out;
    const es_weight *w;
    int32_t row;      /* of the product: a token */
    int32_t n_listed; /* live rows */
    int32_t n_pieces;
    uint64_t id; /* of this token's product */
} sparse_job;

/* ---- live rows ------------------------------------------------------------------------------- */

/* Rows that a kernel gets at once: each call begins by waiting for its first ones. */
enum { LISTED_ROWS = 512 };

/* y[i] of row rows[i], before the bias. */
static void list_sums(const es_linear_job *linear, const es_weight *w, const es_input *input,
                      int32_t row, const int32_t *rows, int32_t n, float *y) {
    const es_kernels *kernels = &linear->engine->k;
    const size_t at = linear->n_tokens > 1 ? (size_t)row : 0;
    if (es_is_row(w->format)) {
        es_linear_row_list(linear, w, input, at, rows, n, y);
        return;
    }
    int32_t sums[LISTED_ROWS];
    es_ternary_list *dot = w->format == ES_FORMAT_T2 ? kernels->t2_list : kernels->t5_list;
    dot(sums, w->data, w->n_bytes / (size_t)w->n_rows, rows, n, input->q8 + at * input->q8_stride,
        w->k);
    const int shared = es_linear_one_scale(linear, w);
    for (int32_t j = 0; j < n; j++) {
        const float scale = w->scales[shared ? 0 : rows[j]];
        y[j] = (float)(sums[j] - input->sum[at]) * (scale / input->s[at]);
    }
}

void es_linear_list_products(const es_linear_job *linear, const es_output *out,
                             const es_input *input, int32_t row, const int32_t *rows,
                             int32_t n_rows) {
    const es_weight *w = es_linear_weight(linear, out);
    float *dst = es_linear_target(linear, out, out->dst, row);
    for (int32_t i = 0; i < n_rows; i += LISTED_ROWS) {
        const int32_t n = es_min(LISTED_ROWS, n_rows - i);
        float y[LISTED_ROWS];
        list_sums(linear, w, input, row, rows + i, n, y);
        for (int32_t j = 0; j < n; j++) {
            const int32_t r = rows[i + j];
            dst[r] = out->bias != NULL ? y[j] + out->bias[r] : y[j];
        }
    }
}

static void live_piece(void *context, int32_t piece, int32_t thread) {
    const sparse_job *job = context;
    const es_linear_job *linear = job->linear;
    const int32_t begin = es_piece_begin(job->n_listed, piece, job->n_pieces);
    es_linear_list_products(linear, job->out, es_linear_input(linear, thread), job->row,
                            linear->engine->list + begin,
                            es_piece_begin(job->n_listed, piece + 1, job->n_pieces) - begin);
}

void es_linear_listed(es_linear_job *linear, int32_t output, int32_t row, int32_t n_listed) {
    es_engine *engine = linear->engine;
    sparse_job job = {.linear = linear, .out = &linear->op->outputs[output], .row = row};
    job.w = es_linear_weight(linear, job.out);
    job.n_pieces = ES_PIECES_PER_THREAD * es_pool_threads(engine->pool);
    job.n_listed = n_listed;
    memset(es_linear_target(linear, job.out, job.out->dst, row), 0,
           (size_t)job.w->n_rows * sizeof(float));
    es_pool_run(engine->pool, live_piece, &job, job.n_pieces);
    engine->moved += (uint64_t)n_listed * es_linear_row_bytes(job.w);
}

int32_t es_linear_live(const es_linear_job *linear, const es_output *out, int32_t row,
                       int32_t begin, int32_t n_rows, int32_t *list) {
    if (out->live_threshold <= 0.0f) {
        const float *gate = es_linear_target(linear, out, out->live, row) + begin;
        const int32_t n_live = linear->engine->k.list_positive(list, gate, n_rows);
        for (int32_t i = 0; begin > 0 && i < n_live; i++) {
            list[i] += begin;
        }
        return n_live;
    }
    int32_t n_live = 0;
    for (int32_t first = begin; first < begin + n_rows; first += ES_ROW_BLOCK) {
        const int32_t n = es_min(ES_ROW_BLOCK, begin + n_rows - first);
        float room[ES_ROW_BLOCK];
        const float *gate = es_linear_gate(linear, out, row, first, n, room);
        for (int32_t r = 0; r < n; r++) {
            list[n_live] = first + r;
            n_live += gate[r] > 0.0f;
        }
    }
    return n_live;
}

/* Lists the rows that one token needs, and counts them. */
static int32_t list_live(const es_linear_job *linear, const es_output *out, int32_t row) {
    return es_linear_live(linear, out, row, 0, es_linear_weight(linear, out)->n_rows,
                          linear->engine->list);
}

int es_linear_list_pays(int64_t n_live, int64_t n_rows) {
    return 100 * n_live <= ES_DENSE_ROWS_PERCENT * n_rows;
}

static void live_rows(es_linear_job *linear, int32_t output) {
    const es_output *out = &linear->op->outputs[output];
    for (int32_t row = 0; row < linear->n_tokens; row++) {
        es_linear_listed(linear, output, row, list_live(linear, out, row));
    }
}

/* ---- live tiles: one token over weights in tiles of 8 rows -------------------------------------- */

static void tile_piece(void *context, int32_t piece, int32_t thread) {
    const sparse_job *job = context;
    es_engine *engine = job->linear->engine;
    const es_input *input = es_linear_input(job->linear, thread);
    const int32_t end = es_piece_begin(job->n_listed, piece + 1, job->n_pieces);
    for (int32_t i = es_piece_begin(job->n_listed, piece, job->n_pieces); i < end;) {
        const int32_t first = engine->list[i];
        int32_t n_tiles = 1; /* neighbours go together */
        while (i + n_tiles < end && engine->list[i + n_tiles] == first + n_tiles &&
               n_tiles < ES_ROW_BLOCK / 8) {
            n_tiles++;
        }
        es_linear_tiles(job->linear, job->out, input, &engine->scratch[thread], 8 * first,
                        es_min(8 * n_tiles, job->w->n_rows - 8 * first));
        i += n_tiles;
    }
}

/* Lists the tiles with a live row, or returns -1 where too few are dead for that to pay. */
static int32_t list_tiles(const es_linear_job *linear, const es_output *out) {
    const es_weight *w = es_linear_weight(linear, out);
    const int32_t n_tiles = (w->n_rows + 7) / 8;
    int32_t n_listed = 0;
    float room[8];
    for (int32_t tile = 0; tile < n_tiles; tile++) {
        const int32_t n_rows = es_min(8, w->n_rows - 8 * tile);
        const float *gate = es_linear_gate(linear, out, 0, 8 * tile, n_rows, room);
        int is_live = 0;
        for (int32_t r = 0; r < n_rows; r++) {
            is_live |= gate[r] > 0.0f;
        }
        linear->engine->list[n_listed] = tile;
        n_listed += is_live;
    }
    return 100 * (int64_t)n_listed <= ES_DENSE_TILES_PERCENT * (int64_t)n_tiles ? n_listed : -1;
}

void es_linear_listed_tiles(es_linear_job *linear, int32_t output, int32_t n_listed) {
    es_engine *engine = linear->engine;
    sparse_job job = {.linear = linear, .out = &linear->op->outputs[output], .n_listed = n_listed};
    job.w = es_linear_weight(linear, job.out);
    const size_t n_tiles = ((size_t)job.w->n_rows + 7) / 8;
    memset(es_linear_target(linear, job.out, job.out->dst, 0), 0,
           (size_t)job.w->n_rows * sizeof(float));
    job.n_pieces = ES_PIECES_PER_THREAD * es_pool_threads(engine->pool);
    es_pool_run(engine->pool, tile_piece, &job, job.n_pieces);
    engine->moved += (uint64_t)n_listed * (job.w->n_bytes / n_tiles);
}

static int live_tiles(es_linear_job *linear, int32_t output) {
    const int32_t n_listed = list_tiles(linear, &linear->op->outputs[output]);
    if (n_listed >= 0) {
        es_linear_listed_tiles(linear, output, n_listed);
    }
    return n_listed >= 0;
}

static int is_listed(const es_linear_job *linear, const es_output *out) {
    const es_weight *w = es_linear_weight(linear, out);
    if (linear->n_tokens > ES_LISTED_TOKENS || !es_reads_rows(w)) {
        return 0;
    }
    int64_t n_live = 0;
    for (int32_t row = 0; row < linear->n_tokens; row++) {
        n_live += list_live(linear, out, row);
    }
    return es_linear_list_pays(n_live, (int64_t)w->n_rows * linear->n_tokens);
}

/* ---- live inputs ----------------------------------------------------------------------------- */

static void neuron_piece(void *context, int32_t piece, int32_t thread) {
    const sparse_job *job = context;
    es_engine *engine = job->linear->engine;
    es_scratch *scratch = &engine->scratch[thread];
    const es_input *input = es_linear_input(job->linear, thread);
    const size_t at = job->linear->n_tokens > 1 ? (size_t)job->row : 0;
    const int8_t *q = input->q8 + at * input->q8_stride;
    const size_t row_bytes = job->w->n_bytes / (size_t)job->w->k;
    if (scratch->list_job != job->id) {
        scratch->n_listed = engine->k.list_nonzero(scratch->list, q, job->w->k);
        memset(scratch->neurons, 0, row_bytes * 4 * sizeof(int32_t));
        scratch->list_job = job->id;
    }
    const int32_t begin = es_piece_begin(scratch->n_listed, piece, job->n_pieces);
    const int32_t end = es_piece_begin(scratch->n_listed, piece + 1, job->n_pieces);
    engine->k.t2n_sums(scratch->neurons, job->w->data, row_bytes, scratch->list + begin,
                       end - begin, q);
}

/* Adds up what the threads have summed, and finishes the outputs. */
static void merge_neurons(const sparse_job *job) {
    const es_linear_job *linear = job->linear;
    const es_engine *engine = linear->engine;
    const int32_t n_threads = es_pool_threads(engine->pool);
    const es_input *input = es_linear_input(linear, 0);
    for (int32_t first = 0; first < job->w->n_rows; first += ES_ROW_BLOCK) {
        const int32_t n = es_min(ES_ROW_BLOCK, job->w->n_rows - first);
        int32_t sums[ES_ROW_BLOCK] = {0};
        for (int32_t i = 0; i < n_threads; i++) {
            const es_scratch *scratch = &engine->scratch[i];
            if (scratch->list_job == job->id) {
                for (int32_t r = 0; r < n; r++) {
                    sums[r] += scratch->neurons[first + r];
                }
            }
        }
        es_linear_finish(linear, job->out, input, job->row, 1, sums, 0, ES_SUMS_OF_CODES, first, n);
    }
}

static void live_inputs(es_linear_job *linear, int32_t output) {
    es_engine *engine = linear->engine;
    const int32_t n_threads = es_pool_threads(engine->pool);
    sparse_job job = {.linear = linear, .out = &linear->op->outputs[output]};
    job.w = es_linear_weight(linear, job.out);
    /* A piece begins by waiting for memory: one thread takes the list as a whole. */
    job.n_pieces = n_threads > 1 ? ES_PIECES_PER_THREAD * n_threads : 1;
    for (job.row = 0; job.row < linear->n_tokens; job.row++) {
        job.id = ++engine->job;
        es_pool_run(engine->pool, neuron_piece, &job, job.n_pieces);
        merge_neurons(&job);
        for (int32_t i = 0; i < n_threads; i++) {
            const es_scratch *scratch = &engine->scratch[i];
            if (scratch->list_job == job.id) { /* every thread's list is the whole one */
                engine->moved += (uint64_t)scratch->n_listed * (job.w->n_bytes / (size_t)job.w->k) +
                                 es_linear_scale_bytes(job.w);
                break;
            }
        }
    }
}

/* ---- many tokens over neuron-major weights --------------------------------------------------- */

/* Outputs of one work item: kernels for many tokens wait for memory unless they use whole lines, which
 * hold the codes of 256. And its tokens; both together fit the scratch. */
static int32_t neuron_rows(const es_linear_job *linear) {
    return linear->n_tokens >= linear->engine->k.many_tokens ? 2 * ES_NEURON_ROWS : ES_NEURON_ROWS;
}

static int32_t neuron_tokens(const es_linear_job *linear, int32_t k) {
    return es_min(es_linear_token_block(linear, k), ES_MANY_TOKENS / 2);
}

static void neuron_block(void *context, int32_t block, int32_t thread) {
    const sparse_job *job = context;
    const es_linear_job *linear = job->linear;
    const es_engine *engine = linear->engine;
    const es_input *input = es_linear_input(linear, thread);
    const es_weight *w = job->w;
    const int32_t token_block = neuron_tokens(linear, w->k);
    const int32_t n_token_blocks = (linear->n_tokens + token_block - 1) / token_block;
    const int32_t block_rows = neuron_rows(linear), first = block / n_token_blocks * block_rows;
    const int32_t t0 = block % n_token_blocks * token_block;
    const int32_t n_rows = es_min(block_rows, w->n_rows - first);
    const int32_t n_tokens = es_min(token_block, linear->n_tokens - t0);
    int32_t *sums = (int32_t *)(void *)engine->scratch[thread].sums;
    es_ternary_dot *dot =
        n_tokens >= engine->k.many_tokens ? engine->k.t2n_many : engine->k.t2n_dot;
    dot(sums, (size_t)block_rows, w->data + first / 4, w->n_bytes / (size_t)w->k, n_rows,
        input->q8 + (size_t)t0 * input->q8_stride, input->q8_stride, n_tokens, w->k);
    for (int32_t r = 0; r < n_rows; r += ES_NEURON_ROWS) {
        es_linear_finish(linear, job->out, input, t0, n_tokens, sums + r, (size_t)block_rows,
                         ES_SUMS_OF_CODES, first + r, es_min(ES_NEURON_ROWS, n_rows - r));
    }
}

static void neuron_blocks(es_linear_job *linear, int32_t output) {
    sparse_job job = {.linear = linear, .out = &linear->op->outputs[output]};
    job.w = es_linear_weight(linear, job.out);
    const int32_t n_rows = es_ratio_up(job.w->n_rows, neuron_rows(linear));
    const int32_t token_block = neuron_tokens(linear, job.w->k);
    const int32_t n_tokens = (linear->n_tokens + token_block - 1) / token_block;
    es_pool_run(linear->engine->pool, neuron_block, &job, n_rows * n_tokens);
    linear->engine->moved += job.w->n_bytes + es_linear_scale_bytes(job.w);
}

void es_linear_sparse(es_linear_job *linear, int32_t output) {
    const es_output *out = &linear->op->outputs[output];
    const int32_t format = es_linear_weight(linear, out)->format;
    if (out->signs >= 0) {
        es_linear_predicted(linear, output);
    } else if (format == ES_FORMAT_T2N) {
        if (es_linear_looks_up(linear, output, 1)) {
            es_linear_lookup(linear, output);
        } else {
            (linear->n_tokens > ES_LISTED_TOKENS ? neuron_blocks : live_inputs)(linear, output);
        }
    } else if (is_listed(linear, out)) {
        live_rows(linear, output);
    } else if (linear->n_tokens > 1 || !es_has_tiles(es_linear_weight(linear, out)) ||
               !live_tiles(linear, output)) {
        es_linear_products(linear, output, 1);
    }
}
