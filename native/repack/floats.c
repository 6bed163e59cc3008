/* Float types: widened for requantising, or kept and laid out in tiles of 8 rows. */
#include "repack.h"

#include <string.h>

void es_floats_f32(float *values, const uint8_t *src, int32_t n_blocks) {
    memcpy(values, src, (size_t)n_blocks * sizeof(float));
}

void es_floats_f16(float *values, const uint8_t *src, int32_t n_blocks) {
    for (int32_t i = 0; i < n_blocks; i++) {
        values[i] = es_half_to_float(es_load_u16(src + 2 * (size_t)i));
    }
}

void es_floats_bf16(float *values, const uint8_t *src, int32_t n_blocks) {
    for (int32_t i = 0; i < n_blocks; i++) {
        const uint32_t bits = (uint32_t)es_load_u16(src + 2 * (size_t)i) << 16;
        memcpy(values + i, &bits, sizeof bits);
    }
}

/* One row of 2-byte elements into column r of a tile; `exponent` is all ones in Inf and NaN. */
static unsigned lay_u16(uint8_t *dst, const uint8_t *src, size_t k, uint16_t exponent) {
    unsigned broken = 0;
    for (size_t c = 0; c < k; c++) {
        uint16_t element;
        memcpy(&element, src + 2 * c, 2);
        broken |= (element & exponent) == exponent;
        memcpy(dst + 2 * ES_TILE * c, &element, 2);
    }
    return broken;
}

static unsigned lay_u32(uint8_t *dst, const uint8_t *src, size_t k) {
    unsigned broken = 0;
    for (size_t c = 0; c < k; c++) {
        uint32_t element;
        memcpy(&element, src + 4 * c, 4);
        broken |= (element & 0x7f800000) == 0x7f800000;
        memcpy(dst + 4 * ES_TILE * c, &element, 4);
    }
    return broken;
}

int32_t es_repack_floats(const es_repack_job *job, const es_source *source) {
    const int same = (job->src_type == ES_SRC_F32 && job->dst_format == ES_FORMAT_F32) ||
                     (job->src_type == ES_SRC_F16 && job->dst_format == ES_FORMAT_F16) ||
                     (job->src_type == ES_SRC_BF16 && job->dst_format == ES_FORMAT_BF16);
    if (!same) {
        return ES_E_UNSUPPORTED;
    }
    const size_t k = (size_t)job->k, size = (size_t)source->block_bytes;
    const uint16_t exponent = job->dst_format == ES_FORMAT_F16 ? 0x7c00 : 0x7f80;
    for (int32_t first = job->row_begin; first < job->row_end; first += ES_TILE) {
        uint8_t *dst = job->dst + (size_t)first * k * size;
        if (job->row_end - first < ES_TILE) {
            memset(dst, 0, ES_TILE * k * size);
        }
        for (int32_t r = 0; r < ES_TILE && first + r < job->row_end; r++) {
            const uint8_t *src = job->src + (size_t)(first + r - job->row_begin) * k * size;
            uint8_t *column = dst + (size_t)r * size;
            if (size == 4 ? lay_u32(column, src, k) : lay_u16(column, src, k, exponent)) {
                return ES_E_VALUE;
            }
        }
    }
    return ES_OK;
}
