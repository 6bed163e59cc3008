/* The two-stage head: a rough pass over two-bit codes proposes tiles of eight rows, an exact pass over
 * these decides. All other logits are -inf. The truth is edgesparse/ops/two_stage.py. */
#include "linear.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TILE = 8 };

/* An orthogonal rotation, up to a factor that all rows share: Walsh-Hadamard over the powers of two in
 * k, then I - 2/p J over every odd prime factor p. Outliers among the inputs spread over all of them. */
void es_rotate(float *x, int32_t k) {
    int32_t inner = 1;
    for (; k % (2 * inner) == 0; inner *= 2) {
        for (int32_t at = 0; at < k; at += 2 * inner) {
            for (int32_t i = at; i < at + inner; i++) {
                const float a = x[i], b = x[i + inner];
                x[i] = a + b;
                x[i + inner] = a - b;
            }
        }
    }
    for (int32_t p = 3; inner < k; p += 2) {
        for (; k / inner % p == 0; inner *= p) {
            const float factor = 2.0f / (float)p;
            for (int32_t at = 0; at < k; at += p * inner) {
                for (int32_t i = at; i < at + inner; i++) {
                    float sum = x[i];
                    for (int32_t j = 1; j < p; j++) {
                        sum = sum + x[i + j * inner];
                    }
                    sum = sum * factor;
                    for (int32_t j = 0; j < p; j++) {
                        x[i + j * inner] = x[i + j * inner] - sum;
                    }
                }
            }
        }
    }
}

typedef struct proposal_job {
    const es_linear_job *linear;
    const es_input *input;
    float *best; /* [tiles]: largest estimate of its rows */
    int32_t *chosen;
    int32_t unit_tiles;
} proposal_job;

static void propose_chunk(void *context, int32_t chunk, int32_t thread) {
    const proposal_job *job = context;
    const es_linear_job *linear = job->linear;
    const es_op *op = linear->op;
    const int32_t n_rows = es_linear_weight(linear, &op->outputs[0])->n_rows;
    const size_t row_bytes = ((size_t)linear->k + 127) / 128 * 32;
    int32_t *sums = (int32_t *)(void *)linear->engine->scratch[thread].sums;
    const int32_t end = es_min((chunk + 1) * job->unit_tiles * TILE, n_rows);
    for (int32_t row = chunk * job->unit_tiles * TILE; row < end; row += ES_ROW_BLOCK) {
        const int32_t n = es_min(ES_ROW_BLOCK, end - row);
        linear->engine->k.proposal_dot(sums, op->coarse + (size_t)row * row_bytes, row_bytes, n,
                                       job->input->q8);
        for (int32_t r = 0; r < n; r++) {
            const float estimate =
                (float)(2 * sums[r] - 3 * job->input->sum[0]) * op->coarse_scales[row + r];
            float *best = job->best + (row + r) / TILE;
            if ((row + r) % TILE == 0 || estimate > *best) {
                *best = estimate;
            }
        }
    }
}

static void decide_chunk(void *context, int32_t chunk, int32_t thread) {
    const proposal_job *job = context;
    const es_linear_job *linear = job->linear;
    const es_output *out = &linear->op->outputs[0];
    const int32_t first = job->chosen[chunk] * TILE;
    const int32_t end = es_min(first + TILE, es_linear_weight(linear, out)->n_rows);
    es_linear_rows(linear, out, es_linear_input(linear, thread), &linear->engine->scratch[thread],
                   first, end);
}

static int descending(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* The n-th largest of `values`, whose order it changes. */
static float nth_largest(float *values, int32_t count, int32_t n) {
    int32_t low = 0, high = count - 1;
    while (high - low > 32) {
        const float pivot = values[low + (high - low) / 2];
        int32_t i = low, j = high;
        while (i <= j) {
            while (values[i] > pivot) {
                i++;
            }
            while (values[j] < pivot) {
                j--;
            }
            if (i <= j) {
                const float swapped = values[i];
                values[i++] = values[j];
                values[j--] = swapped;
            }
        }
        if (n - 1 <= j) {
            high = j;
        } else if (n - 1 >= i) {
            low = i;
        } else {
            return values[n - 1];
        }
    }
    qsort(values + low, (size_t)(high - low + 1), sizeof *values, descending);
    return values[n - 1];
}

/* The n tiles of the largest estimates, ascending; of equal ones the first. */
static int32_t choose_tiles(int32_t *chosen, const float *best, float *copy, int32_t n_tiles,
                            int32_t n) {
    if (n >= n_tiles) {
        for (int32_t i = 0; i < n_tiles; i++) {
            chosen[i] = i;
        }
        return n_tiles;
    }
    memcpy(copy, best, (size_t)n_tiles * sizeof *best);
    const float border = nth_largest(copy, n_tiles, n);
    int32_t above = 0;
    for (int32_t i = 0; i < n_tiles; i++) {
        above += best[i] > border;
    }
    int32_t count = 0, equal = n - above;
    for (int32_t i = 0; i < n_tiles; i++) {
        if (best[i] > border || (best[i] == border && equal-- > 0)) {
            chosen[count++] = i;
        }
    }
    return count;
}

void es_linear_two_stage(es_linear_job *job) {
    es_engine *engine = job->engine;
    const es_weight *w = es_linear_weight(job, &job->op->outputs[0]);
    const int32_t n_tiles = (w->n_rows + TILE - 1) / TILE;
    const int32_t n_threads = es_pool_threads(engine->pool);
    es_input *rotated = &engine->proposal;
    memcpy(rotated->h, es_linear_input(job, 0)->h, (size_t)job->k * sizeof(float));
    es_rotate(rotated->h, job->k);
    rotated->s[0] = engine->k.quantize_i8(rotated->q8, rotated->sum, rotated->h, job->k,
                                          (int32_t)rotated->q8_stride);
    proposal_job proposal = {.linear = job,
                             .input = rotated,
                             .best = engine->tile_best,
                             .chosen = engine->tiles,
                             .unit_tiles = es_max(8, n_tiles / (n_threads * 4) / 8 * 8)};
    es_pool_run(engine->pool, propose_chunk, &proposal,
                (n_tiles + proposal.unit_tiles - 1) / proposal.unit_tiles);
    const int32_t n = choose_tiles(engine->tiles, engine->tile_best, engine->tile_best + n_tiles,
                                   n_tiles, job->step->n_tiles);
    for (int32_t i = 0; i < engine->plan.n_vocab; i++) {
        job->step->logits[i] = -INFINITY;
    }
    es_pool_run(engine->pool, decide_chunk, &proposal, n);
    engine->moved += (uint64_t)w->n_rows * (((uint64_t)job->k + 127) / 128 * 32 + sizeof(float)) +
                     w->n_bytes / (uint64_t)n_tiles * (uint64_t)n;
}
