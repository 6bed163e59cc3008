/* Tiles of rows of blocks of 32 columns: q8, q8m, q6, q4, q4m of 8 rows, the column and the row formats.
 *
 * A tile is decoded row by row into plain arrays and then woven. Sources with blocks of their own
 * keep their codes; floats (and types with a scale per 16 columns) are quantised anew, with the step
 * rounded to half first, so that the codes fit the step that is stored. */
#include "repack.h"

#include "kernels.h"

#include <stdlib.h>
#include <string.h>

typedef struct tile {
    int32_t format; /* of its rows: es_tile_format of the target */
    size_t n_blocks;
    int8_t *codes;  /* [rows of a tile][n_blocks * 32] */
    uint16_t *d;    /* [rows of a tile][n_blocks] */
    uint16_t *m;    /* [rows of a tile][n_blocks] */
    float *values;  /* [n_blocks * 32], zero behind column k */
    uint8_t *plain; /* [n_blocks * 32] ternary codes */
} tile;

static inline int is_nibble(int32_t format) {
    return format == ES_FORMAT_Q4 || format == ES_FORMAT_Q4M;
}

static inline int has_minimum(int32_t format) {
    return format == ES_FORMAT_Q8M || format == ES_FORMAT_Q4M;
}

static inline void store_u16(uint8_t *dst, uint16_t value) {
    dst[0] = (uint8_t)value;
    dst[1] = (uint8_t)(value >> 8);
}

/* Largest code of a format that numbers are rounded to; its codes are stored from `zero` upwards. */
static inline float largest_code(int32_t format) {
    return format == ES_FORMAT_Q8 ? 127.0f : format == ES_FORMAT_Q6 ? 31.0f : 7.0f;
}

/* What the stored number of code 0 is; column formats store bytes of q8 and q8m unsigned. */
static inline int stored_zero(int32_t format, int is_column) {
    if (is_column && (format == ES_FORMAT_Q8 || format == ES_FORMAT_Q8M)) {
        return 128;
    }
    return format == ES_FORMAT_Q4 ? 8 : format == ES_FORMAT_Q6 ? 32 : 0;
}

static void weave_codes(uint8_t *dst, const tile *t, size_t block, int nibble, int zero) {
    for (size_t r = 0; r < ES_TILE; r++) {
        const int8_t *codes = t->codes + (r * t->n_blocks + block) * ES_BLOCK;
        for (size_t pair = 0; pair < (nibble ? 8 : 16); pair++) {
            uint8_t *two = dst + 16 * pair + 2 * r;
            if (!nibble) {
                memcpy(two, codes + 2 * pair, 2);
                continue;
            }
            for (size_t e = 0; e < 2; e++) {
                const int low = codes[2 * pair + e] + zero, high = codes[16 + 2 * pair + e] + zero;
                two[e] = (uint8_t)((low & 15) | (high & 15) << 4);
            }
        }
    }
}

static void weave(uint8_t *dst, const tile *t, int32_t format, const es_kernels *kernels) {
    const int nibble = is_nibble(format), zero = stored_zero(format, 0);
    const size_t block_bytes = (size_t)es_storage_bytes(format, ES_TILE, ES_BLOCK);
    const size_t step_bytes = 2 * ES_TILE * (has_minimum(format) ? 2 : 1);
    for (size_t block = 0; block < t->n_blocks; block++) {
        uint8_t *at = dst + block * block_bytes;
        for (size_t r = 0; r < ES_TILE; r++) {
            store_u16(at + 2 * r, t->d[r * t->n_blocks + block]);
            if (has_minimum(format)) {
                store_u16(at + 2 * ES_TILE + 2 * r, t->m[r * t->n_blocks + block]);
            }
        }
        if (format != ES_FORMAT_Q6) {
            weave_codes(at + step_bytes, t, block, nibble, zero);
        }
    }
    if (format == ES_FORMAT_Q6) {
        kernels->weave_six(dst + step_bytes, t->codes, t->n_blocks, block_bytes);
    }
}

/* Row after row: codes, steps, minima, and zeros up to a whole cache line. */
static void lay_rows(uint8_t *dst, const tile *t, int32_t n_rows, int32_t format, int zero) {
    const size_t n_blocks = t->n_blocks, row_bytes = es_row_bytes(format, n_blocks);
    for (size_t r = 0; r < (size_t)n_rows; r++, dst += row_bytes) {
        const int8_t *codes = t->codes + r * n_blocks * ES_BLOCK;
        uint8_t *steps = dst + n_blocks * es_row_code_bytes(format);
        memset(dst, 0, row_bytes);
        if (es_row_is_nibble(format)) {
            for (size_t i = 0; i < 16 * n_blocks; i++) {
                const int8_t *low = codes + i / 16 * ES_BLOCK + i % 16;
                dst[i] = (uint8_t)(((low[0] + zero) & 15) | ((low[16] + zero) & 15) << 4);
            }
        } else {
            memcpy(dst, codes, n_blocks * ES_BLOCK);
        }
        for (size_t b = 0; b < n_blocks; b++) {
            store_u16(steps + 2 * b, t->d[r * n_blocks + b]);
            if (es_row_has_minimum(format)) {
                store_u16(steps + 2 * (n_blocks + b), t->m[r * n_blocks + b]);
            }
        }
    }
}

/* Ternary codes whose block scales differ: code - 1 with the scale of the source block. */
static int32_t keep_ternary(int8_t *codes, uint16_t *d, uint8_t *plain, const es_repack_job *job,
                            const es_source *source, const uint8_t *row) {
    source->codes(plain, row, job->k / source->block);
    unsigned threes = 0;
    for (int32_t i = 0; i < job->k; i++) {
        threes |= plain[i] & (unsigned)plain[i] >> 1;
        codes[i] = (int8_t)(plain[i] - 1);
    }
    if (threes && job->src_type == ES_SRC_TQ2_0) {
        return ES_E_VALUE;
    }
    for (int32_t b = 0; b < job->k / ES_BLOCK; b++) {
        const int32_t from = b * ES_BLOCK / source->block;
        d[b] = es_load_u16(row + (size_t)from * (size_t)source->block_bytes + source->scale_offset);
    }
    return ES_OK;
}

static int32_t decode_row(const tile *t, size_t r, const es_repack_job *job,
                          const es_source *source, const es_kernels *kernels, const uint8_t *row) {
    int8_t *codes = t->codes + r * t->n_blocks * ES_BLOCK;
    uint16_t *d = t->d + r * t->n_blocks, *m = t->m + r * t->n_blocks;
    const int32_t n_source_blocks = job->k / source->block;
    int32_t status = ES_OK;
    if (source->affine_format == t->format) {
        if (source->affine) {
            source->affine(codes, d, m, row, n_source_blocks);
        } else {
            status = keep_ternary(codes, d, t->plain, job, source, row);
        }
    } else if (source->floats) {
        if (job->src_type == ES_SRC_F16) {
            kernels->f16_to_f32(t->values, (const uint16_t *)(const void *)row, job->k);
        } else {
            source->floats(t->values, row, n_source_blocks);
        }
        status = kernels->requantize(codes, d, t->values, t->n_blocks, largest_code(t->format));
    } else { /* q8 to q6 or q4 */
        source->affine(codes, d, m, row, n_source_blocks);
        for (size_t i = 0; i < t->n_blocks * ES_BLOCK; i++) {
            t->values[i] = (float)codes[i] * es_half_to_float(d[i / ES_BLOCK]);
        }
        status = kernels->requantize(codes, d, t->values, t->n_blocks, largest_code(t->format));
    }
    unsigned finite = 1;
    for (size_t b = 0; b < t->n_blocks; b++) {
        finite &= (unsigned)es_half_is_finite(d[b]);
        if (has_minimum(t->format)) {
            finite &= (unsigned)es_half_is_finite(m[b]);
        }
    }
    return status != ES_OK ? status : finite ? ES_OK : ES_E_VALUE;
}

static int32_t repack_tiles(const tile *t, const es_repack_job *job, const es_source *source,
                            const es_kernels *kernels) {
    const int is_column = es_is_column(job->dst_format), zero = stored_zero(t->format, is_column);
    const int32_t n_rows = es_tile_rows(job->dst_format);
    const size_t row_bytes = (size_t)es_source_row_bytes(source, job->k);
    const size_t tile_bytes = (size_t)es_storage_bytes(job->dst_format, n_rows, job->k);
    for (int32_t first = job->row_begin; first < job->row_end; first += n_rows) {
        for (int32_t r = 0; r < n_rows; r++) {
            const size_t at = (size_t)r * t->n_blocks;
            if (first + r >= job->row_end) { /* -zero is stored as 0 */
                memset(t->codes + at * ES_BLOCK, -zero, t->n_blocks * ES_BLOCK);
                memset(t->d + at, 0, t->n_blocks * sizeof *t->d);
                memset(t->m + at, 0, t->n_blocks * sizeof *t->m);
                continue;
            }
            const uint8_t *row = job->src + (size_t)(first + r - job->row_begin) * row_bytes;
            const int32_t status = decode_row(t, (size_t)r, job, source, kernels, row);
            if (status != ES_OK) {
                return status;
            }
        }
        uint8_t *dst = job->dst + (size_t)(first / n_rows) * tile_bytes;
        const int32_t left = job->row_end - first < n_rows ? job->row_end - first : n_rows;
        if (es_is_row(job->dst_format)) {
            lay_rows(dst, t, left, job->dst_format, zero);
        } else if (is_column) {
            const size_t line_rows = es_line_rows(job->dst_format);
            es_weave_columns(dst, t->codes, t->d, t->m, t->n_blocks,
                             ((size_t)left + line_rows - 1) / line_rows, job->dst_format, zero);
        } else {
            weave(dst, t, job->dst_format, kernels);
        }
    }
    return ES_OK;
}

static int is_pair(const es_source *source, int32_t format) {
    if (source->affine_format == format) {
        return 1;
    }
    const int smaller = format == ES_FORMAT_Q6 || format == ES_FORMAT_Q4;
    if (source->floats) {
        return format == ES_FORMAT_Q8 || smaller;
    }
    return source->affine && source->affine_format == ES_FORMAT_Q8 && smaller;
}

int32_t es_repack_blocks(const es_repack_job *job, const es_source *source,
                         const es_kernels *kernels) {
    const int32_t format = es_tile_format(job->dst_format);
    if (!is_pair(source, format)) {
        return ES_E_UNSUPPORTED;
    }
    const size_t n_blocks = ((size_t)job->k + ES_BLOCK - 1) / ES_BLOCK;
    const size_t n_rows = (size_t)es_tile_rows(job->dst_format);
    tile t = {
        .format = format,
        .n_blocks = n_blocks,
        .codes = malloc(n_rows * n_blocks * ES_BLOCK),
        .d = malloc(n_rows * n_blocks * sizeof(uint16_t)),
        .m = malloc(n_rows * n_blocks * sizeof(uint16_t)),
        .values = calloc(n_blocks * ES_BLOCK, sizeof(float)),
        .plain = malloc(n_blocks * ES_BLOCK),
    };
    int32_t status = ES_E_MEMORY;
    if (t.codes && t.d && t.m && t.values && t.plain) {
        status = repack_tiles(&t, job, source, kernels);
    }
    free(t.codes);
    free(t.d);
    free(t.m);
    free(t.values);
    free(t.plain);
    return status;
}
