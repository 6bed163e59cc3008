/* Reads a pre-packed file into private memory (a mapped one that somebody cuts short would end the
 * process) and turns the offsets in its plan into pointers, each after a check of what it is to hold. */
#include "esp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEADER_BYTES = 40, ENTRY_BYTES = 40, PLAN_HEAD_BYTES = 56, VERSION = 1, PLAN_VERSION = 2 };
enum { MAX_SECTIONS = 1 << 18, MAX_PLAN_ITEMS = 1 << 20, SMALL = 64, LARGE = 1 << 16 };
static const char magic[8] = {'E', 'D', 'G', 'E', 'S', 'P', '\r', '\n'};

static uint32_t u32_at(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t u64_at(const uint8_t *p) {
    return (uint64_t)u32_at(p) | (uint64_t)u32_at(p + 4) << 32;
}

uint32_t esp_crc32(uint32_t crc, const uint8_t *bytes, size_t n_bytes) {
    static uint32_t table[256];
    if (table[1] == 0) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int bit = 0; bit < 8; bit++) {
                c = (c >> 1) ^ (c & 1 ? 0xEDB88320u : 0);
            }
            table[i] = c;
        }
    }
    crc = ~crc;
    for (size_t i = 0; i < n_bytes; i++) {
        crc = (crc >> 8) ^ table[(crc ^ bytes[i]) & 255];
    }
    return ~crc;
}

static const char *read_bytes(esp_model *model, FILE *file) {
    void *memory = NULL;
    if (posix_memalign(&memory, LARGE, model->n_bytes) != 0) {
        return "there is no memory for the file";
    }
    model->bytes = memory;
    return fread(memory, 1, model->n_bytes, file) == model->n_bytes ? NULL
                                                                    : "the file is truncated";
}

/* What a mapped file's other writers do to it would happen to this process. */
static const char *map_bytes(esp_model *model, FILE *file, const struct stat *status) {
    if ((status->st_uid != 0 && status->st_uid != geteuid()) ||
        (status->st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        return "others can write this file, so it is not mapped";
    }
    void *memory = mmap(NULL, model->n_bytes, PROT_READ, MAP_PRIVATE, fileno(file), 0);
    if (memory == MAP_FAILED) {
        return "the file cannot be mapped";
    }
    model->bytes = memory;
    model->is_mapped = 1;
    return NULL;
}

static const char *read_file(esp_model *model, const char *path, int mapped) {
    FILE *file = fopen(path, "rb");
    struct stat status;
    if (file == NULL || fstat(fileno(file), &status) != 0 || !S_ISREG(status.st_mode)) {
        if (file != NULL) {
            fclose(file);
        }
        return "the file cannot be opened";
    }
    model->n_bytes = (size_t)status.st_size;
    const char *wrong = model->n_bytes < HEADER_BYTES ? "the file is truncated"
                        : mapped                      ? map_bytes(model, file, &status)
                                                      : read_bytes(model, file);
    fclose(file);
    return wrong;
}

/* The table's rule: sections tile the file, each at the next multiple of its alignment. */
static const char *check_sections(const esp_model *model, uint32_t count, const uint8_t **plan,
                                  size_t *plan_bytes) {
    const uint64_t n_bytes = model->n_bytes;
    uint64_t end = HEADER_BYTES + (uint64_t)count * ENTRY_BYTES;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *entry = model->bytes + HEADER_BYTES + (size_t)i * ENTRY_BYTES;
        const uint64_t offset = u64_at(entry + 16), size = u64_at(entry + 24);
        const uint64_t align = size >= LARGE ? LARGE : SMALL;
        if (offset != (end + align - 1) / align * align || offset > n_bytes ||
            size > n_bytes - offset || u32_at(entry + 36) != 0) {
            return "a section lies outside the file or not where it should";
        }
        if (esp_crc32(0, model->bytes + offset, (size_t)size) != u32_at(entry + 32)) {
            return "a section's checksum does not match";
        }
        if (memcmp(entry, "plan\0\0\0\0\0\0\0\0\0\0\0", 16) == 0) {
            if (*plan != NULL) {
                return "there are two plans";
            }
            *plan = model->bytes + offset;
            *plan_bytes = (size_t)size;
        }
        end = offset + size;
    }
    return end != n_bytes  ? "there are bytes behind the last section"
           : *plan == NULL ? "there is no plan"
                           : NULL;
}

static const char *check_container(esp_model *model, const uint8_t **plan, size_t *plan_bytes) {
    const uint8_t *header = model->bytes;
    const uint32_t count = u32_at(header + 12);
    if (memcmp(header, magic, sizeof magic) != 0) {
        return "this is no pre-packed model";
    }
    if (esp_crc32(0, header, HEADER_BYTES - 4) != u32_at(header + 36)) {
        return "the header's checksum does not match";
    }
    if (u32_at(header + 8) != VERSION || u64_at(header + 24) != 0) {
        return "the file has another version: convert the model again";
    }
    if (u64_at(header + 16) != model->n_bytes) {
        return "the file is truncated";
    }
    if (count < 1 || count > MAX_SECTIONS ||
        HEADER_BYTES + (uint64_t)count * ENTRY_BYTES > model->n_bytes) {
        return "the table does not fit into the file";
    }
    if (esp_crc32(0, header + HEADER_BYTES, (size_t)count * ENTRY_BYTES) != u32_at(header + 32)) {
        return "the table's checksum does not match";
    }
    return check_sections(model, count, plan, plan_bytes);
}

/* Turns an offset into a pointer to n_bytes; 0 stays NULL. Returns 0 if they are not all there. */
static int resolve(const esp_model *model, void *field, uint64_t n_bytes) {
    void *pointer;
    memcpy(&pointer, field, sizeof pointer);
    const uint64_t offset = (uint64_t)(uintptr_t)pointer;
    if (offset == 0) {
        return 1;
    }
    if (offset % SMALL != 0 || offset > model->n_bytes || n_bytes > model->n_bytes - offset) {
        return 0;
    }
    pointer = model->bytes + offset;
    memcpy(field, &pointer, sizeof pointer);
    return 1;
}
#define RESOLVE(field, n_bytes) resolve(model, (void *)&(field), (uint64_t)(n_bytes))

static uint64_t width_of(const esp_model *model, int32_t buffer) {
    return buffer >= 0 && buffer < model->plan.n_buffers ? (uint64_t)model->widths[buffer] : 0;
}

static int resolve_outputs(const esp_model *model, es_op *op) {
    for (int32_t i = 0; i < ES_MAX_OUTPUTS; i++) {
        es_output *out = &op->outputs[i];
        uint64_t n_rows = 0;
        if (i < op->n_outputs) {
            if (out->weight < 0 || out->weight >= model->plan.n_weights) {
                return 0;
            }
            n_rows = (uint64_t)model->weights[out->weight].n_rows;
        } else if (out->bias != NULL || out->live_factors != NULL || out->limits != NULL) {
            return 0;
        }
        if (!RESOLVE(out->bias, 4 * n_rows) || !RESOLVE(out->live_factors, 4 * n_rows) ||
            !RESOLVE(out->limits, 4 * n_rows)) {
            return 0;
        }
    }
    return 1;
}

static uint64_t k_of(const esp_model *model, const es_op *op) {
    const int32_t k = model->weights[op->outputs[0].weight].k;
    return k > 0 ? (uint64_t)k : UINT32_MAX;
}

static int resolve_op(const esp_model *model, es_op *op) {
    const es_plan *plan = &model->plan;
    if (op->n_outputs < 0 || op->n_outputs > ES_MAX_OUTPUTS || op->n_experts < 0 ||
        op->n_experts > ES_MAX_EXPERTS || op->rope_dim < 0 || op->head_dim < 0 ||
        op->coarse != NULL || op->coarse_scales != NULL) {
        return 0;
    }
    const int is_rope = op->kind == ES_OP_ROPE_KV;
    const uint64_t norm = is_rope ? (uint64_t)op->head_dim : width_of(model, op->src);
    const uint64_t table = (uint64_t)plan->n_ctx * (uint64_t)op->rope_dim;
    const uint64_t experts = (uint64_t)op->n_experts * (uint64_t)op->n_outputs;
    return RESOLVE(op->norm, 4 * norm) && RESOLVE(op->norm_k, 4 * (uint64_t)op->head_dim) &&
           RESOLVE(op->rope, 4 * table) && RESOLVE(op->factors, 4 * width_of(model, op->src)) &&
           RESOLVE(op->experts, 4 * experts) && resolve_outputs(model, op) &&
           RESOLVE(op->order, 4 * (op->n_outputs > 0 ? k_of(model, op) : 0));
}

/* Whether an op writes logits; the engine checks that their number is n_vocab. */
static int makes_logits(const es_plan *plan) {
    for (int32_t i = 0; i < plan->n_ops; i++) {
        const es_op *op = &plan->ops[i];
        for (int32_t j = 0; op->kind == ES_OP_LINEAR && j < op->n_outputs; j++) {
            if (op->outputs[j].dst == -1) {
                return 1;
            }
        }
    }
    return 0;
}

static const char *read_plan(esp_model *model, const uint8_t *at, size_t n_bytes) {
    if (n_bytes < PLAN_HEAD_BYTES) {
        return "the plan is truncated";
    }
    if (u32_at(at) != PLAN_VERSION || u32_at(at + 4) != sizeof(es_op) ||
        u32_at(at + 8) != sizeof(es_weight) || u32_at(at + 12) != 0) {
        return "the plan was written by another build: convert the model again";
    }
    int32_t numbers[10];
    memcpy(numbers, at + 16, sizeof numbers);
    for (int i = 0; i < 8; i++) {
        if (numbers[i] < 1) {
            return "a number in the plan is out of range";
        }
    }
    const size_t n_ops = (size_t)numbers[0], n_buffers = (size_t)numbers[1];
    const size_t n_weights = (size_t)numbers[2];
    if (n_ops > MAX_PLAN_ITEMS || n_buffers > MAX_PLAN_ITEMS || n_weights > MAX_PLAN_ITEMS ||
        n_bytes != PLAN_HEAD_BYTES + n_ops * sizeof(es_op) + n_weights * sizeof(es_weight) +
                       n_buffers * sizeof(int32_t)) {
        return "the plan's length is not that of its parts";
    }
    model->ops = malloc(n_ops * sizeof *model->ops);
    model->weights = malloc(n_weights * sizeof *model->weights);
    model->widths = malloc(n_buffers * sizeof *model->widths);
    if (model->ops == NULL || model->weights == NULL || model->widths == NULL) {
        return "there is no memory for the plan";
    }
    at += PLAN_HEAD_BYTES;
    memcpy(model->ops, at, n_ops * sizeof *model->ops);
    at += n_ops * sizeof *model->ops;
    memcpy(model->weights, at, n_weights * sizeof *model->weights);
    at += n_weights * sizeof *model->weights;
    memcpy(model->widths, at, n_buffers * sizeof *model->widths);
    model->plan = (es_plan){.n_ops = numbers[0],
                            .n_buffers = numbers[1],
                            .n_weights = numbers[2],
                            .n_layers = numbers[3],
                            .n_ctx = numbers[4],
                            .n_vocab = numbers[5],
                            .max_tokens = numbers[6],
                            .kv_dim = numbers[7],
                            .cache_type_k = numbers[8],
                            .cache_type_v = numbers[9],
                            .ops = model->ops,
                            .widths = model->widths,
                            .weights = model->weights};
    if (model->plan.n_layers > model->plan.n_ops) {
        return "the plan has more layers than ops";
    }
    uint64_t width = 0;
    for (size_t i = 0; i < n_buffers; i++) {
        if (model->widths[i] < 1) {
            return "a buffer of the plan has no width";
        }
        width += (uint64_t)model->widths[i];
    }
    /* What is in a buffer comes from the rows of a matrix or goes to its columns. */
    if (width > model->n_bytes) {
        return "the plan's buffers are wider than all its matrices";
    }
    for (size_t i = 0; i < n_weights; i++) {
        es_weight *w = &model->weights[i];
        if (w->n_rows < 1 || !RESOLVE(w->data, w->n_bytes) ||
            !RESOLVE(w->scales, 4 * (uint64_t)w->n_rows)) {
            return "a weight lies outside the file";
        }
    }
    for (size_t i = 0; i < n_ops; i++) {
        if (!resolve_op(model, &model->ops[i])) {
            return "an op of the plan names what is not there";
        }
    }
    return makes_logits(&model->plan) ? NULL : "the plan makes no logits";
}

/* Turns what has been read into a model. */
static const char *parse(esp_model *model) {
    const uint8_t *plan = NULL;
    size_t plan_bytes = 0;
    const char *wrong = check_container(model, &plan, &plan_bytes);
    return wrong == NULL ? read_plan(model, plan, plan_bytes) : wrong;
}

const char *esp_open(esp_model *model, const char *path, int mapped) {
    memset(model, 0, sizeof *model);
    const char *wrong = read_file(model, path, mapped);
    if (wrong == NULL) {
        wrong = parse(model);
    }
    if (wrong != NULL) {
        esp_close(model);
    }
    return wrong;
}

const char *esp_open_bytes(esp_model *model, uint8_t *bytes, size_t n_bytes) {
    memset(model, 0, sizeof *model);
    model->bytes = bytes;
    model->n_bytes = n_bytes;
    const char *wrong = n_bytes < HEADER_BYTES ? "the file is truncated" : parse(model);
    if (wrong != NULL) {
        esp_close(model);
    }
    return wrong;
}

void esp_close(esp_model *model) {
    free(model->ops);
    free(model->weights);
    free(model->widths);
    if (model->is_mapped) {
        munmap(model->bytes, model->n_bytes);
    } else {
        free(model->bytes);
    }
    memset(model, 0, sizeof *model);
}
