/* Outputs whose rows are computed only where they may be needed: gates that sign planes do not predict
 * to be dead, in tiled formats with their tiles.
 *
 * A predicted row is 0 whether it was computed or not, so the bits do not depend on how many tokens come
 * together: few go one by one and skip, many are computed and then masked. */
#include "linear.h"

#include <string.h>

enum { TILE_ROWS = 8 };

/* Above this share of tiles the dense product, which reads on without a gap, is as fast. */
static const float DENSE_TILES = 0.75f;

typedef struct predict_job {
    es_linear_job *linear;
    const es_output *out;
    const es_weight *w;
    const es_weight *signs;
    int32_t row; /* of the product: a token */
    int32_t n_pieces;
} predict_job;

static int is_masked(const es_weight *signs) {
    return signs->format == ES_FORMAT_SIGNS_MASKED;
}

/* Votes against rows [begin, end). */
static void vote(const predict_job *job, int32_t *votes, const uint8_t *bits, int32_t begin,
                 int32_t end) {
    const size_t row_bytes = job->signs->n_bytes / (size_t)job->signs->n_rows;
    job->linear->engine->k.sign_votes(votes, job->signs->data + (size_t)begin * row_bytes,
                                      row_bytes / (is_masked(job->signs) ? 2 : 1),
                                      is_masked(job->signs), end - begin, bits);
}

static void take_signs(const predict_job *job, uint8_t *bits, const es_input *input, size_t at) {
    const es_engine *engine = job->linear->engine;
    const size_t row_bytes = job->signs->n_bytes / (size_t)job->signs->n_rows;
    engine->k.sign_bits(bits, row_bytes / (is_masked(job->signs) ? 2 : 1),
                        input->h + at * input->h_stride, job->linear->k);
}

/* ---- tiles of one token ---------------------------------------------------------------------- */

/* Computes the tiles that hold a row of the engine's list, or all of them if most do. */
static void tiles_of_rows(const predict_job *job, int32_t n_listed) {
    int32_t *list = job->linear->engine->list, n_tiles = 0;
    for (int32_t i = 0; i < n_listed; i++) {
        const int32_t tile = list[i] / TILE_ROWS;
        if (n_tiles == 0 || list[n_tiles - 1] != tile) {
            list[n_tiles++] = tile; /* never ahead of what is still to be read */
        }
    }
    const int32_t all_tiles = (job->w->n_rows + TILE_ROWS - 1) / TILE_ROWS;
    const int32_t output = (int32_t)(job->out - job->linear->op->outputs);
    if ((float)n_tiles > DENSE_TILES * (float)all_tiles) {
        es_linear_products(job->linear, output, 1);
    } else {
        es_linear_listed_tiles(job->linear, output, n_tiles);
    }
}

/* ---- predicted rows -------------------------------------------------------------------------- */

static void vote_piece(void *context, int32_t piece, int32_t thread) {
    const predict_job *job = context;
    const es_engine *engine = job->linear->engine;
    const int32_t begin = es_piece_begin(job->w->n_rows, piece, job->n_pieces);
    (void)thread;
    vote(job, engine->votes + begin, engine->scratch[0].bits, begin,
         es_piece_begin(job->w->n_rows, piece + 1, job->n_pieces));
}

/* Lists the rows of one token that are not predicted to be dead. */
static int32_t list_kept(predict_job *job) {
    es_linear_job *linear = job->linear;
    es_engine *engine = linear->engine;
    const es_input *input = es_linear_input(linear, 0);
    take_signs(job, engine->scratch[0].bits, input, linear->n_tokens > 1 ? (size_t)job->row : 0);
    es_pool_run(engine->pool, vote_piece, job, job->n_pieces);
    int32_t n_kept = 0;
    for (int32_t r = 0; r < job->w->n_rows; r++) {
        engine->list[n_kept] = r;
        n_kept += engine->votes[r] <= job->out->limits[r];
    }
    return n_kept;
}

static void predicted_tiles(predict_job *job) {
    tiles_of_rows(job, list_kept(job));
    float *dst = es_row(job->linear->engine, job->out->dst, es_linear_token(job->linear, 0));
    for (int32_t r = 0; r < job->w->n_rows; r++) {
        dst[r] = job->linear->engine->votes[r] <= job->out->limits[r] ? dst[r] : 0.0f;
    }
}

static void mask_token(void *context, int32_t row, int32_t thread) {
    enum { MAX_ROWS = ES_NEURON_ROWS * ES_TOKEN_BLOCK };
    const predict_job *job = context;
    const es_engine *engine = job->linear->engine;
    es_scratch *scratch = &engine->scratch[thread];
    int32_t *votes = (int32_t *)(void *)scratch->sums;
    float *dst = es_row(engine, job->out->dst, es_linear_token(job->linear, row));
    take_signs(job, scratch->bits, &engine->input, (size_t)row);
    for (int32_t first = 0; first < job->w->n_rows; first += MAX_ROWS) {
        const int32_t end = es_min(first + MAX_ROWS, job->w->n_rows);
        vote(job, votes, scratch->bits, first, end);
        for (int32_t r = first; r < end; r++) {
            dst[r] = votes[r - first] <= job->out->limits[r] ? dst[r] : 0.0f;
        }
    }
}

void es_linear_predicted(es_linear_job *linear, int32_t output) {
    es_engine *engine = linear->engine;
    predict_job job = {.linear = linear, .out = &linear->op->outputs[output]};
    job.w = es_linear_weight(linear, job.out);
    job.signs = &engine->plan.weights[job.out->signs];
    job.n_pieces = ES_PIECES_PER_THREAD * es_pool_threads(engine->pool);
    engine->moved += job.signs->n_bytes;
    if (es_reads_rows(job.w) && linear->n_tokens <= ES_LISTED_TOKENS) {
        for (job.row = 0; job.row < linear->n_tokens; job.row++) {
            es_linear_listed(linear, output, job.row, list_kept(&job));
        }
    } else if (es_has_tiles(job.w) && linear->n_tokens == 1) {
        predicted_tiles(&job);
    } else {
        es_linear_products(linear, output, 1);
        es_pool_run(engine->pool, mask_token, &job, linear->n_tokens);
    }
}
