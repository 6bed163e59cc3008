/* Rows of ternary codes into t2, t2n, t5 and bst, with one float scale per row.
 *
 * Block scales fold into the row's: a block of scale 0 holds zeros whatever its codes are; all others
 * must agree. A row without any weight but 0 gets scale 0: files differ in what they write there. */
#include "repack.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct scratch {
    uint8_t *codes; /* one row, padded with code 1; bst: with 0 */
    uint8_t *lanes; /* t2n: 32 lanes of k packed bytes; NULL for the others */
    float *values;  /* one row of masters; NULL unless the source is float */
} scratch;

static inline int group_of(int32_t format) {
    return format == ES_FORMAT_T5 ? 160 : format == ES_FORMAT_BST ? ES_BLOCK : 128;
}

static void pack_t2(uint8_t *dst, const uint8_t *codes, size_t n_groups) {
    for (size_t g = 0; g < n_groups; g++, dst += 32, codes += 128) {
        for (int j = 0; j < 32; j++) {
            dst[j] =
                (uint8_t)(codes[j] << 6 | codes[32 + j] << 4 | codes[64 + j] << 2 | codes[96 + j]);
        }
    }
}

static void pack_t5(uint8_t *dst, const uint8_t *codes, size_t n_groups) {
    for (size_t g = 0; g < n_groups; g++, dst += 32, codes += 160) {
        for (int j = 0; j < 32; j++) {
            unsigned v = 0;
            for (int digit = 0; digit < 5; digit++) {
                v = 3 * v + codes[32 * digit + j];
            }
            dst[j] = (uint8_t)((256 * v + 242) / 243);
        }
    }
}

/* Bit 0 of eight bytes, the first one's lowest: products of its ones with the constant's do not meet. */
static inline uint8_t gather_bits(uint64_t bytes) {
    return (uint8_t)((bytes & UINT64_C(0x0101010101010101)) * UINT64_C(0x0102040810204080) >> 56);
}

/* Both planes of row `row` of a tile of zeros; a byte of a plane has the bits of eight columns. */
static void add_planes(uint8_t *tile, const uint8_t *codes, size_t n_blocks, size_t row) {
    uint8_t *dst = tile + es_slice_place(row);
    for (size_t i = 0; i < n_blocks * ES_BLOCK; i += 8, dst += 2 * ES_PLANES_TILE) {
        uint64_t eight;
        memcpy(&eight, codes + i, sizeof eight);
        dst[0] = gather_bits(eight);
        dst[ES_PLANES_TILE] = gather_bits(eight >> 1);
    }
}

static int holds_code_3(const uint8_t *codes, size_t n) {
    uint8_t both = 0;
    for (size_t i = 0; i < n; i++) {
        both = (uint8_t)(both | (codes[i] & codes[i] >> 1 & 1));
    }
    return both != 0;
}

/* The same for bytes of four packed codes. */
static int holds_packed_3(const uint8_t *packed, size_t n) {
    uint8_t both = 0;
    for (size_t i = 0; i < n; i++) {
        both = (uint8_t)(both | (packed[i] & packed[i] >> 1 & 0x55));
    }
    return both != 0;
}

static int is_filled(const uint8_t *row, size_t n, uint8_t fill) {
    uint8_t differs = 0;
    for (size_t i = 0; i < n; i++) {
        differs = (uint8_t)(differs | (row[i] ^ fill));
    }
    return !differs;
}

static int32_t fold_scales(uint8_t *codes, float *scale, const es_source *source,
                           const uint8_t *row, int32_t k) {
    uint16_t live = 0;
    const uint8_t *field = row + source->scale_offset;
    for (int32_t b = 0; b < k / source->block; b++, field += source->block_bytes) {
        const uint16_t d = es_load_u16(field);
        if (!es_half_is_finite(d)) {
            return ES_E_VALUE;
        }
        if ((d & 0x7fff) == 0) {
            memset(codes + (size_t)b * (size_t)source->block, 1, (size_t)source->block);
        } else if (live == 0) {
            live = d;
        } else if (d != live) {
            return ES_E_NOT_UNIFORM;
        }
    }
    *scale = es_half_to_float(live);
    return ES_OK;
}

static int32_t header_scale(uint8_t *codes, float *scale, const es_source *source,
                            const uint8_t *row, int32_t k) {
    if (source->row_header == 4) {
        memcpy(scale, row, 4);
    } else {
        *scale = es_half_to_float(es_load_u16(row));
    }
    if (!isfinite(*scale)) {
        return ES_E_VALUE;
    }
    if (*scale == 0.0f) {
        memset(codes, 1, (size_t)k);
    }
    return ES_OK;
}

/* Types whose bytes hold several rows: one 2-bit field of k bytes. */
static void take_plane(uint8_t *codes, const es_repack_job *job, int32_t row) {
    size_t line;
    int shift;
    if (job->src_type == ES_SRC_HF_T2) {
        const int32_t stripe = job->n_rows / 4 + (job->n_rows % 4 != 0);
        line = (size_t)(row % stripe);
        shift = 2 * (row / stripe);
    } else {
        line = (size_t)((row - job->row_begin) / 4);
        shift = 6 - 2 * (row % 4);
    }
    const uint8_t *src = job->src + line * (size_t)job->k;
    for (int32_t c = 0; c < job->k; c++) {
        codes[c] = (uint8_t)(src[c] >> shift & 3);
    }
}

/* Masters of ternary weights: clip(round(w / scale), -1, 1). */
static int32_t round_masters(uint8_t *codes, const float *values, int32_t k, float scale) {
    unsigned broken = 0;
    for (int32_t i = 0; i < k; i++) {
        broken |= !(fabsf(values[i]) <= 3.402823466e38f);
        float ratio = scale > 0.0f ? values[i] / scale : 0.0f;
        ratio = ratio > 1.0f ? 1.0f : ratio;
        ratio = ratio < -1.0f ? -1.0f : ratio;
        codes[i] = (uint8_t)((int)es_round_even(ratio) + 1);
    }
    return broken ? ES_E_VALUE : ES_OK;
}

static int32_t decode_row(const scratch *scratch, float *scale, const es_repack_job *job,
                          const es_source *source, int32_t row) {
    uint8_t *codes = scratch->codes;
    *scale = job->src_scale;
    if (!source->codes && !source->floats) {
        take_plane(codes, job, row);
        return holds_code_3(codes, (size_t)job->k) ? ES_E_VALUE : ES_OK;
    }
    const size_t row_bytes = (size_t)es_source_row_bytes(source, job->k);
    const uint8_t *src = job->src + (size_t)(row - job->row_begin) * row_bytes;
    if (source->floats) {
        source->floats(scratch->values, src, job->k / source->block);
        return round_masters(codes, scratch->values, job->k, job->src_scale);
    }
    source->codes(codes, src + source->row_header, job->k / source->block);
    if (holds_code_3(codes, (size_t)job->k)) {
        const int legal = job->src_type == ES_SRC_Q2_0 || job->src_type == ES_SRC_PQ2_0;
        return legal ? ES_E_NOT_UNIFORM : ES_E_VALUE;
    }
    if (source->scale_offset >= 0) {
        return fold_scales(codes, scale, source, src, job->k);
    }
    return source->row_header ? header_scale(codes, scale, source, src, job->k) : ES_OK;
}

static void add_field(uint8_t *restrict lane, const uint8_t *restrict codes, size_t k, int shift) {
    for (size_t c = 0; c < k; c++) {
        lane[c] = (uint8_t)(lane[c] | codes[c] << shift);
    }
}

/* Packs 128 rows into lanes, byte i of lane l holding column i of rows l, l + 32, l + 64 and l + 96, and
 * turns the lanes into one run of 32 bytes per column. */
static int32_t repack_neurons(const scratch *scratch, const es_repack_job *job,
                              const es_source *source, const es_kernels *kernels) {
    const size_t k = (size_t)job->k;
    const size_t row_bytes = ((size_t)job->n_rows + 127) / 128 * 32;
    for (int32_t begin = job->row_begin; begin < job->row_end; begin += ES_NEURON_TILE) {
        memset(scratch->lanes, 0, 32 * k);
        for (int32_t i = 0; i < ES_NEURON_TILE; i++) {
            const int32_t row = begin + i, shift = 6 - 2 * (i / 32);
            uint8_t *lane = scratch->lanes + (size_t)(i % 32) * k;
            if (row >= job->n_rows) {
                memset(scratch->codes, 1, k);
            } else {
                float scale = job->src_scale;
                const int32_t status = decode_row(scratch, &scale, job, source, row);
                if (status != ES_OK) {
                    return status;
                }
                job->scales[row] = is_filled(scratch->codes, k, 1) ? 0.0f : scale;
            }
            add_field(lane, scratch->codes, k, shift);
        }
        kernels->turn_lanes(job->dst + (size_t)begin / 4, row_bytes, scratch->lanes, k);
    }
    return ES_OK;
}

/* Rows behind the last, and columns behind theirs, are zeros. */
static int32_t repack_planes(const scratch *scratch, const es_repack_job *job,
                             const es_source *source) {
    const size_t n_blocks = ((size_t)job->k + ES_BLOCK - 1) / ES_BLOCK;
    const size_t tile_bytes = n_blocks * ES_PLANES_BLOCK_BYTES;
    for (int32_t row = job->row_begin; row < job->row_end; row++) {
        uint8_t *tile = job->dst + (size_t)(row / ES_PLANES_TILE) * tile_bytes;
        float scale = job->src_scale;
        const int32_t status = decode_row(scratch, &scale, job, source, row);
        if (status != ES_OK) {
            return status;
        }
        if (row % ES_PLANES_TILE == 0) {
            memset(tile, 0, tile_bytes);
        }
        add_planes(tile, scratch->codes, n_blocks, (size_t)(row % ES_PLANES_TILE));
        job->scales[row] = is_filled(scratch->codes, (size_t)job->k, 1) ? 0.0f : scale;
    }
    return ES_OK;
}

static int32_t repack_rows(const scratch *scratch, const es_repack_job *job,
                           const es_source *source, const es_kernels *kernels) {
    const int group = group_of(job->dst_format);
    const size_t n_groups = ((size_t)job->k + (size_t)group - 1) / (size_t)group;
    const size_t row_bytes = 32 * n_groups;
    const int t2 = job->dst_format == ES_FORMAT_T2;
    const int same_bytes = t2 && job->src_type == ES_SRC_I2_S_128X32;
    if (job->dst_format == ES_FORMAT_T2N) {
        return repack_neurons(scratch, job, source, kernels);
    }
    if (job->dst_format == ES_FORMAT_BST) {
        return repack_planes(scratch, job, source);
    }
    for (int32_t row = job->row_begin; row < job->row_end; row++) {
        uint8_t *dst = job->dst + (size_t)row * row_bytes;
        float scale = job->src_scale;
        if (same_bytes) {
            memcpy(dst, job->src + (size_t)(row - job->row_begin) * row_bytes, row_bytes);
            if (holds_packed_3(dst, row_bytes)) {
                return ES_E_VALUE;
            }
        } else {
            const int32_t status = decode_row(scratch, &scale, job, source, row);
            if (status != ES_OK) {
                return status;
            }
            (t2 ? pack_t2 : pack_t5)(dst, scratch->codes, n_groups);
        }
        job->scales[row] = is_filled(dst, row_bytes, t2 ? 0x55 : 0x80) ? 0.0f : scale;
    }
    return ES_OK;
}

int32_t es_repack_ternary(const es_repack_job *job, const es_source *source,
                          const es_kernels *kernels) {
    const int masters = source->floats && source->block == 1;
    if (source->affine_format != 0 ? !source->codes : source->floats && !masters) {
        return ES_E_UNSUPPORTED;
    }
    if (!isfinite(job->src_scale) || (masters && job->src_scale < 0.0f)) {
        return ES_E_VALUE;
    }
    /* Surplus rows of the last stripe are dropped, but not trusted. */
    if (job->src_type == ES_SRC_HF_T2 && holds_packed_3(job->src, job->src_bytes)) {
        return ES_E_VALUE;
    }
    const size_t group = (size_t)group_of(job->dst_format), k = (size_t)job->k;
    const size_t padded = (k + group - 1) / group * group;
    const int neurons = job->dst_format == ES_FORMAT_T2N;
    scratch scratch = {malloc(padded), neurons ? malloc(32 * k) : NULL,
                       masters ? malloc(k * sizeof(float)) : NULL};
    int32_t status = ES_E_MEMORY;
    if (scratch.codes && (scratch.lanes || !neurons) && (scratch.values || !masters)) {
        memset(scratch.codes, job->dst_format != ES_FORMAT_BST, padded);
        status = repack_rows(&scratch, job, source, kernels);
    }
    free(scratch.codes);
    free(scratch.lanes);
    free(scratch.values);
    return status;
}
