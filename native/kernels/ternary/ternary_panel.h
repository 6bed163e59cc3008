/* Panels and tiles, shared by all SIMD variants, which define the vector first:
 *
 *   es_vec, ES_VEC_BYTES          a vector; es_vec_i8: of activations; es_vec_i32: of sums
 *   ES_LANES                      its 32-bit lanes, in a panel one row each
 *   es_load_quarters(p, stride)   16 bytes of rows 0, 4, 8 ... (ES_LANES rows) side by side
 *   es_unpacklo32, es_unpackhi32, es_unpacklo64, es_unpackhi64   within 128-bit lanes
 *   es_load(p), es_store(p, v), es_broadcast4(p)
 *   es_quad_acc, es_quad_zero()   sums of one lane per row
 *   es_quad_dot(acc, w, x)        four codes times four activations, added in every 32-bit lane
 *   es_quad_sums(acc)             the accumulator as int32 lanes
 *   es_store_lanes(p, v, n, accumulate)   the first n lanes
 *   t2_decode(codes, v), t5_decode(codes, v)   the codes of packed bytes, field by field
 *   ES_TILE_TOKENS                4, 6 or 8
 *
 * A panel is a sequence of quads: for four consecutive columns, ES_PANEL_VECS vectors whose 32-bit
 * lanes are rows and whose bytes are columns. One broadcast of four activations then serves all rows,
 * and no sum ever crosses lanes. The packed order makes this cheap: four consecutive bytes of a block
 * hold, field by field, four consecutive weights, so packed dwords are transposed and only then
 * unpacked. */
#ifndef ES_TERNARY_PANEL_H
#define ES_TERNARY_PANEL_H

#include "ternary_driver.h"

enum {
    ES_PANEL_VECS = 2,
    ES_PANEL_ROWS = ES_PANEL_VECS * ES_LANES,
    ES_QUAD_BYTES = ES_PANEL_VECS * ES_VEC_BYTES,
    ES_FIELD_QUADS = 8 /* 32 consecutive weights */
};

/* out[d]: dword d of the 16 bytes at rows[0 ... ES_LANES), one row per lane. */
ES_INLINE void es_transpose_dwords(es_vec out[4], const uint8_t *const rows[ES_LANES],
                                   size_t offset) {
    const es_vec r0 = es_load_quarters(rows + 0, offset);
    const es_vec r1 = es_load_quarters(rows + 1, offset);
    const es_vec r2 = es_load_quarters(rows + 2, offset);
    const es_vec r3 = es_load_quarters(rows + 3, offset);
    const es_vec lo01 = es_unpacklo32(r0, r1), hi01 = es_unpackhi32(r0, r1);
    const es_vec lo23 = es_unpacklo32(r2, r3), hi23 = es_unpackhi32(r2, r3);
    out[0] = es_unpacklo64(lo01, lo23);
    out[1] = es_unpackhi64(lo01, lo23);
    out[2] = es_unpacklo64(hi01, hi23);
    out[3] = es_unpackhi64(hi01, hi23);
}

/* `decode` turns packed bytes into `fields` vectors of codes. */
ES_INLINE void es_unpack_panel(uint8_t *panel, const uint8_t *w, size_t row_bytes, size_t n_rows,
                               size_t n_blocks, const int fields,
                               void (*decode)(es_vec *codes, es_vec packed)) {
    for (size_t v = 0; v < ES_PANEL_VECS; v++) {
        const uint8_t *rows[ES_LANES];
        for (size_t i = 0; i < ES_LANES; i++) {
            /* A missing row repeats the last one; its sums are not stored. */
            rows[i] = w + es_min_size(v * ES_LANES + i, n_rows - 1) * row_bytes;
        }
        uint8_t *out = panel + v * ES_VEC_BYTES;
        for (size_t b = 0; b < n_blocks; b++) {
            for (size_t half = 0; half < 2; half++) {
                es_vec packed[4];
                es_transpose_dwords(packed, rows, b * ES_TERNARY_BLOCK_BYTES + 16 * half);
                ES_UNROLL
                for (size_t d = 0; d < 4; d++) {
                    es_vec codes[ES_T5_FIELDS];
                    decode(codes, packed[d]);
                    ES_UNROLL
                    for (int f = 0; f < fields; f++) {
                        const size_t quad = (size_t)f * ES_FIELD_QUADS + 4 * half + d;
                        es_store(out + quad * ES_QUAD_BYTES, codes[f]);
                    }
                }
            }
            out += (size_t)fields * ES_FIELD_QUADS * ES_QUAD_BYTES;
        }
    }
}

static void t2_unpack(uint8_t *panel, const uint8_t *w, size_t row_bytes, size_t n_rows,
                      size_t n_blocks) {
    es_unpack_panel(panel, w, row_bytes, n_rows, n_blocks, ES_T2_FIELDS, t2_decode);
}

static void t5_unpack(uint8_t *panel, const uint8_t *w, size_t row_bytes, size_t n_rows,
                      size_t n_blocks) {
    es_unpack_panel(panel, w, row_bytes, n_rows, n_blocks, ES_T5_FIELDS, t5_decode);
}

/* `vecs` x `tokens` accumulators stay in registers over all columns. */
ES_INLINE void es_tile(int32_t *sums, size_t sums_stride, const uint8_t *panel, size_t n_rows,
                       const int8_t *q, size_t q_stride, const int vecs, const int tokens,
                       size_t n_columns, int accumulate) {
    es_quad_acc acc[ES_TILE_TOKENS][ES_PANEL_VECS];
    ES_UNROLL
    for (int t = 0; t < tokens; t++) {
        ES_UNROLL
        for (int v = 0; v < vecs; v++) {
            acc[t][v] = es_quad_zero();
        }
    }
    for (size_t i = 0; i < n_columns; i += 4, panel += ES_QUAD_BYTES) {
        es_vec w[ES_PANEL_VECS];
        ES_UNROLL
        for (int v = 0; v < vecs; v++) {
            w[v] = es_load(panel + v * ES_VEC_BYTES);
        }
        ES_UNROLL
        for (int t = 0; t < tokens; t++) {
            const es_vec_i8 x = es_broadcast4(q + (size_t)t * q_stride + i);
            ES_UNROLL
            for (int v = 0; v < vecs; v++) {
                acc[t][v] = es_quad_dot(acc[t][v], w[v], x);
            }
        }
    }
    ES_UNROLL
    for (int t = 0; t < tokens; t++) {
        ES_UNROLL
        for (int v = 0; v < vecs; v++) {
            const size_t done = (size_t)v * ES_LANES;
            es_store_lanes(sums + (size_t)t * sums_stride + done, es_quad_sums(acc[t][v]),
                           es_min_size(n_rows - done, ES_LANES), accumulate);
        }
    }
}

#define ES_TILE_CASE(tokens)                                                            \
    case tokens:                                                                        \
        es_tile(sums, sums_stride, panel, n_rows, q, q_stride, vecs, tokens, n_columns, \
                accumulate);                                                            \
        break

ES_INLINE void es_tile_of(int32_t *sums, size_t sums_stride, const uint8_t *panel, size_t n_rows,
                          const int8_t *q, size_t q_stride, const int vecs, size_t n_tokens,
                          size_t n_columns, int accumulate) {
    switch (n_tokens) {
        ES_TILE_CASE(1);
        ES_TILE_CASE(2);
        ES_TILE_CASE(3);
        ES_TILE_CASE(4);
#if ES_TILE_TOKENS > 4
        ES_TILE_CASE(5);
        ES_TILE_CASE(6);
#endif
#if ES_TILE_TOKENS > 6
        ES_TILE_CASE(7);
        ES_TILE_CASE(8);
#endif
    default:
        break;
    }
}

#undef ES_TILE_CASE

static void es_panel_tile(int32_t *sums, size_t sums_stride, const uint8_t *panel, size_t n_rows,
                          const int8_t *q, size_t q_stride, size_t n_tokens, size_t n_columns,
                          int accumulate) {
    if (n_rows > ES_LANES) {
        es_tile_of(sums, sums_stride, panel, n_rows, q, q_stride, 2, n_tokens, n_columns,
                   accumulate);
    } else {
        es_tile_of(sums, sums_stride, panel, n_rows, q, q_stride, 1, n_tokens, n_columns,
                   accumulate);
    }
}

#endif
