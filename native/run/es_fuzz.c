/* Opens and runs pre-packed files with mistakes in them, thousands of each file given: every mutant is
 * refused with one sentence or runs to its end. Built for the sanitizers, which end the process at the
 * first bad read, overflow, leak or allocation that a file of this size has no claim to.
 *
 *   es_fuzz COUNT FIRST FILE.esp...
 *
 * Mutants FIRST to FIRST + COUNT - 1 of each file; a mutant depends on its number alone. */
#include "check/check.h"
#include "run/greedy.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Places in the file, see edgesparse/formats/README.md. */
enum { HEADER_BYTES = 40, ENTRY_BYTES = 40, PLAN_HEAD_BYTES = 56, MOST = 1 << 22 };

/* What the sanitizers call where they are there; no file given here has a megabyte. */
__attribute__((visibility("default"))) const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "max_allocation_size_mb=64:allocator_may_return_null=0";
}
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static const char *current_file;
static long current_number;

static void say_which(void) {
    fprintf(stderr, "es_fuzz: mutant %ld of %s\n", current_number, current_file);
}

/* A good file. */
typedef struct sample {
    uint8_t *bytes;
    size_t n_bytes, plan, plan_bytes;
    uint32_t n_sections;
} sample;

typedef struct mutant {
    uint8_t *bytes;
    size_t n_bytes;
    uint64_t random;
} mutant;

static uint64_t get(const uint8_t *at, int n_bytes) {
    uint64_t value = 0;
    memcpy(&value, at, (size_t)n_bytes); /* both sides are little-endian */
    return value;
}

static size_t below(mutant *m, size_t n) {
    return ((size_t)check_random(&m->random) << 32 | check_random(&m->random)) % n;
}

static uint8_t *entry_of(uint8_t *bytes, uint32_t i) {
    return bytes + HEADER_BYTES + (size_t)i * ENTRY_BYTES;
}

static int read_sample(sample *s, const char *path) {
    FILE *file = fopen(path, "rb");
    memset(s, 0, sizeof *s);
    s->bytes = malloc(MOST);
    if (file == NULL || s->bytes == NULL) {
        return 0;
    }
    s->n_bytes = fread(s->bytes, 1, MOST, file);
    fclose(file);
    s->n_sections = (uint32_t)get(s->bytes + 12, 4);
    for (uint32_t i = 0; i < s->n_sections; i++) {
        const uint8_t *entry = entry_of(s->bytes, i);
        if (strcmp((const char *)entry, "plan") == 0) {
            s->plan = get(entry + 16, 8);
            s->plan_bytes = get(entry + 24, 8);
        }
    }
    return s->plan != 0;
}

/* Makes checksums true again, as somebody who means harm would. */
static void seal(const sample *s, mutant *m) {
    const size_t table_bytes = (size_t)s->n_sections * ENTRY_BYTES;
    for (uint32_t i = 0; i < s->n_sections; i++) {
        uint8_t *entry = entry_of(m->bytes, i);
        const uint64_t offset = get(entry + 16, 8), size = get(entry + 24, 8);
        if (offset <= m->n_bytes && size <= m->n_bytes - offset) {
            const uint32_t crc = esp_crc32(0, m->bytes + offset, size);
            memcpy(entry + 32, &crc, 4);
        }
    }
    const uint32_t table = esp_crc32(0, m->bytes + HEADER_BYTES, table_bytes);
    memcpy(m->bytes + 32, &table, 4);
    const uint32_t header = esp_crc32(0, m->bytes, HEADER_BYTES - 4);
    memcpy(m->bytes + 36, &header, 4);
}

static int32_t odd_number(mutant *m, int32_t old) {
    static const int32_t numbers[] = {
        0,  -1, 1,   2,   3,    7,    8,       16,      31,      32,        33,        64,
        65, 96, 127, 128, 1023, 4096, 1 << 16, 1 << 20, 1 << 24, INT32_MAX, INT32_MIN, -2};
    const int32_t random = (int32_t)check_random(&m->random);
    switch (below(m, 6)) {
    case 0:
        return (int32_t)((uint32_t)old + 1);
    case 1:
        return (int32_t)((uint32_t)old - 1);
    case 2:
        return (int32_t)((uint32_t)old ^ 1u << below(m, 32));
    case 3:
        return random;
    default:
        return numbers[below(m, sizeof numbers / sizeof numbers[0])];
    }
}

static void change_word(mutant *m, size_t at) {
    const int32_t value = odd_number(m, (int32_t)get(m->bytes + at, 4));
    memcpy(m->bytes + at, &value, sizeof value);
}

/* The offset of an array of an op or a weight: another, often shortly before the end, or none. */
static void change_pointer(mutant *m, size_t struct_at, int is_op) {
    static const size_t of_ops[] = {
        offsetof(es_op, norm),       offsetof(es_op, norm_k),     offsetof(es_op, rope),
        offsetof(es_op, factors),    offsetof(es_op, experts),    offsetof(es_op, coarse),
        offsetof(es_op, outputs[0]), offsetof(es_op, outputs[1]), offsetof(es_op, order)};
    static const size_t of_outputs[] = {offsetof(es_output, bias), offsetof(es_output, limits),
                                        offsetof(es_output, live_factors)};
    static const size_t of_weights[] = {offsetof(es_weight, data), offsetof(es_weight, scales)};
    const size_t field = below(m, sizeof of_ops / sizeof of_ops[0]);
    const size_t of_output = of_outputs[below(m, 3)]; /* of the last two */
    const size_t at = is_op ? of_ops[field] + (field < 6 ? 0 : of_output) : of_weights[below(m, 2)];
    const size_t end = m->n_bytes / 64;
    uint64_t place = 0;
    switch (below(m, 5)) {
    case 0:
        place = below(m, end);
        break;
    case 1:
        place = end - below(m, 32);
        break;
    case 2:
        place = end - below(m, 512);
        break;
    case 3:
        place = below(m, SIZE_MAX / 64);
        break;
    default: /* none */
        break;
    }
    const uint64_t offset = 64 * place;
    memcpy(m->bytes + struct_at + at, &offset, sizeof offset);
}

/* A word of the plan: of its head, an op, a weight, a width; or another word, or an offset, instead. */
static void change_plan(const sample *s, mutant *m) {
    const size_t n_ops = get(s->bytes + s->plan + 16, 4), ops = s->plan + PLAN_HEAD_BYTES;
    const size_t n_weights = get(s->bytes + s->plan + 24, 4);
    const size_t weights = ops + n_ops * sizeof(es_op);
    const size_t widths = weights + n_weights * sizeof(es_weight), end = s->plan + s->plan_bytes;
    const size_t begins[] = {s->plan, ops, ops, ops, weights, weights, widths};
    const size_t ends[] = {ops, weights, weights, weights, widths, widths, end};
    const size_t part = below(m, sizeof begins / sizeof begins[0]);
    const size_t at = begins[part] + 4 * below(m, (ends[part] - begins[part]) / 4);
    const size_t other = begins[part] + 4 * below(m, (ends[part] - begins[part]) / 4);
    switch (below(m, 8)) {
    case 0:
        memcpy(m->bytes + at, m->bytes + other, 4);
        break;
    case 1:
        change_pointer(m,
                       part < 4 ? ops + sizeof(es_op) * below(m, n_ops)
                                : weights + sizeof(es_weight) * below(m, n_weights),
                       part < 4);
        break;
    case 2: { /* one op or weight in place of another */
        const size_t size = part < 4 ? sizeof(es_op) : sizeof(es_weight);
        const size_t n = part < 4 ? n_ops : n_weights, first = part < 4 ? ops : weights;
        uint8_t *to = m->bytes + first + size * below(m, n);
        memmove(to, m->bytes + first + size * below(m, n), size);
        break;
    }
    default:
        change_word(m, at);
    }
}

static void mutate(const sample *s, mutant *m) {
    const size_t kind = below(m, 16), n_changes = 1 + below(m, 3);
    const size_t table = HEADER_BYTES + (size_t)s->n_sections * ENTRY_BYTES;
    for (size_t i = 0; i < n_changes; i++) {
        if (kind == 0) { /* damage that a disk does */
            m->bytes[below(m, i == 0 ? table : m->n_bytes)] ^= (uint8_t)(1u << below(m, 8));
        } else if (kind == 1) { /* fields of the header and the table */
            change_word(m, 4 * below(m, table / 4));
        } else if (kind == 2) { /* data: offsets of bitmaps, codes, scales, tables of experts */
            m->bytes[table + below(m, m->n_bytes - table)] = (uint8_t)check_random(&m->random);
        } else if (kind > 3) {
            change_plan(s, m);
        }
    }
    if (kind == 3) { /* cut short, with and without saying so */
        m->n_bytes = below(m, m->n_bytes);
        if (m->n_bytes >= HEADER_BYTES && below(m, 2) == 1) {
            const uint64_t n_bytes = m->n_bytes;
            memcpy(m->bytes + 16, &n_bytes, sizeof n_bytes);
            const uint32_t header = esp_crc32(0, m->bytes, HEADER_BYTES - 4);
            memcpy(m->bytes + 36, &header, 4);
        }
    } else if (kind > 0) {
        seal(s, m);
    }
}

/* Exactly so many, so that the address sanitizer knows where they end. */
static uint8_t *new_bytes(size_t n_bytes) {
    void *bytes = NULL;
    if (posix_memalign(&bytes, 64, n_bytes) != 0) {
        exit(2);
    }
    return bytes;
}

static uint32_t all_digests;

static void take(int32_t token, uint32_t digest) {
    all_digests = all_digests * 31 + digest + (uint32_t)token;
}

enum { RAN, REFUSED_FILE, REFUSED_PLAN, N_ENDS };

static int try_mutant(const sample *s, uint64_t seed) {
    mutant m = {.n_bytes = s->n_bytes, .random = (seed + 1) * 0x9E3779B97F4A7C15ULL};
    int32_t tokens[8] = {3, 5, (int32_t)(seed % 300)};
    esp_model model;
    m.bytes = new_bytes(s->n_bytes);
    memcpy(m.bytes, s->bytes, s->n_bytes);
    mutate(s, &m);
    if (m.n_bytes < s->n_bytes) { /* so that what lies behind its end is not the file's */
        uint8_t *shorter = new_bytes(m.n_bytes);
        memcpy(shorter, m.bytes, m.n_bytes);
        free(m.bytes);
        m.bytes = shorter;
    }
    if (esp_open_bytes(&model, m.bytes, m.n_bytes) != NULL) {
        return REFUSED_FILE;
    }
    const int32_t isa = seed % 4 == 0 ? ES_ISA_SCALAR : es_isa_best();
    const char *wrong = es_greedy(&model, seed % 8 == 7 ? 2 : 1, isa, tokens, 3, 2, take);
    esp_close(&model);
    return wrong == NULL ? RAN : REFUSED_PLAN;
}

int main(int argc, char **argv) {
    const long count = argc > 3 ? atol(argv[1]) : 0, first = argc > 3 ? atol(argv[2]) : 0;
    long ends[N_ENDS] = {0};
    if (count < 1 || first < 0) {
        fputs("usage: es_fuzz COUNT FIRST FILE.esp...\n", stderr);
        return 2;
    }
    if (__sanitizer_set_death_callback != NULL) {
        __sanitizer_set_death_callback(say_which);
    }
    for (int i = 3; i < argc; i++) {
        sample s;
        if (!read_sample(&s, argv[i])) {
            fprintf(stderr, "es_fuzz: %s is no pre-packed model\n", argv[i]);
            return 2;
        }
        current_file = argv[i];
        for (current_number = first; current_number < first + count; current_number++) {
            ends[try_mutant(&s, (uint64_t)current_number)]++;
        }
        free(s.bytes);
    }
    printf(
        "es_fuzz: %ld mutants of %d files: %ld refused by the reader, %ld by the engine, %ld ran "
        "(%08x)\n",
        count * (argc - 3), argc - 3, ends[REFUSED_FILE], ends[REFUSED_PLAN], ends[RAN],
        (unsigned)all_digests);
    return 0;
}
