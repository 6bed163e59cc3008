/* Runs one kernel a number of times, for counting its instructions: kernels NAME ISA TOKENS TIMES.
 * Prints the weights that one call multiplies by each token, the bytes that each takes, and the variant. */
#include "kernels.h"
#include "kernels/dense/dense.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Attention: four heads that share one of keys and values, one chunk of the cache. A cached number is a
 * weight that every head of the token multiplies. */
enum { ROWS = 128, K = 2560, MAX_TOKENS = 16, HEADS = 4, HEAD_DIM = 128, KEPT = HEAD_DIM / 2 };
enum { MATRIX = ROWS * K, CACHED = ES_CACHE_CHUNK * HEAD_DIM, OUT_BYTES = 1 << 17 };

static void *filled(size_t n_bytes, int byte) {
    void *p = NULL;
    if (posix_memalign(&p, 64, n_bytes + 4096) != 0) {
        exit(2);
    }
    return memset(p, byte, n_bytes + 4096);
}

typedef struct work {
    const es_kernels *table;
    const uint8_t *w;
    int32_t tokens;
    es_q16 q16;
    es_q8 q8;
    es_columns live;
    float *x, *y, *scratch;
    int32_t *sums, *list;
    uint8_t *sparse, *split, *pruned, *out;
    int32_t *centre;
    uint16_t *halfs;
} work;

typedef struct kernel {
    const char *name, *family; /* of es_kernel_variant; NULL: it does not name this one's */
    double bytes_per_weight;   /* 0: as packed, or none */
    int n_weights;             /* that one call multiplies by each token */
    void (*run)(const work *k);
    size_t entry; /* in es_kernels, where `family` is NULL */
} kernel;

#define TERNARY(name, row_bytes)                                                            \
    static void run_##name(const work *k) {                                                 \
        k->table->name##_dot(k->sums, ROWS, k->w, row_bytes, ROWS, k->q8.q, k->q8.q_stride, \
                             k->tokens, K);                                                 \
    }                                                                                       \
    static void run_##name##_list(const work *k) {                                          \
        k->table->name##_list(k->sums, k->w, row_bytes, k->list, ROWS, k->q8.q, K);         \
    }
TERNARY(t2, K / 4)
TERNARY(t5, K / 5)

/* One packed row of ROWS outputs for every input. */
static void run_t2n(const work *k) {
    k->table->t2n_dot(k->sums, ROWS, k->w, ROWS / 4, ROWS, k->q8.q, k->q8.q_stride, k->tokens, K);
}

static void run_t2n_sums(const work *k) {
    k->table->t2n_sums(k->sums, k->w, K / 4, k->list, ROWS, k->q8.q);
}

#define SLICES(kind)                                                                     \
    static void run_bst_##kind(const work *k) {                                          \
        k->table->bst_##kind(k->sums, ROWS, k->w, ROWS / 64, &k->q8, k->tokens, K / 32); \
    }                                                                                    \
    static void run_bs2_##kind(const work *k) {                                          \
        const es_slices s = {2, K / 32, 4, ES_ZEROS_NONE, 0};                            \
        k->table->slice_##kind(k->y, ROWS, k->w, &s, ROWS / 64, &k->q8, k->tokens);      \
    }
SLICES(lut)
SLICES(mad)

static void run_bs2_rounded(const work *k) {
    const es_slices s = {2, K / 32, 4, ES_ZEROS_NONE, 0};
    k->table->slice_rounded(k->y, ROWS, k->w, &s, ROWS / 64, &k->q8, k->tokens);
}

static void run_tables(const work *k) {
    k->table->slice_tables((uint8_t *)(uintptr_t)k->q8.tables, k->q8.q, k->tokens * K / 32);
}

#define BLOCKS(name)                                                                              \
    static void run_##name(const work *k) {                                                       \
        k->table->name##_dot(k->y, ROWS, k->w, ROWS / ES_TILE, &k->q16, k->tokens, K / ES_BLOCK); \
    }
BLOCKS(q8)
BLOCKS(q4)
BLOCKS(q8m)
BLOCKS(q4m)
BLOCKS(q6)

/* All columns, as one tile; `list` takes them for live ones of one token. */
#define COLUMNS(name, format)                                                       \
    static void run_##name(const work *k) {                                         \
        const size_t width = ROWS / es_line_rows(format);                           \
        const es_column_lines lines = {k->w, width, 0, width};                      \
        k->table->name##_dot(k->y, ROWS, &lines, &k->q16, k->tokens, K / ES_BLOCK); \
    }                                                                               \
    static void run_##name##_list(const work *k) {                                  \
        const size_t width = ROWS / es_line_rows(format);                           \
        const es_column_lines lines = {k->w, width, 0, width};                      \
        k->table->name##_list(k->y, &lines, &k->live, &k->q16, K / ES_BLOCK);       \
    }
COLUMNS(q8n, ES_FORMAT_Q8N)
COLUMNS(q4n, ES_FORMAT_Q4N)
COLUMNS(q8mn, ES_FORMAT_Q8MN)
COLUMNS(q4mn, ES_FORMAT_Q4MN)

static void run_list_columns(const work *k) {
    k->table->list_columns((es_live_pair *)(uintptr_t)k->live.pairs,
                           (int32_t *)(uintptr_t)k->live.begin, k->q16.q, K / ES_BLOCK);
}

/* All rows of a list, and tiles made of all. */
#define ROWWISE(name, format)                                                                     \
    static void run_##name##_list(const work *k) {                                                \
        const size_t row_bytes = es_row_bytes(format, K / ES_BLOCK);                              \
        k->table->row_list[format - ES_FORMAT_Q8R](k->y, k->w, row_bytes, k->list, ROWS, &k->q16, \
                                                   K / ES_BLOCK);                                 \
    }                                                                                             \
    static void run_##name##_tile(const work *k) {                                                \
        const size_t row_bytes = es_row_bytes(format, K / ES_BLOCK);                              \
        for (size_t row = 0; row < ROWS; row += ES_TILE) {                                        \
            k->table->row_tile[format - ES_FORMAT_Q8R](k->out, k->w + row * row_bytes, row_bytes, \
                                                       ES_TILE, K / ES_BLOCK);                    \
        }                                                                                         \
    }
ROWWISE(q8r, ES_FORMAT_Q8R)
ROWWISE(q4r, ES_FORMAT_Q4R)

static void run_proposal(const work *k) {
    k->table->proposal_dot(k->sums, k->w, K / 4, ROWS, k->q8.q);
}

static void run_sign_votes(const work *k) {
    k->table->sign_votes(k->sums, k->w, K / 8, 0, ROWS, k->out);
}

static void run_sign_bits(const work *k) {
    k->table->sign_bits(k->out, K / 8, k->x, K);
}

static void run_list_positive(const work *k) {
    k->table->list_positive(k->sums, k->x, K);
}

static void run_list_nonzero(const work *k) {
    k->table->list_nonzero(k->sums, k->q8.q, K);
}

#define FLOATS(name)                                                                   \
    static void run_##name(const work *k) {                                            \
        k->table->name##_dot(k->y, ROWS, k->w, ROWS / ES_TILE, k->x, K, k->tokens, K); \
    }
FLOATS(f16)
FLOATS(bf16)
FLOATS(f32)

/* Where a tile of a format without zeros begins. */
static const uint8_t *tile_at(const work *k, int32_t format, int32_t tile) {
    if (es_is_two_of_four(format)) {
        return k->sparse + (size_t)tile * (K / ES_BLOCK) * es_nm_block_bytes(format);
    }
    uint64_t start;
    memcpy(&start, k->sparse + sizeof start * (size_t)tile, sizeof start);
    return k->sparse + start;
}

#define SPARSE(name, format)                                                                      \
    static void run_##name(const work *k) {                                                       \
        const es_split split = {k->split, k->centre};                                             \
        if (k->table->split_q16 != NULL) {                                                        \
            k->table->split_q16(k->split, k->centre, k->q16.q, K / ES_BLOCK);                     \
        }                                                                                         \
        k->table->name##_dot(k->y, tile_at(k, format, 0), ROWS / ES_BITMAP_ROWS, &k->q16, &split, \
                             K / ES_BLOCK);                                                       \
    }                                                                                             \
    static void run_##name##_expand(const work *k) {                                              \
        for (int32_t i = 0; i < ROWS / ES_BITMAP_ROWS; i++) {                                     \
            k->table->name##_expand(k->out, tile_at(k, format, i), K / ES_BLOCK);                 \
        }                                                                                         \
    }
SPARSE(bmp8, ES_FORMAT_BMP8)
SPARSE(bmp4, ES_FORMAT_BMP4)
SPARSE(csr, ES_FORMAT_CSR)
SPARSE(nm8, ES_FORMAT_NM8)
SPARSE(nm4, ES_FORMAT_NM4)

static void run_attention(const work *k, int32_t type) {
    const es_cache_rows rows = {k->w, es_cache_row_bytes(type, HEAD_DIM), type};
    const es_attention_token token = {k->x, k->y, 0, ES_CACHE_CHUNK};
    k->table->attention(&token, 1, HEADS, &rows, &rows, HEAD_DIM, 0.1f, k->scratch);
}

static void run_attention_f16(const work *k) {
    run_attention(k, ES_CACHE_F16);
}

static void run_attention_q8_0(const work *k) {
    run_attention(k, ES_CACHE_Q8_0);
}

/* Rows of a pruned cache that keep every other half. */
static void run_prune_row(const work *k) {
    for (int32_t i = 0; i < ES_CACHE_CHUNK; i++) {
        k->table->prune_row(k->pruned, k->halfs + (size_t)i * HEAD_DIM, HEAD_DIM, KEPT);
    }
}

static void run_expand_rows(const work *k) {
    k->table->expand_rows((uint16_t *)(void *)k->out, k->pruned,
                          es_sparse_row_bytes(HEAD_DIM, KEPT), ES_CACHE_CHUNK, HEAD_DIM);
}

static void run_scale_sums(const work *k) {
    const es_scaling by = {k->x, 0, k->x, k->q16.sum};
    k->table->scale_sums(k->y, ROWS, k->sums, ROWS, &by, ROWS, k->tokens, ES_STORE);
}

static void run_rmsnorm(const work *k) {
    k->table->rmsnorm(k->scratch, k->x, (const float *)(const void *)k->w, K, 1e-5f);
}

static void run_quantize_i8(const work *k) {
    k->table->quantize_i8((int8_t *)k->out, k->sums, k->x, K, K);
}

static void run_quantize_i16(const work *k) {
    k->table->quantize_i16((int16_t *)(void *)k->out, k->scratch, k->sums, k->scratch + K, k->x, K);
}

#define GATES(name)                                                             \
    static void run_##name(const work *k) {                                     \
        k->table->name(k->scratch, k->x, (const float *)(const void *)k->w, K); \
    }
GATES(glu_relu2)
GATES(glu_silu)
GATES(glu_gelu)

static void run_add(const work *k) {
    k->table->add(k->scratch, k->x, K);
}

static void run_rope_neox(const work *k) {
    for (size_t i = 0; i < K; i += HEAD_DIM) {
        k->table->rope_neox(k->scratch + i, k->x, HEAD_DIM);
    }
}

static const kernel KERNELS[] = {
    {"t2", "t2", 0.25, MATRIX, run_t2},
    {"t5", "t5", 0.2, MATRIX, run_t5},
    {"t2_list", "t2", 0.25, MATRIX, run_t2_list},
    {"t5_list", "t5", 0.2, MATRIX, run_t5_list},
    {"t2n", "t2n", 0.25, MATRIX, run_t2n},
    {"t2n_sums", "t2n", 0.25, MATRIX, run_t2n_sums},
    {"bst_lut", "lut", 0.25, MATRIX, run_bst_lut},
    {"bst_mad", "mad", 0.25, MATRIX, run_bst_mad},
    {"bs2_lut", "lut", 0.265625, MATRIX, run_bs2_lut},
    {"bs2_mad", "mad", 0.265625, MATRIX, run_bs2_mad},
    {"bs2_rounded", "lut", 0.265625, MATRIX, run_bs2_rounded},
    {"tables", "lut", 0, K, run_tables},
    {"q8", "q8", 272.0 / 256, MATRIX, run_q8},
    {"q8m", "q8m", 288.0 / 256, MATRIX, run_q8m},
    {"q6", "q6", 208.0 / 256, MATRIX, run_q6},
    {"q4", "q4", 144.0 / 256, MATRIX, run_q4},
    {"q4m", "q4m", 160.0 / 256, MATRIX, run_q4m},
    {"q8n", "q8n", 272.0 / 256, MATRIX, run_q8n},
    {"q8n_list", "q8n", 272.0 / 256, MATRIX, run_q8n_list},
    {"q4n", "q4n", 144.0 / 256, MATRIX, run_q4n},
    {"q4n_list", "q4n", 144.0 / 256, MATRIX, run_q4n_list},
    {"q8mn", "q8mn", 288.0 / 256, MATRIX, run_q8mn},
    {"q8mn_list", "q8mn", 288.0 / 256, MATRIX, run_q8mn_list},
    {"q4mn", "q4mn", 160.0 / 256, MATRIX, run_q4mn},
    {"q4mn_list", "q4mn", 160.0 / 256, MATRIX, run_q4mn_list},
    {"list_columns", "q8n", 2, K, run_list_columns},
    {"q8r_list", "q8r", 272.0 / 256, MATRIX, run_q8r_list},
    {"q8r_tile", "q8r", 272.0 / 256, MATRIX, run_q8r_tile},
    {"q4r_list", "q4r", 144.0 / 256, MATRIX, run_q4r_list},
    {"q4r_tile", "q4r", 144.0 / 256, MATRIX, run_q4r_tile},
    {"proposal", NULL, 0.25, MATRIX, run_proposal, offsetof(es_kernels, proposal_dot)},
    {"sign_votes", "signs", 0.125, MATRIX, run_sign_votes},
    {"sign_bits", "signs", 4, K, run_sign_bits},
    {"list_positive", NULL, 4, K, run_list_positive, offsetof(es_kernels, list_positive)},
    {"list_nonzero", NULL, 1, K, run_list_nonzero, offsetof(es_kernels, list_nonzero)},
    {"rmsnorm", "vector", 8, K, run_rmsnorm},
    {"quantize_i8", "vector", 4, K, run_quantize_i8},
    {"quantize_i16", "vector", 4, K, run_quantize_i16},
    {"glu_relu2", "vector", 8, K, run_glu_relu2},
    {"glu_silu", "vector", 8, K, run_glu_silu},
    {"glu_gelu", "vector", 8, K, run_glu_gelu},
    {"add", "vector", 8, K, run_add},
    {"rope_neox", "vector", 4, K, run_rope_neox},
    {"f16", "f16", 2, MATRIX, run_f16},
    {"bf16", "bf16", 2, MATRIX, run_bf16},
    {"f32", "f32", 4, MATRIX, run_f32},
    {"bmp8", "bmp8", 0, MATRIX, run_bmp8},
    {"bmp8_expand", "bmp8", 0, MATRIX, run_bmp8_expand},
    {"bmp4", "bmp4", 0, MATRIX, run_bmp4},
    {"bmp4_expand", "bmp4", 0, MATRIX, run_bmp4_expand},
    {"csr", "csr", 0, MATRIX, run_csr},
    {"csr_expand", "csr", 0, MATRIX, run_csr_expand},
    {"nm8", "nm8", 0, MATRIX, run_nm8},
    {"nm8_expand", "nm8", 0, MATRIX, run_nm8_expand},
    {"nm4", "nm4", 0, MATRIX, run_nm4},
    {"nm4_expand", "nm4", 0, MATRIX, run_nm4_expand},
    {"scale_sums", "vector", 4, ROWS, run_scale_sums},
    {"expand_rows", "kvsparse", 144.0 / 128, CACHED, run_expand_rows},
    {"prune_row", "kvsparse", 2, CACHED, run_prune_row},
    {"attention_f16", "attention", 2, 2 * CACHED, run_attention_f16},
    {"attention_q8_0", "attention", 34.0 / 32, 2 * CACHED, run_attention_q8_0},
};

/* What formats without zeros are packed from. */
static const struct {
    const char *name;
    int32_t format, dense;
    int percent; /* that are not 0: every other column, or at random */
} SPARSE_FORMATS[] = {
    {"bmp8", ES_FORMAT_BMP8, ES_FORMAT_Q8, 50}, {"bmp4", ES_FORMAT_BMP4, ES_FORMAT_Q4, 50},
    {"csr", ES_FORMAT_CSR, ES_FORMAT_Q8, 6},    {"nm8", ES_FORMAT_NM8, ES_FORMAT_Q8, 50},
    {"nm4", ES_FORMAT_NM4, ES_FORMAT_Q4, 50},
};

/* A dense matrix with codes at every other or at random places, without its zeros. */
static size_t pack(uint8_t **dst, const char *family) {
    for (size_t f = 0; f < sizeof SPARSE_FORMATS / sizeof SPARSE_FORMATS[0]; f++) {
        if (strcmp(SPARSE_FORMATS[f].name, family) != 0) {
            continue;
        }
        es_bitmap_job job = {.src_format = SPARSE_FORMATS[f].dense,
                             .dst_format = SPARSE_FORMATS[f].format,
                             .n_rows = ROWS,
                             .k = K};
        const size_t block = es_block_bytes(job.src_format);
        job.src_bytes = ROWS / ES_TILE * (K / ES_BLOCK) * block;
        uint8_t *src = filled(job.src_bytes, 0x28); /* steps */
        const uint8_t zero = job.src_format == ES_FORMAT_Q4 ? 0x88 : 0;
        uint64_t random = 1;
        for (size_t i = 0; i < job.src_bytes; i++) {
            random = random * 6364136223846793005 + 1442695040888963407;
            const int is_code = i % block >= ES_SCALE_BYTES, percent = SPARSE_FORMATS[f].percent;
            const int is_live = percent == 50 ? i % 2 == 1 : (int)((random >> 33) % 100) < percent;
            src[i] = is_code && !is_live ? zero : is_code ? 0x21 : src[i];
        }
        job.src = src;
        const int64_t n_bytes = es_bitmap_pack(&job);
        if (n_bytes < 0) {
            exit(2);
        }
        job.dst_bytes = (size_t)n_bytes;
        job.dst = *dst = filled(job.dst_bytes, 0);
        if (es_bitmap_pack(&job) < 0) {
            exit(2);
        }
        return job.dst_bytes;
    }
    return 0;
}

static int32_t isa_named(const char *name) {
    for (int32_t isa = 0; isa < ES_ISA_COUNT; isa++) {
        if (strcmp(es_isa_name(isa), name) == 0 && es_isa_supported(isa)) {
            return isa;
        }
    }
    return -1;
}

/* The lowest level that has the same function in this place of the table. */
static const char *level_of(const es_kernels *table, size_t entry) {
    for (int32_t isa = 0; isa < ES_ISA_COUNT; isa++) {
        es_kernels other;
        es_kernels_fill(&other, isa);
        if (memcmp((const char *)table + entry, (const char *)&other + entry, sizeof(void *)) ==
            0) {
            return es_isa_name(isa);
        }
    }
    return "-";
}

int main(int argc, char **argv) {
    const kernel *chosen = NULL;
    for (size_t i = 0; argc == 5 && i < sizeof KERNELS / sizeof KERNELS[0]; i++) {
        chosen = strcmp(KERNELS[i].name, argv[1]) == 0 ? &KERNELS[i] : chosen;
    }
    const int32_t isa = argc == 5 ? isa_named(argv[2]) : -1;
    const int32_t tokens = argc == 5 ? atoi(argv[3]) : 0;
    if (chosen == NULL || isa < 0 || tokens < 1 || tokens > MAX_TOKENS) {
        fprintf(stderr, "usage: kernels NAME ISA TOKENS TIMES\n");
        return 2;
    }
    es_kernels table;
    es_kernels_fill(&table, isa);
    const size_t n = (size_t)tokens, blocks = K / 32;
    work k = {.table = &table, .tokens = tokens};
    /* 0x21 makes finite halfs and floats, and no ternary code of 3. */
    k.w = filled((size_t)ROWS * K * 4, 0x21);
    k.x = filled(n * K * sizeof(float), 0x21);
    k.y = filled(n * ROWS * sizeof(float), 0);
    k.scratch = filled((es_attention_scratch(HEADS, HEAD_DIM) + 2 * K) * sizeof(float), 0);
    k.sums = filled((n * ROWS + K) * sizeof(int32_t), 0);
    k.list = filled(ROWS * sizeof(int32_t), 0);
    for (int32_t i = 0; i < ROWS; i++) {
        k.list[i] = i;
    }
    k.q16 = (es_q16){filled(n * K * 2, 1), filled(n * blocks * 4, 0), filled(n * blocks * 4, 1),
                     filled(n * blocks * 4, 0), blocks};
    k.q8 = (es_q8){.q = filled(n * K, 1),
                   .d = k.q16.d,
                   .sum = k.q16.sum,
                   .xsum = k.q16.xsum,
                   .tables = filled(n * blocks * ES_TABLE_BYTES, 0),
                   .q_stride = K,
                   .stride_blocks = blocks};
    es_live_pair *pairs = filled(K / 2 * sizeof *pairs, 0);
    int32_t *begin = filled((blocks + 1) * sizeof *begin, 0);
    table.list_columns(pairs, begin, k.q16.q, (int32_t)blocks);
    k.live = (es_columns){pairs, begin};
    const char *family = chosen->family != NULL ? chosen->family : "";
    const size_t packed_bytes = pack(&k.sparse, family);
    k.split = filled(2 * K, 0);
    k.centre = filled(blocks * sizeof *k.centre, 0);
    k.out = filled(OUT_BYTES, 0);
    k.halfs = filled(CACHED * sizeof *k.halfs, 0);
    uint64_t random = 1;
    for (size_t i = 0; i < CACHED; i++) {
        random = random * 6364136223846793005 + 1442695040888963407;
        k.halfs[i] = (uint16_t)(random >> 48);
    }
    k.pruned = filled(ES_CACHE_CHUNK * es_sparse_row_bytes(HEAD_DIM, KEPT), 0);
    run_prune_row(&k);
    for (int32_t i = atoi(argv[4]); i > 0; i--) {
        chosen->run(&k);
    }
    const double bytes =
        packed_bytes == 0 ? chosen->bytes_per_weight : (double)packed_bytes / chosen->n_weights;
    printf("%d %.6f %s\n", chosen->n_weights, bytes,
           chosen->family != NULL ? es_kernel_variant(isa, family)
                                  : level_of(&table, chosen->entry));
    return 0;
}
