/* Embed: one dequantised row of a matrix per token, whatever its storage format. */
#include "engine.h"
#include "kernels/dense/dense.h"

#include <string.h>

static float half(const es_kernels *kernels, const uint8_t *at) {
    uint16_t bits;
    float value;
    memcpy(&bits, at, sizeof bits);
    kernels->f16_to_f32(&value, &bits, 1);
    return value;
}

static void ternary_row(float *dst, const es_weight *w, int32_t row) {
    static const int32_t power[5] = {1, 3, 9, 27, 81};
    const size_t row_bytes = w->n_bytes / (size_t)w->n_rows;
    const uint8_t *data = w->data + (size_t)row * row_bytes;
    const int32_t per_block = w->format == ES_FORMAT_T2 ? 128 : 160;
    for (int32_t i = 0; i < w->k; i++) {
        const int32_t at = i % per_block;
        const uint8_t byte = data[i / per_block * 32 + at % 32];
        const int32_t digit = at / 32;
        const int32_t code = w->format == ES_FORMAT_T2 ? (byte >> (6 - 2 * digit)) & 3
                                                       : (((byte * power[digit]) & 255) * 3) >> 8;
        dst[i] = (float)(code - 1) * w->scales[row];
    }
}

static void block_row(const es_kernels *kernels, float *dst, const es_weight *w, int32_t row) {
    const int nibbles = es_is_nibble(w->format), has_min = es_has_minimum(w->format);
    const int32_t zero = es_code_zero(w->format);
    const int32_t n_blocks = (w->k + 31) / 32;
    const size_t tile_bytes = w->n_bytes / (((size_t)w->n_rows + 7) / 8);
    const size_t block_bytes = tile_bytes / (size_t)n_blocks;
    const uint8_t *tile = w->data + (size_t)(row / 8) * tile_bytes;
    const int32_t lane = row % 8;
    for (int32_t i = 0; i < w->k; i++) {
        const uint8_t *block = tile + (size_t)(i / 32) * block_bytes;
        const uint8_t *codes = block + (has_min ? 32 : 16);
        const int32_t column = i % 32;
        int32_t code;
        if (nibbles) {
            const uint8_t byte = codes[column % 16 / 2 * 16 + 2 * lane + column % 2];
            code = (column < 16 ? byte & 15 : byte >> 4) - zero;
        } else if (w->format == ES_FORMAT_Q6) {
            code = es_q6_stored(codes, lane, column) - zero;
        } else {
            code = (int8_t)codes[column / 2 * 16 + 2 * lane + column % 2];
        }
        float value = half(kernels, block + 2 * lane) * (float)code;
        if (has_min) {
            value = value + half(kernels, block + 16 + 2 * lane);
        }
        dst[i] = value;
    }
}

static void float_row(const es_kernels *kernels, float *dst, const es_weight *w, int32_t row) {
    const size_t size = w->format == ES_FORMAT_F32 ? 4 : 2;
    const uint8_t *tile = w->data + (size_t)(row / 8) * (size_t)w->k * 8 * size;
    for (int32_t i = 0; i < w->k; i++) {
        const uint8_t *at = tile + ((size_t)i * 8 + (size_t)(row % 8)) * size;
        if (w->format == ES_FORMAT_F16) {
            dst[i] = half(kernels, at);
        } else {
            uint32_t bits = 0;
            memcpy((uint8_t *)&bits + (4 - size), at, size); /* bf16 is the upper half */
            memcpy(&dst[i], &bits, sizeof bits);
        }
    }
}

void es_weight_row(const es_kernels *kernels, float *dst, const es_weight *w, int32_t row) {
    if (w->format <= ES_FORMAT_T5) {
        ternary_row(dst, w, row);
    } else if (w->format <= ES_FORMAT_Q6) {
        block_row(kernels, dst, w, row);
    } else if (w->format >= ES_FORMAT_BS1 && w->format <= ES_FORMAT_BST) {
        es_slice_embed(kernels, dst, w, row);
    } else {
        float_row(kernels, dst, w, row);
    }
}

typedef struct embed_job {
    const es_engine *engine;
    const es_op *op;
    const es_step *step;
} embed_job;

static void embed_token(const embed_job *job, int32_t token) {
    const es_weight *w = &job->engine->plan.weights[job->op->outputs[0].weight];
    const int32_t row = job->step->tokens[token];
    float *dst = es_row(job->engine, job->op->dst, token);
    es_weight_row(&job->engine->k, dst, w, row);
    if (job->op->scale != 1.0f) {
        for (int32_t i = 0; i < w->k; i++) {
            dst[i] = dst[i] * job->op->scale;
        }
    }
}

static void embed_chunk(void *context, int32_t chunk, int32_t thread) {
    const embed_job *job = context;
    (void)thread;
    const int32_t begin = chunk * ES_TOKENS_PER_CHUNK;
    const int32_t end = es_min(begin + ES_TOKENS_PER_CHUNK, job->step->n_tokens);
    for (int32_t token = begin; token < end; token++) {
        embed_token(job, token);
    }
}

int32_t es_run_embed(es_engine *engine, const es_op *op, const es_step *step) {
    embed_job job = {engine, op, step};
    es_pool_run(engine->pool, embed_chunk, &job, es_token_chunks(step->n_tokens));
    return ES_OK;
}
