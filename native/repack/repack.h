/* Inside of the repacker: sources decode into codes or floats, targets store those.
 *
 * A decoder turns `n_blocks` blocks of its type into plain arrays; it sees only bytes whose number was
 * checked by es_repack. Storing is the same for all sources. The numpy twins are
 * edgesparse/checkpoint/unpack_*.py (decode) and edgesparse/formats (store): same bytes. */
#ifndef ES_REPACK_H
#define ES_REPACK_H

#include "edgesparse.h"
#include "kernels.h"

enum { ES_TILE = 8, ES_BLOCK = 32, ES_NEURON_TILE = 128 };
enum { ES_PLANES_TILE = 64, ES_PLANES_BLOCK_BYTES = 2 * ES_PLANES_TILE * ES_BLOCK / 8 }; /* bst */

/* Ternary codes 0, 1, 2 (3: no ternary code) of n_blocks blocks. */
typedef void es_decode_codes(uint8_t *codes, const uint8_t *src, int32_t n_blocks);

/* Blocks of 32 as value = d * code + m, d and m as f16 bits. */
typedef void es_decode_affine(int8_t *codes, uint16_t *d, uint16_t *m, const uint8_t *src,
                              int32_t n_blocks);

/* Plain values. */
typedef void es_decode_floats(float *values, const uint8_t *src, int32_t n_blocks);

/* One file type: its geometry, and the decoders that it has. */
typedef struct es_source {
    int32_t block; /* columns per block */
    int32_t block_bytes;
    int32_t row_header;    /* bytes in front of a row's blocks */
    int32_t row_group;     /* rows that share bytes */
    int32_t scale_offset;  /* ternary: f16 inside the block; -1: elsewhere */
    int32_t affine_format; /* ES_FORMAT_* that `affine` fills; 0: none */
    es_decode_codes *codes;
    es_decode_affine *affine;
    es_decode_floats *floats;
} es_source;

/* NULL for an unknown type. */
const es_source *es_source_of(int32_t src_type);

/* Bytes that the job's rows must have, and the bytes of the whole storage. */
uint64_t es_source_bytes(const es_source *source, const es_repack_job *job);
uint64_t es_storage_bytes(int32_t format, int32_t n_rows, int32_t k);
uint64_t es_source_row_bytes(const es_source *source, int32_t k);

/* The three families of targets; sizes are already checked. */
int32_t es_repack_ternary(const es_repack_job *job, const es_source *source,
                          const es_kernels *kernels);
int32_t es_repack_blocks(const es_repack_job *job, const es_source *source,
                         const es_kernels *kernels);
int32_t es_repack_floats(const es_repack_job *job, const es_source *source);

/* Rows that share stored bytes. */
int32_t es_tile_rows(int32_t format);

/* One tile of a column format, `width` lines wide, from codes [rows][n_blocks * 32] and steps
 * [rows][n_blocks]; `zero` is what the stored number of code 0 is. */
void es_weave_columns(uint8_t *dst, const int8_t *codes, const uint16_t *d, const uint16_t *m,
                      size_t n_blocks, size_t width, int32_t format, int zero);

/* Where row r (below 64) lies in 64 bytes of a column format or of a plane (edgesparse/formats/README.md). */
static inline size_t es_slice_place(size_t r) {
    return r / 4 % 4 * 16 + r / 16 * 4 + r % 4;
}

/* IEEE half to single (exact) and back (round to nearest, ties to even). */
float es_half_to_float(uint16_t half);
uint16_t es_float_to_half(float value);

static inline uint16_t es_load_u16(const uint8_t *src) {
    return (uint16_t)(src[0] | src[1] << 8);
}

static inline int es_half_is_finite(uint16_t half) {
    return (half & 0x7c00) != 0x7c00;
}

/* To nearest integer, ties to even, for |x| < 2^22: the addition leaves no room for a fraction. */
static inline float es_round_even(float x) {
    return (x + 12582912.0f) - 12582912.0f;
}

es_decode_codes es_codes_tq1_0, es_codes_tq2_0, es_codes_ptq1_0, es_codes_q2_0, es_codes_pq2_0;
es_decode_codes es_codes_q1_0, es_codes_i2s_128x32, es_codes_i2s_64x16, es_codes_iq2_bn,
    es_codes_iq1_bn;
es_decode_affine es_affine_q8_0, es_affine_q4_0, es_affine_q4_1, es_affine_q5_0, es_affine_q5_1;
es_decode_affine es_affine_q4_k, es_affine_q5_k;
es_decode_floats es_floats_f32, es_floats_f16, es_floats_bf16, es_floats_q2_k, es_floats_q3_k,
    es_floats_q6_k;

#endif
