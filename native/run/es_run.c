/* Runs a pre-packed model without Python: reads token ids, continues them greedily, prints a digest
 * (CRC-32) of every row of logits, so that two machines can be compared.
 *
 *   es_run MODEL.esp [-n COUNT] [-t THREADS] [--isa NAME] [--mmap] TOKEN...
 *
 * --mmap maps the file instead of reading it into private memory.
 * Exit status: 0 done, 1 the model cannot do this, 2 wrong arguments, 3 the file cannot be used.
 */
#include "greedy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PROMPT = 1 << 16 };

typedef struct arguments {
    const char *path;
    int32_t n_generate, n_threads, isa;
    int is_mapped;
    int32_t *tokens; /* room for the prompt and what is generated */
    int32_t n_tokens;
} arguments;

static void complain(const char *what, const char *where) {
    fprintf(stderr, "es_run: %s: %s\n", where, what);
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
        } else if (strcmp(argv[i], "--mmap") == 0) {
            args->is_mapped = 1;
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
        fputs("usage: es_run MODEL.esp [-n COUNT] [-t THREADS] [--isa NAME] [--mmap] TOKEN...\n",
              stderr);
        return 0;
    }
    return 1;
}

static void print_token(int32_t token, uint32_t digest) {
    printf("%d %08x\n", (int)token, (unsigned)digest);
}

int main(int argc, char **argv) {
    arguments args = {.tokens = calloc(2 * MAX_PROMPT, sizeof(int32_t))};
    esp_model model;
    int code = 2;
    if (args.tokens != NULL && read_arguments(&args, argc, argv)) {
        code = 3;
        const char *wrong = esp_open(&model, args.path, args.is_mapped);
        if (wrong == NULL) {
            wrong = es_greedy(&model, args.n_threads, args.isa, args.tokens, args.n_tokens,
                              args.n_generate, print_token);
            code = wrong != NULL;
            esp_close(&model);
        }
        if (wrong != NULL) {
            complain(wrong, args.path);
        }
    }
    free(args.tokens);
    return code;
}
