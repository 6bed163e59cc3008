/* es_repack: checks every number of a job, then hands it to the family of its target format.
 *
 * The bytes of `src` come from a file and may be anything; sizes and pointers come from Python, and
 * are checked here once, so that nothing below needs to look at them again. */
#include "repack.h"

#include "cpu.h"
#include "kernels.h"

uint64_t es_source_row_bytes(const es_source *source, int32_t k) {
    return (uint64_t)source->row_header +
           (uint64_t)(k / source->block) * (uint64_t)source->block_bytes;
}

uint64_t es_source_bytes(const es_source *source, const es_repack_job *job) {
    const uint64_t group_bytes = es_source_row_bytes(source, job->k);
    if (job->src_type == ES_SRC_HF_T2) {
        return ((uint64_t)job->n_rows + 3) / 4 * group_bytes;
    }
    return (uint64_t)(job->row_end - job->row_begin) / (uint64_t)source->row_group * group_bytes;
}

uint64_t es_storage_bytes(int32_t format, int32_t n_rows, int32_t k) {
    const uint64_t rows = (uint64_t)n_rows, columns = (uint64_t)k;
    const uint64_t tiles = (rows + ES_TILE - 1) / ES_TILE;
    const uint64_t blocks = (columns + ES_BLOCK - 1) / ES_BLOCK;
    switch (format) {
    case ES_FORMAT_T2:
        return rows * ((columns + 127) / 128) * 32;
    case ES_FORMAT_T2N:
        return columns * ((rows + 127) / 128) * 32;
    case ES_FORMAT_T5:
        return rows * ((columns + 159) / 160) * 32;
    case ES_FORMAT_BST:
        return (rows + ES_PLANES_TILE - 1) / ES_PLANES_TILE * blocks * ES_PLANES_BLOCK_BYTES;
    case ES_FORMAT_Q8:
        return tiles * blocks * 272;
    case ES_FORMAT_Q8M:
        return tiles * blocks * 288;
    case ES_FORMAT_Q4:
        return tiles * blocks * 144;
    case ES_FORMAT_Q4M:
        return tiles * blocks * 160;
    case ES_FORMAT_Q6:
        return tiles * blocks * 208;
    case ES_FORMAT_F16:
    case ES_FORMAT_BF16:
        return tiles * ES_TILE * columns * 2;
    case ES_FORMAT_F32:
        return tiles * ES_TILE * columns * 4;
    case ES_FORMAT_Q8N:
    case ES_FORMAT_Q4N:
    case ES_FORMAT_Q8MN:
    case ES_FORMAT_Q4MN: {
        const uint64_t line_rows = es_line_rows(format);
        return (rows + line_rows - 1) / line_rows * blocks * es_line_block_bytes(format);
    }
    case ES_FORMAT_Q8R:
    case ES_FORMAT_Q4R:
    case ES_FORMAT_Q8MR:
    case ES_FORMAT_Q4MR:
        return rows * es_row_bytes(format, (size_t)blocks);
    default:
        return 0;
    }
}

int32_t es_tile_rows(int32_t format) {
    if (format == ES_FORMAT_T2N) {
        return ES_NEURON_TILE;
    }
    if (format == ES_FORMAT_BST) {
        return ES_PLANES_TILE;
    }
    if (es_is_column(format)) {
        return ES_COLUMN_WIDTH * (int32_t)es_line_rows(format);
    }
    return format >= ES_FORMAT_Q8 ? ES_TILE : 1;
}

static int32_t check_rows(const es_repack_job *job, const es_source *source) {
    if (job->n_rows <= 0 || job->k <= 0 || job->row_begin < 0 || job->row_begin >= job->row_end ||
        job->row_end > job->n_rows || job->k % source->block != 0) {
        return ES_E_ARGUMENT;
    }
    if (job->row_begin % source->row_group != 0 || job->row_end % source->row_group != 0) {
        return ES_E_ARGUMENT;
    }
    /* Rows that share stored bytes come together. */
    const int32_t tile = es_tile_rows(job->dst_format);
    if (job->row_begin % tile != 0 || (job->row_end % tile != 0 && job->row_end != job->n_rows)) {
        return ES_E_ARGUMENT;
    }
    return ES_OK;
}

int32_t es_repack(const es_repack_job *job) {
    if (!job || !job->src || !job->dst) {
        return ES_E_ARGUMENT;
    }
    const es_source *source = es_source_of(job->src_type);
    if (!source) {
        return ES_E_UNSUPPORTED;
    }
    const int32_t status = check_rows(job, source);
    if (status != ES_OK) {
        return status;
    }
    const uint64_t dst_bytes = es_storage_bytes(job->dst_format, job->n_rows, job->k);
    if (dst_bytes == 0) {
        return ES_E_UNSUPPORTED;
    }
    if (dst_bytes > SIZE_MAX || job->dst_bytes != (size_t)dst_bytes ||
        (uint64_t)job->src_bytes != es_source_bytes(source, job)) {
        return ES_E_ARGUMENT;
    }
    if (!es_cpu_has(job->isa)) {
        return ES_E_ARGUMENT;
    }
    es_kernels kernels;
    es_kernels_fill(&kernels, job->isa);
    switch (job->dst_format) {
    case ES_FORMAT_T2:
    case ES_FORMAT_T2N:
    case ES_FORMAT_T5:
    case ES_FORMAT_BST:
        return job->scales ? es_repack_ternary(job, source, &kernels) : ES_E_ARGUMENT;
    case ES_FORMAT_F16:
    case ES_FORMAT_BF16:
    case ES_FORMAT_F32:
        return es_repack_floats(job, source);
    default:
        return es_repack_blocks(job, source, &kernels);
    }
}
