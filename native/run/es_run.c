/* Runs a pre-packed model without Python: reads token ids, continues them greedily, prints a digest
 * (CRC-32) of every row of logits, so that two machines can be compared.
 *
 *   es_run MODEL.esp [-n COUNT] [-t THREADS] [--isa NAME] TOKEN...
 */
#include "esp.h"

#include "src/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PROMPT = 1 << 16, CHUNK = 128 };

typedef struct arguments {
    const char *path;
    int32_t n_generate, n_threads, isa;
    int32_t *tokens; /* room for the prompt and what is generated */
    int32_t n_tokens;
} arguments;

static int complain(const char *what, const char *where) {
    fprintf(stderr, "es_run: %s: %s\n", where, what);
    return 1;
}

static int read_number(const char *text, int32_t least, int32_t most, int32_t *number) {
    char *end;
    const long value = strtol(text, &end, 10);
    *number = (int32_t)value;
    return end != text && *end == '\0' && value >= least && value <= most;
}

static int find_isa(const char *name, int32_t *isa) {
    for (*isa = 0; *isa < ES_ISA_COUNT; ++*isa) {
        if (strcmp(es_isa_name(*isa), name) == 0) {
            return es_isa_supported(*isa);
        }
    }
    return 0;
}

static int read_arguments(arguments *args, int argc, char **argv) {
    args->n_generate = 16;
    args->n_threads = 1;
    args->isa = es_isa_best();
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        int good = 1;
        if (strcmp(argv[i], "-n") == 0) {
            good = read_number(value, 0, MAX_PROMPT, &args->n_generate);
            i++;
        } else if (strcmp(argv[i], "-t") == 0) {
            good = read_number(value, 1, 1024, &args->n_threads);
            i++;
        } else if (strcmp(argv[i], "--isa") == 0) {
            good = find_isa(value, &args->isa);
            i++;
        } else if (args->path == NULL) {
            args->path = argv[i];
        } else {
            good = args->n_tokens < MAX_PROMPT &&
                   read_number(argv[i], 0, INT32_MAX, &args->tokens[args->n_tokens++]);
        }
        if (!good) {
            complain("cannot be used", i < argc ? argv[i] : "the last argument");
            return 0;
        }
    }
    if (args->path == NULL || args->n_tokens == 0) {
        fputs("usage: es_run MODEL.esp [-n COUNT] [-t THREADS] [--isa NAME] TOKEN...\n", stderr);
        return 0;
    }
    return 1;
}

/* Runs tokens [begin, end), the logits of the last one. */
static int32_t forward(es_engine *engine, int32_t n_ops, const int32_t *tokens, int32_t begin,
                       int32_t end, const es_cache *cache, float *logits) {
    static const int32_t zeros[CHUNK];
    for (int32_t first = begin; first < end; first += CHUNK) {
        int32_t positions[CHUNK];
        const int32_t n = end - first < CHUNK ? end - first : CHUNK, last = n - 1;
        for (int32_t i = 0; i < n; i++) {
            positions[i] = first + i;
        }
        const es_step step = {.n_tokens = n,
                              .n_outputs = first + n == end,
                              .n_caches = 1,
                              .sparse_from = INT32_MAX,
                              .tokens = tokens + first,
                              .positions = positions,
                              .sequences = zeros,
                              .outputs = &last,
                              .caches = cache,
                              .logits = logits};
        const int32_t status = es_engine_run(engine, &step, 0, n_ops);
        if (status != ES_OK) {
            return status;
        }
    }
    return ES_OK;
}

static int32_t largest(const float *logits, int32_t n) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

static int generate(es_engine *engine, const es_plan *plan, arguments *args, const es_cache *cache,
                    float *logits) {
    int32_t begin = 0, end = args->n_tokens;
    for (int32_t i = 0; i < args->n_generate; i++) {
        const int32_t status =
            forward(engine, plan->n_ops, args->tokens, begin, end, cache, logits);
        if (status != ES_OK) {
            return complain("the engine refuses the tokens", args->path);
        }
        const int32_t token = largest(logits, plan->n_vocab);
        printf("%d %08x\n", (int)token,
               (unsigned)esp_crc32(0, (const uint8_t *)logits, (size_t)plan->n_vocab * 4));
        args->tokens[end] = token;
        begin = end++;
    }
    return 0;
}

/* Of all heads at one position of the layer that needs most, times layers and positions. */
static size_t cache_bytes(const es_plan *plan, int32_t type, int32_t capacity) {
    size_t row_bytes = 1;
    for (int32_t i = 0; i < plan->n_ops; i++) {
        const es_op *op = &plan->ops[i];
        if (op->kind == ES_OP_ROPE_KV || op->kind == ES_OP_ATTENTION) {
            const size_t n = (size_t)op->n_kv_heads * es_cache_row_bytes(type, op->head_dim);
            row_bytes = n > row_bytes ? n : row_bytes;
        }
    }
    return row_bytes * (size_t)plan->n_layers * (size_t)capacity;
}

static int run(const esp_model *model, arguments *args) {
    const int32_t capacity = args->n_tokens + args->n_generate;
    int32_t status;
    if (capacity > model->plan.n_ctx) {
        return complain("its context is shorter than these tokens", args->path);
    }
    es_engine *engine = es_engine_create(&model->plan, args->n_threads, args->isa, &status);
    if (engine == NULL) {
        return complain(status == ES_E_MEMORY ? "no memory for the engine"
                                              : "the plan is not valid",
                        args->path);
    }
    const es_cache cache = {
        .keys = calloc(cache_bytes(&model->plan, model->plan.cache_type_k, capacity), 1),
        .values = calloc(cache_bytes(&model->plan, model->plan.cache_type_v, capacity), 1),
        .capacity = capacity,
    };
    float *logits = malloc((size_t)model->plan.n_vocab * sizeof *logits);
    int code;
    if (cache.keys == NULL || cache.values == NULL || logits == NULL) {
        code = complain("no memory for the cache", args->path);
    } else {
        code = generate(engine, &model->plan, args, &cache, logits);
    }
    free(logits);
    free(cache.keys);
    free(cache.values);
    es_engine_destroy(engine);
    return code;
}

int main(int argc, char **argv) {
    arguments args = {.tokens = calloc(2 * MAX_PROMPT, sizeof(int32_t))};
    esp_model model;
    int code = 2;
    if (args.tokens != NULL && read_arguments(&args, argc, argv)) {
        const char *wrong = esp_open(&model, args.path);
        if (wrong != NULL) {
            complain(wrong, args.path);
            code = 3;
        } else {
            code = run(&model, &args);
            esp_close(&model);
        }
    }
    free(args.tokens);
    return code;
}
