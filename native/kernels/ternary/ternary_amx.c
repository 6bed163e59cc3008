/* Many tokens times ternary weights with tdpbssd: 16 x 16 int32 sums of 64 products each, at once.
 *
 * A panel is 32 rows, unpacked to one code per byte: steps of 64 columns, each two B tiles of 16 rows
 * by 16 groups of four columns, row beside row within a group. Activations are A tiles as they lie in
 * memory. 32 tokens by 32 rows of sums stay in four tiles over a panel's columns. Products add up in
 * int32 without an intermediate, so ternary.h's bound is the only one.
 *
 * Few tokens are the business of the vector kernels: unpacking would cost more than multiplying. */
#include "ternary.h"

#include <immintrin.h>

enum {
    TILE_ROWS = 16, /* rows of weights, tokens, or groups of four columns in a tile */
    TILE_BYTES = 1024,
    STEP_COLUMNS = 64,
    PANEL_ROWS = 2 * TILE_ROWS,
    PANEL_TOKENS = 2 * TILE_ROWS,
    STEP_BYTES = PANEL_ROWS * STEP_COLUMNS,
    STEP_QUADS = STEP_COLUMNS / 4,
    FIELD_QUADS = 8,   /* 32 consecutive weights */
    T2_BLOCKS = 8,     /* of a panel, along k: it fills two thirds of the first-level cache */
    T5_BLOCKS = 6,     /* an even number: 320 columns are whole steps, 160 are not */
    T2N_COLUMNS = 512, /* inputs that are unpacked together, for 128 outputs */
    T2N_PANELS = ES_T2_BLOCK / PANEL_ROWS,
    T2N_BLOCKS = 2, /* of 128 outputs: a cache line of each input */
    PANEL_BYTES = T2_BLOCKS * ES_T2_BLOCK * PANEL_ROWS,
    T2N_PANEL_BYTES = T2N_COLUMNS * PANEL_ROWS,
    MANY_TOKENS = 16
};
_Static_assert(T5_BLOCKS * ES_T5_BLOCK * PANEL_ROWS <= PANEL_BYTES, "a panel fits its buffer");

/* The operand of ldtilecfg; tiles 0-3 are sums, 4-5 activations, 6-7 weights. */
typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;
_Static_assert(sizeof(tile_config) == 64, "as the instruction reads it");

/* For up to 32 tokens. A memory operand instead of the intrinsic: GCC 12 takes the stores to a local
 * configuration for dead and drops them. */
static void configure(size_t n_tokens) {
    const uint8_t first = (uint8_t)(n_tokens < TILE_ROWS ? n_tokens : TILE_ROWS);
    const uint8_t second = (uint8_t)(n_tokens - first);
    const uint8_t rows[8] = {first, first, second, second, first, second, TILE_ROWS, TILE_ROWS};
    tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.rows[i] = rows[i];
        config.row_bytes[i] = rows[i] > 0 ? 64 : 0;
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

/* The tile intrinsics of GCC do not tell the compiler that they read and write memory. */
ES_INLINE void settle_memory(void) {
    __asm__ volatile("" : : : "memory");
}

ES_INLINE uint8_t *quad_at(uint8_t *panel, size_t quad, size_t tile) {
    return panel + quad / STEP_QUADS * STEP_BYTES + tile * TILE_BYTES + quad % STEP_QUADS * 64;
}

/* Shifts act on 32-bit lanes; the masks remove what crossed a byte. */
ES_INLINE void t2_decode(__m512i *codes, __m512i packed) {
    const __m512i three = _mm512_set1_epi8(3);
    codes[0] = _mm512_and_si512(_mm512_srli_epi32(packed, 6), three);
    codes[1] = _mm512_and_si512(_mm512_srli_epi32(packed, 4), three);
    codes[2] = _mm512_and_si512(_mm512_srli_epi32(packed, 2), three);
    codes[3] = _mm512_and_si512(packed, three);
}

/* The leading digit of a fraction y is 1 from 86 on and 2 from 171 on. */
ES_INLINE void t5_decode(__m512i *codes, __m512i packed) {
    const __m512i one = _mm512_set1_epi8(1);
    __m512i y = packed;
    ES_UNROLL
    for (int f = 0; f < ES_T5_FIELDS; f++) {
        const __mmask64 some = _mm512_cmpgt_epu8_mask(y, _mm512_set1_epi8(85));
        const __mmask64 two = _mm512_cmpgt_epu8_mask(y, _mm512_set1_epi8((char)170));
        const __m512i code = _mm512_maskz_mov_epi8(some, one);
        codes[f] = _mm512_mask_add_epi8(code, two, code, one);
        y = _mm512_add_epi8(_mm512_add_epi8(y, y), y);
    }
}

/* Four consecutive bytes of a block hold, field by field, four consecutive weights. */
ES_INLINE void unpack(uint8_t *panel, const uint8_t *w, size_t row_bytes, size_t n_rows,
                      size_t n_blocks, const size_t fields,
                      void (*decode)(__m512i *codes, __m512i packed)) {
    const size_t n_quads = n_blocks * fields * FIELD_QUADS;
    for (size_t tile = 0; tile < 2; tile++) {
        const uint8_t *rows[TILE_ROWS];
        for (size_t r = 0; r < TILE_ROWS; r++) {
            /* A missing row repeats the last one; its sums are not stored. */
            const size_t row = tile * TILE_ROWS + r;
            rows[r] = w + (row < n_rows ? row : n_rows - 1) * row_bytes;
        }
        for (size_t b = 0; b < n_blocks; b++) {
            for (size_t half = 0; half < 2; half++) {
                const size_t at = b * ES_TERNARY_BLOCK_BYTES + 16 * half;
                __m512i row[4], packed[4];
                ES_UNROLL
                for (int i = 0; i < 4; i++) {
                    __m512i v =
                        _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(rows[i] + at)));
                    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(rows[i + 4] + at)),
                                           1);
                    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(rows[i + 8] + at)),
                                           2);
                    row[i] = _mm512_inserti32x4(
                        v, _mm_loadu_si128((const __m128i *)(rows[i + 12] + at)), 3);
                }
                const __m512i lo01 = _mm512_unpacklo_epi32(row[0], row[1]);
                const __m512i hi01 = _mm512_unpackhi_epi32(row[0], row[1]);
                const __m512i lo23 = _mm512_unpacklo_epi32(row[2], row[3]);
                const __m512i hi23 = _mm512_unpackhi_epi32(row[2], row[3]);
                packed[0] = _mm512_unpacklo_epi64(lo01, lo23);
                packed[1] = _mm512_unpackhi_epi64(lo01, lo23);
                packed[2] = _mm512_unpacklo_epi64(hi01, hi23);
                packed[3] = _mm512_unpackhi_epi64(hi01, hi23);
                ES_UNROLL
                for (size_t d = 0; d < 4; d++) {
                    __m512i codes[ES_T5_FIELDS];
                    decode(codes, packed[d]);
                    ES_UNROLL
                    for (size_t f = 0; f < fields; f++) {
                        const size_t quad = (b * fields + f) * FIELD_QUADS + 4 * half + d;
                        _mm512_store_si512(quad_at(panel, quad, tile), codes[f]);
                    }
                }
            }
        }
        for (size_t quad = n_quads; quad % STEP_QUADS != 0; quad++) {
            _mm512_store_si512(quad_at(panel, quad, tile), _mm512_setzero_si512());
        }
    }
}

/* Four inputs' packed bytes for 128 outputs; byte by byte side by side they give the four codes of an
 * output in one lane. Missing inputs are zero codes. */
static void t2n_unpack(uint8_t *panels, const uint8_t *w, size_t row_bytes, size_t n_columns) {
    const size_t n_quads = (n_columns + STEP_COLUMNS - 1) / STEP_COLUMNS * STEP_QUADS;
    for (size_t quad = 0; quad < n_quads; quad++) {
        __m256i row[4];
        ES_UNROLL
        for (size_t i = 0; i < 4; i++) {
            row[i] = _mm256_setzero_si256();
            if (4 * quad + i < n_columns) {
                const uint8_t *from = w + (4 * quad + i) * row_bytes;
                row[i] = _mm256_loadu_si256((const __m256i *)from);
            }
        }
        const __m256i lo01 = _mm256_unpacklo_epi8(row[0], row[1]);
        const __m256i hi01 = _mm256_unpackhi_epi8(row[0], row[1]);
        const __m256i lo23 = _mm256_unpacklo_epi8(row[2], row[3]);
        const __m256i hi23 = _mm256_unpackhi_epi8(row[2], row[3]);
        const __m256i v0 = _mm256_unpacklo_epi16(lo01, lo23);
        const __m256i v1 = _mm256_unpackhi_epi16(lo01, lo23);
        const __m256i v2 = _mm256_unpacklo_epi16(hi01, hi23);
        const __m256i v3 = _mm256_unpackhi_epi16(hi01, hi23);
        const __m512i packed[2] = {
            _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_permute2x128_si256(v0, v1, 0x20)),
                               _mm256_permute2x128_si256(v2, v3, 0x20), 1),
            _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_permute2x128_si256(v0, v1, 0x31)),
                               _mm256_permute2x128_si256(v2, v3, 0x31), 1)};
        ES_UNROLL
        for (size_t tile = 0; tile < 2; tile++) {
            __m512i codes[ES_T2_FIELDS];
            t2_decode(codes, packed[tile]);
            ES_UNROLL
            for (size_t f = 0; f < ES_T2_FIELDS; f++) {
                _mm512_store_si512(quad_at(panels + f * T2N_PANEL_BYTES, quad, tile), codes[f]);
            }
        }
    }
}

/* Tiles 0-3: n_tokens x 32 sums over n_steps steps; the tiles are configured for n_tokens. Activations
 * pass by with the hint that they are not read again soon, so that the panel stays in the first level. */
ES_INLINE void multiply(int32_t *sums, size_t sums_stride, const uint8_t *panel, const int8_t *q,
                        size_t q_stride, const int both, size_t n_steps, int accumulate) {
    const size_t stride = sums_stride * sizeof(int32_t);
    int32_t *second = sums + TILE_ROWS * sums_stride;
    const int8_t *q2 = q + TILE_ROWS * q_stride;
    settle_memory();
    if (accumulate) {
        _tile_loadd(0, sums, stride);
        _tile_loadd(1, sums + TILE_ROWS, stride);
        if (both) {
            _tile_loadd(2, second, stride);
            _tile_loadd(3, second + TILE_ROWS, stride);
        }
    } else {
        _tile_zero(0);
        _tile_zero(1);
        if (both) {
            _tile_zero(2);
            _tile_zero(3);
        }
    }
    for (size_t s = 0; s < n_steps; s++) {
        _tile_loadd(6, panel + s * STEP_BYTES, 64);
        _tile_stream_loadd(4, q + s * STEP_COLUMNS, q_stride);
        _tile_dpbssd(0, 4, 6);
        _tile_loadd(7, panel + s * STEP_BYTES + TILE_BYTES, 64);
        _tile_dpbssd(1, 4, 7);
        if (both) {
            _tile_stream_loadd(5, q2 + s * STEP_COLUMNS, q_stride);
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        }
    }
    _tile_stored(0, sums, stride);
    _tile_stored(1, sums + TILE_ROWS, stride);
    if (both) {
        _tile_stored(2, second, stride);
        _tile_stored(3, second + TILE_ROWS, stride);
    }
    settle_memory();
}

/* The same for any number of rows up to 32. */
static void multiply_tokens(int32_t *sums, size_t sums_stride, const uint8_t *panel, size_t n_rows,
                            const int8_t *q, size_t q_stride, size_t n_tokens, size_t n_steps,
                            int accumulate) {
    _Alignas(64) int32_t part[PANEL_TOKENS * PANEL_ROWS];
    const int whole = n_rows == PANEL_ROWS;
    int32_t *to = whole ? sums : part;
    const size_t stride = whole ? sums_stride : PANEL_ROWS;
    if (n_tokens > TILE_ROWS) {
        multiply(to, stride, panel, q, q_stride, 1, n_steps, whole && accumulate);
    } else {
        multiply(to, stride, panel, q, q_stride, 0, n_steps, whole && accumulate);
    }
    for (size_t t = 0; !whole && t < n_tokens; t++) {
        for (size_t r = 0; r < n_rows; r++) {
            int32_t *sum = sums + t * sums_stride + r;
            *sum = part[t * PANEL_ROWS + r] + (accumulate ? *sum : 0);
        }
    }
}

ES_INLINE size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Lines of weights that are still to be asked for: n_bytes of each of n_rows rows. Few at a time between
 * products: more than a core has buffers for would hold it up. */
typedef struct requests {
    const uint8_t *row;
    size_t row_bytes, n_rows, n_bytes;
    size_t at;       /* in the row */
    size_t per_call; /* lines */
} requests;

/* For n_calls of request(). */
ES_INLINE requests requests_of(const uint8_t *w, size_t row_bytes, size_t n_rows, size_t n_bytes,
                               size_t n_calls) {
    const size_t n_lines = n_rows * ((n_bytes + ES_CACHE_LINE - 1) / ES_CACHE_LINE);
    return (requests){w, row_bytes, n_rows, n_bytes, 0, (n_lines + n_calls - 1) / n_calls};
}

ES_INLINE void request(requests *next) {
    for (size_t i = 0; i < next->per_call && next->n_rows > 0; i++) {
        es_prefetch(next->row, next->at);
        next->at += ES_CACHE_LINE;
        if (next->at >= next->n_bytes) {
            next->at = 0;
            next->row = (const uint8_t *)((uintptr_t)next->row + next->row_bytes);
            next->n_rows--;
        }
    }
}

ES_INLINE size_t token_panels(size_t n_tokens) {
    return (n_tokens + PANEL_TOKENS - 1) / PANEL_TOKENS;
}

/* One panel times all tokens. Tiles are configured for 32 tokens when it begins and when it ends. */
static void multiply_panel(int32_t *sums, size_t sums_stride, const uint8_t *panel, size_t n_rows,
                           const int8_t *q, size_t q_stride, size_t n_tokens, size_t n_steps,
                           int accumulate, requests *next) {
    const size_t n_whole = n_tokens / PANEL_TOKENS * PANEL_TOKENS;
    for (size_t t = 0; t < n_whole; t += PANEL_TOKENS) {
        request(next);
        multiply_tokens(sums + t * sums_stride, sums_stride, panel, n_rows, q + t * q_stride,
                        q_stride, PANEL_TOKENS, n_steps, accumulate);
    }
    if (n_whole < n_tokens) {
        request(next);
        configure(n_tokens - n_whole);
        multiply_tokens(sums + n_whole * sums_stride, sums_stride, panel, n_rows,
                        q + n_whole * q_stride, q_stride, n_tokens - n_whole, n_steps, accumulate);
        configure(PANEL_TOKENS);
    }
}

ES_INLINE void many(int32_t *sums, size_t sums_stride, const uint8_t *w, size_t row_bytes,
                    size_t n_rows, const int8_t *q, size_t q_stride, size_t n_tokens, size_t k,
                    const size_t fields, const size_t panel_blocks,
                    void (*decode)(__m512i *codes, __m512i packed)) {
    _Alignas(64) uint8_t panel[PANEL_BYTES];
    const size_t block = 32 * fields, n_blocks = (k + block - 1) / block;
    configure(PANEL_TOKENS);
    for (size_t r = 0; r < n_rows; r += PANEL_ROWS) {
        const size_t n = least(PANEL_ROWS, n_rows - r);
        for (size_t b = 0; b < n_blocks; b += panel_blocks) {
            const size_t blocks = least(panel_blocks, n_blocks - b);
            const uint8_t *chunk = w + r * row_bytes + b * ES_TERNARY_BLOCK_BYTES;
            unpack(panel, chunk, row_bytes, n, blocks, fields, decode);
            /* The next chunk arrives from memory while this one is multiplied. */
            const int is_last = b + blocks == n_blocks;
            requests next = requests_of(
                is_last ? w + (r + n) * row_bytes : chunk + blocks * ES_TERNARY_BLOCK_BYTES,
                row_bytes, n, blocks * ES_TERNARY_BLOCK_BYTES, token_panels(n_tokens));
            multiply_panel(sums + r, sums_stride, panel, n, q + b * block, q_stride, n_tokens,
                           (blocks * block + STEP_COLUMNS - 1) / STEP_COLUMNS, b > 0, &next);
        }
    }
    _tile_release();
}

static void t2_many(int32_t *sums, size_t sums_stride, const uint8_t *w, size_t row_bytes,
                    int32_t n_rows, const int8_t *q, size_t q_stride, int32_t n_tokens, int32_t k) {
    many(sums, sums_stride, w, row_bytes, (size_t)n_rows, q, q_stride, (size_t)n_tokens, (size_t)k,
         ES_T2_FIELDS, T2_BLOCKS, t2_decode);
}

static void t5_many(int32_t *sums, size_t sums_stride, const uint8_t *w, size_t row_bytes,
                    int32_t n_rows, const int8_t *q, size_t q_stride, int32_t n_tokens, int32_t k) {
    many(sums, sums_stride, w, row_bytes, (size_t)n_rows, q, q_stride, (size_t)n_tokens, (size_t)k,
         ES_T5_FIELDS, T5_BLOCKS, t5_decode);
}

static void t2n_many(int32_t *sums, size_t sums_stride, const uint8_t *w, size_t row_bytes,
                     int32_t n_rows, const int8_t *q, size_t q_stride, int32_t n_tokens,
                     int32_t k) {
    _Alignas(64) uint8_t panels[T2N_BLOCKS * T2N_PANELS * T2N_PANEL_BYTES];
    const size_t rows = (size_t)n_rows, columns = (size_t)k;
    const size_t step = T2N_BLOCKS * ES_T2_BLOCK;
    configure(PANEL_TOKENS);
    for (size_t r = 0; r < rows; r += step) {
        const size_t n_outputs = least(step, rows - r);
        const size_t n_blocks = (n_outputs + ES_T2_BLOCK - 1) / ES_T2_BLOCK;
        for (size_t c = 0; c < columns; c += T2N_COLUMNS) {
            const size_t n = least(T2N_COLUMNS, columns - c);
            const uint8_t *chunk = w + c * row_bytes + r / ES_T2_BLOCK * ES_TERNARY_BLOCK_BYTES;
            for (size_t b = 0; b < n_blocks; b++) {
                t2n_unpack(panels + b * T2N_PANELS * T2N_PANEL_BYTES,
                           chunk + b * ES_TERNARY_BLOCK_BYTES, row_bytes, n);
            }
            const size_t n_panels = (n_outputs + PANEL_ROWS - 1) / PANEL_ROWS;
            requests next = requests_of(
                chunk + n * row_bytes, row_bytes, least(T2N_COLUMNS, columns - c - n),
                n_blocks * ES_TERNARY_BLOCK_BYTES, n_panels * token_panels((size_t)n_tokens));
            for (size_t p = 0; p < n_panels; p++) {
                const size_t first = r + p * PANEL_ROWS;
                multiply_panel(sums + first, sums_stride, panels + p * T2N_PANEL_BYTES,
                               least(PANEL_ROWS, rows - first), q + c, q_stride, (size_t)n_tokens,
                               (n + STEP_COLUMNS - 1) / STEP_COLUMNS, c > 0, &next);
            }
        }
    }
    _tile_release();
}

void es_ternary_amx(es_kernels *table) {
    table->t2_many = t2_many;
    table->t5_many = t5_many;
    table->t2n_many = t2n_many;
    table->many_tokens = MANY_TOKENS;
    /* Fewer tokens run on the vector kernels of the level below. */
    table->t2_variant = "avx512vnni+amx";
    table->t5_variant = "avx512vnni+amx";
    table->t2n_variant = "avx512vnni+amx";
}
