#include "memory.h"

#include <stdlib.h>
#include <string.h>

void *es_aligned(size_t n_bytes) {
    void *memory = NULL;
    const size_t size = es_round_up(n_bytes > 0 ? n_bytes : 1, 64);
    return posix_memalign(&memory, 64, size) == 0 ? memory : NULL;
}

int es_input_create(es_input *input, size_t capacity, size_t max_k) {
    input->h_stride = es_round_up(max_k, 16);
    input->q8_stride = es_q8_stride(max_k);
    input->n_blocks = es_round_up(es_round_up(max_k, 32) / 32, 2);
    input->h = es_aligned(capacity * input->h_stride * sizeof(float));
    input->q8 = es_aligned(capacity * input->q8_stride);
    input->s = es_aligned(capacity * sizeof(float));
    input->sum = es_aligned(capacity * sizeof(int32_t));
    input->q16 = es_aligned(capacity * input->n_blocks * 32 * sizeof(int16_t));
    input->d = es_aligned(capacity * input->n_blocks * sizeof(float));
    input->sum16 = es_aligned(capacity * input->n_blocks * sizeof(int32_t));
    input->xsum = es_aligned(capacity * input->n_blocks * sizeof(float));
    return input->h && input->q8 && input->s && input->sum && input->q16 && input->d &&
           input->sum16 && input->xsum;
}

void es_input_destroy(es_input *input) {
    free(input->h);
    free(input->q8);
    free(input->s);
    free(input->sum);
    free(input->q16);
    free(input->d);
    free(input->sum16);
    free(input->xsum);
    memset(input, 0, sizeof *input);
}
