/* Many tokens times ternary weights without a multiplication: vectors of sums are looked up.
 *
 * Four weights have 81 values, so a group of four columns has 81 possible sums per token. A table holds
 * them for 32 tokens side by side; then a row adds one entry, two vectors, for every group. An addition
 * stands for four products in each 16-bit lane, where vpmaddubsw and its addition make two, and packed
 * weights only have to become numbers below 81, once for all tokens. A table costs as much as some 80
 * rows, so a call should have many more. (Li et al., "Vec-LUT", arXiv 2512.06443.)
 *
 * Sapphire Rapids server, one thread, 1280 rows of 2560 columns, 512 tokens: 219 G products a second,
 * by panels of vpmaddubsw 130. Tables of eight groups make it 233, but would not fit the 32 KiB of the
 * first-level cache that most CPUs of this level have. 512-bit vectors (291) lose to vpdpbusd (300).
 *
 * Exactness: an entry sums four of q times -1, 0 or 1, at most 512. int16 sums are emptied into int32
 * after PASSES tables of GROUPS entries: 56 * 512 = 28672. */
#include "ternary.h"

#include <immintrin.h>
#include <string.h>

enum {
    TOKENS = ES_LOOKUP_TOKENS,
    GROUPS = ES_LOOKUP_GROUPS, /* of a table */
    SUMS = 81,
    ENTRY_BYTES = TOKENS * sizeof(int16_t),
    GROUP_BYTES = SUMS * ENTRY_BYTES,
    PASSES = 56 / GROUPS,
    RUN_GROUPS = 8, /* whose activations are turned together */
    RUN_COLUMNS = 4 * RUN_GROUPS
};
_Static_assert(TOKENS == 32, "an entry is two vectors");

/* What a run's activations are: t2 has four runs of 8 columns, 32 apart, t2n one of 32. */
typedef enum layout { LAYOUT_T2, LAYOUT_T2N } layout;

ES_INLINE __m256i load(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

ES_INLINE void store(void *p, __m256i v) {
    _mm256_store_si256((__m256i *)p, v);
}

/* 27 a + 9 b + 3 c + d of bytes with the codes a, b, c, d, a in the highest bits. Code 3, which only
 * padding may hold, counts as 2. */
ES_INLINE __m256i numbers_of(__m256i packed) {
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i low =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 6, 7, 8, 8));
    const __m256i high = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 9, 18, 18, 27, 36, 45, 45, 54, 63, 72, 72, 54, 63, 72, 72));
    const __m256i upper = _mm256_and_si256(_mm256_srli_epi16(packed, 4), nibble);
    return _mm256_add_epi8(_mm256_shuffle_epi8(low, _mm256_and_si256(packed, nibble)),
                           _mm256_shuffle_epi8(high, upper));
}

/* A packed byte is a group: its four columns are 32 apart. */
static void t2_index(uint8_t *index, const uint8_t *w, size_t row_bytes, int32_t n_rows,
                     int32_t k) {
    const size_t rows = (size_t)n_rows, n_blocks = ((size_t)k + ES_T2_BLOCK - 1) / ES_T2_BLOCK;
    for (size_t b = 0; b < n_blocks; b++) {
        const uint8_t *from = w + b * ES_TERNARY_BLOCK_BYTES;
        uint8_t *to = index + b * ES_TERNARY_BLOCK_BYTES * rows;
        for (size_t r = 0; r < rows; r++, from += row_bytes, to += GROUPS) {
            _Alignas(32) uint8_t numbers[ES_TERNARY_BLOCK_BYTES];
            es_prefetch(from, 8 * row_bytes);
            store(numbers, numbers_of(load(from)));
            ES_UNROLL
            for (size_t i = 0; i < ES_TERNARY_BLOCK_BYTES; i += GROUPS) {
                memcpy(to + i * rows, numbers + i, GROUPS);
            }
        }
    }
}

/* Field f of the results holds field f of a, b, c and d, a's highest: a 4 by 4 transpose in every byte. */
ES_INLINE void turn_fields(__m256i out[4], const __m256i in[4]) {
    const __m256i even = _mm256_set1_epi8((char)0xCC), odd = _mm256_set1_epi8(0x33);
    const __m256i upper = _mm256_set1_epi8((char)0xF0), lower = _mm256_set1_epi8(0x0F);
    __m256i pair[2][2]; /* of in[2 i] and in[2 i + 1]: fields 0 and 2, fields 1 and 3 */
    for (int i = 0; i < 2; i++) {
        const __m256i a = in[2 * i], b = in[2 * i + 1];
        pair[i][0] = _mm256_or_si256(_mm256_and_si256(a, even),
                                     _mm256_and_si256(_mm256_srli_epi16(b, 2), odd));
        pair[i][1] = _mm256_or_si256(_mm256_and_si256(_mm256_slli_epi16(a, 2), even),
                                     _mm256_and_si256(b, odd));
    }
    for (int i = 0; i < 2; i++) {
        const __m256i ab = pair[0][i], cd = pair[1][i];
        out[i] = _mm256_or_si256(_mm256_and_si256(ab, upper),
                                 _mm256_and_si256(_mm256_srli_epi16(cd, 4), lower));
        out[2 + i] = _mm256_or_si256(_mm256_and_si256(_mm256_slli_epi16(ab, 4), upper),
                                     _mm256_and_si256(cd, lower));
    }
}

/* Bytes of GROUPS = 4 vectors side by side, group beside group for every row. */
ES_INLINE void store_groups(uint8_t *to, const __m256i in[GROUPS]) {
    const __m256i lo01 = _mm256_unpacklo_epi8(in[0], in[1]);
    const __m256i hi01 = _mm256_unpackhi_epi8(in[0], in[1]);
    const __m256i lo23 = _mm256_unpacklo_epi8(in[2], in[3]);
    const __m256i hi23 = _mm256_unpackhi_epi8(in[2], in[3]);
    const __m256i v0 = _mm256_unpacklo_epi16(lo01, lo23), v1 = _mm256_unpackhi_epi16(lo01, lo23);
    const __m256i v2 = _mm256_unpacklo_epi16(hi01, hi23), v3 = _mm256_unpackhi_epi16(hi01, hi23);
    const __m256i rows[4] = {
        _mm256_permute2x128_si256(v0, v1, 0x20), _mm256_permute2x128_si256(v2, v3, 0x20),
        _mm256_permute2x128_si256(v0, v1, 0x31), _mm256_permute2x128_si256(v2, v3, 0x31)};
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_si256((__m256i *)(to + 32 * i), rows[i]);
    }
}
_Static_assert(GROUPS == 4, "store_groups turns four");

/* Four inputs are a group. Rows come in whole packed blocks; missing inputs are zero codes. */
static void t2n_index(uint8_t *index, const uint8_t *w, size_t row_bytes, int32_t n_rows,
                      int32_t k) {
    const size_t rows = es_lookup_rows(n_rows), columns = (size_t)k;
    for (size_t c = 0; c < columns; c += RUN_COLUMNS) {
        for (size_t r = 0; r < rows; r += ES_T2_BLOCK) {
            for (size_t pass = 0; pass < RUN_GROUPS / GROUPS; pass++) {
                __m256i numbers[ES_T2_FIELDS][GROUPS];
                ES_UNROLL
                for (size_t g = 0; g < GROUPS; g++) {
                    const size_t first = c + 4 * (pass * GROUPS + g);
                    __m256i in[4], out[4];
                    for (size_t i = 0; i < 4; i++) {
                        in[i] = first + i < columns ? load(w + (first + i) * row_bytes + r / 4)
                                                    : _mm256_setzero_si256();
                    }
                    turn_fields(out, in);
                    for (size_t f = 0; f < ES_T2_FIELDS; f++) {
                        numbers[f][g] = numbers_of(out[f]);
                    }
                }
                uint8_t *to = index + (c / 4 + pass * GROUPS) * rows + r * GROUPS;
                for (size_t f = 0; f < ES_T2_FIELDS; f++) {
                    store_groups(to + 32 * f * GROUPS, numbers[f]);
                }
            }
        }
    }
}

/* Eight bytes of sixteen tokens turned: out[i] has byte i of all of them. */
ES_INLINE void turn_bytes(__m128i out[8], const int8_t *q, size_t q_stride, size_t n_tokens) {
    __m128i row[16], b[8], w[8], d[8];
    ES_UNROLL
    for (size_t t = 0; t < 16; t++) {
        /* A missing token repeats the last; its sums are not used. */
        const size_t token = t < n_tokens ? t : n_tokens - 1;
        row[t] = _mm_loadl_epi64((const __m128i *)(const void *)(q + token * q_stride));
    }
    ES_UNROLL
    for (int i = 0; i < 8; i++) {
        b[i] = _mm_unpacklo_epi8(row[2 * i], row[2 * i + 1]);
    }
    ES_UNROLL
    for (int i = 0; i < 4; i++) {
        w[2 * i] = _mm_unpacklo_epi16(b[2 * i], b[2 * i + 1]);
        w[2 * i + 1] = _mm_unpackhi_epi16(b[2 * i], b[2 * i + 1]);
    }
    ES_UNROLL
    for (int i = 0; i < 2; i++) {
        d[4 * i] = _mm_unpacklo_epi32(w[4 * i], w[4 * i + 2]);
        d[4 * i + 1] = _mm_unpackhi_epi32(w[4 * i], w[4 * i + 2]);
        d[4 * i + 2] = _mm_unpacklo_epi32(w[4 * i + 1], w[4 * i + 3]);
        d[4 * i + 3] = _mm_unpackhi_epi32(w[4 * i + 1], w[4 * i + 3]);
    }
    ES_UNROLL
    for (int i = 0; i < 4; i++) {
        out[2 * i] = _mm_unpacklo_epi64(d[i], d[4 + i]);
        out[2 * i + 1] = _mm_unpackhi_epi64(d[i], d[4 + i]);
    }
}

/* x[group][member][token] of a run of RUN_GROUPS groups. */
ES_INLINE void turn_inputs(int8_t *x, const int8_t *q, size_t q_stride, size_t n_tokens,
                           const layout of) {
    for (size_t part = 0; part < 4; part++) {
        const size_t column = of == LAYOUT_T2 ? 32 * part : 8 * part;
        for (size_t t = 0; t < TOKENS; t += 16) {
            const size_t at = t < n_tokens ? t : n_tokens - 1;
            __m128i turned[8];
            turn_bytes(turned, q + at * q_stride + column, q_stride, n_tokens - at);
            ES_UNROLL
            for (size_t i = 0; i < 8; i++) {
                const size_t slot = of == LAYOUT_T2 ? 4 * i + part : 8 * part + i;
                _mm_store_si128((__m128i *)(void *)(x + slot * TOKENS + t), turned[i]);
            }
        }
    }
}

/* The sums of one group for sixteen tokens; x[member][token]. */
ES_INLINE void make_sums(uint8_t *table, const int8_t *x) {
    __m256i m[4];
    for (int i = 0; i < 4; i++) {
        m[i] =
            _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)(const void *)(x + i * TOKENS)));
    }
    const __m256i zero = _mm256_setzero_si256();
    const __m256i minus = _mm256_sub_epi16(zero, m[2]);
    const __m256i cd[9] = {_mm256_sub_epi16(minus, m[3]), minus, _mm256_add_epi16(minus, m[3]),
                           _mm256_sub_epi16(zero, m[3]),  zero,  m[3],
                           _mm256_sub_epi16(m[2], m[3]),  m[2],  _mm256_add_epi16(m[2], m[3])};
    ES_UNROLL
    for (int i = 0; i < 9; i++) {
        const __m256i a = i < 3 ? _mm256_sub_epi16(zero, m[0]) : i < 6 ? zero : m[0];
        const __m256i ab = i % 3 == 0   ? _mm256_sub_epi16(a, m[1])
                           : i % 3 == 1 ? a
                                        : _mm256_add_epi16(a, m[1]);
        ES_UNROLL
        for (int j = 0; j < 9; j++) {
            store(table + (9 * i + j) * ENTRY_BYTES, _mm256_add_epi16(ab, cd[j]));
        }
    }
}

/* int16 sums of sixteen tokens join the int32 ones, or are the first of them. */
ES_INLINE void empty(int32_t *wide, __m256i v, const int first) {
    __m256i low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(v));
    __m256i high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(v, 1));
    if (!first) {
        low = _mm256_add_epi32(low, load(wide));
        high = _mm256_add_epi32(high, load(wide + 8));
    }
    store(wide, low);
    store(wide + 8, high);
}

/* Every row's entries of one table join its int16 sums (or begin them), or with these its int32 sums. */
ES_INLINE void add_entries(int32_t *wide, int16_t *narrow, const uint8_t *index,
                           const uint8_t *table, size_t n_rows, const int begins, const int empties,
                           const int first) {
    for (size_t r = 0; r < n_rows; r++, narrow += TOKENS, wide += TOKENS, index += GROUPS) {
        __m256i low = begins ? _mm256_setzero_si256() : load(narrow);
        __m256i high = begins ? _mm256_setzero_si256() : load(narrow + 16);
        uint32_t numbers;
        memcpy(&numbers, index, sizeof numbers);
        ES_UNROLL
        for (size_t g = 0; g < GROUPS; g++, numbers >>= 8) {
            const uint8_t *entry = table + g * GROUP_BYTES + (size_t)(uint8_t)numbers * ENTRY_BYTES;
            low = _mm256_add_epi16(low, load(entry));
            high = _mm256_add_epi16(high, load(entry + 32));
        }
        if (empties) {
            empty(wide, low, first);
            empty(wide + 16, high, first);
        } else {
            store(narrow, low);
            store(narrow + 16, high);
        }
    }
}
_Static_assert(GROUPS == sizeof(uint32_t), "add_entries takes all numbers of a row at once");

ES_INLINE void lookup(int32_t *wide, int16_t *narrow, const uint8_t *index, size_t rows,
                      const int8_t *q, size_t q_stride, size_t n_tokens, size_t k,
                      const layout of) {
    enum { RUNS = ES_T2_BLOCK / RUN_COLUMNS, TABLES = RUN_GROUPS / GROUPS };
    _Alignas(64) uint8_t table[GROUPS * GROUP_BYTES];
    _Alignas(64) int8_t x[RUN_COLUMNS * TOKENS];
    /* t2 works through whole blocks: rows are padded to them. */
    const size_t n_runs = of == LAYOUT_T2 ? (k + ES_T2_BLOCK - 1) / ES_T2_BLOCK * RUNS
                                          : (k + RUN_COLUMNS - 1) / RUN_COLUMNS;
    for (size_t pass = 0; pass < n_runs * TABLES; pass++) {
        const size_t run = pass / TABLES;
        if (pass % TABLES == 0) {
            const size_t column = of == LAYOUT_T2
                                      ? run / RUNS * ES_T2_BLOCK + run % RUNS * RUN_GROUPS
                                      : run * RUN_COLUMNS;
            turn_inputs(x, q + column, q_stride, n_tokens, of);
        }
        for (size_t g = 0; g < GROUPS; g++) {
            for (size_t t = 0; t < TOKENS; t += 16) {
                make_sums(table + g * GROUP_BYTES + t * sizeof(int16_t),
                          x + (pass % TABLES * GROUPS + g) * 4 * TOKENS + t);
            }
        }
        const uint8_t *numbers = index + pass * rows * GROUPS;
        const int begins = pass % PASSES == 0;
        const int empties = pass % PASSES == PASSES - 1 || pass == n_runs * TABLES - 1;
        if (empties && pass < PASSES) {
            add_entries(wide, narrow, numbers, table, rows, 0, 1, 1);
        } else if (empties && begins) {
            add_entries(wide, narrow, numbers, table, rows, 1, 1, 0);
        } else if (empties) {
            add_entries(wide, narrow, numbers, table, rows, 0, 1, 0);
        } else if (begins) {
            add_entries(wide, narrow, numbers, table, rows, 1, 0, 0);
        } else {
            add_entries(wide, narrow, numbers, table, rows, 0, 0, 0);
        }
    }
}

static void t2_lookup(int32_t *wide, int16_t *narrow, const uint8_t *index, int32_t n_rows,
                      const int8_t *q, size_t q_stride, int32_t n_tokens, int32_t k) {
    lookup(wide, narrow, index, (size_t)n_rows, q, q_stride, (size_t)n_tokens, (size_t)k,
           LAYOUT_T2);
}

static void t2n_lookup(int32_t *wide, int16_t *narrow, const uint8_t *index, int32_t n_rows,
                       const int8_t *q, size_t q_stride, int32_t n_tokens, int32_t k) {
    lookup(wide, narrow, index, es_lookup_rows(n_rows), q, q_stride, (size_t)n_tokens, (size_t)k,
           LAYOUT_T2N);
}

/* Eight rows of eight tokens at a time. */
static void turn_sums(int32_t *sums, size_t sums_stride, const int32_t *wide, int32_t n_rows,
                      int32_t n_tokens) {
    for (int32_t r = 0; r < n_rows; r += 8) {
        for (int32_t t = 0; t < n_tokens; t += 8) {
            const int32_t *from = wide + (size_t)r * TOKENS + (size_t)t;
            __m256i in[8], two[8], four[8];
            ES_UNROLL
            for (size_t i = 0; i < 8; i++) {
                in[i] = load(from + i * TOKENS);
            }
            ES_UNROLL
            for (int i = 0; i < 8; i += 2) {
                two[i] = _mm256_unpacklo_epi32(in[i], in[i + 1]);
                two[i + 1] = _mm256_unpackhi_epi32(in[i], in[i + 1]);
            }
            ES_UNROLL
            for (int i = 0; i < 8; i += 4) {
                four[i] = _mm256_unpacklo_epi64(two[i], two[i + 2]);
                four[i + 1] = _mm256_unpackhi_epi64(two[i], two[i + 2]);
                four[i + 2] = _mm256_unpacklo_epi64(two[i + 1], two[i + 3]);
                four[i + 3] = _mm256_unpackhi_epi64(two[i + 1], two[i + 3]);
            }
            for (int32_t i = 0; i < 8 && t + i < n_tokens; i++) {
                const __m256i a = four[i % 4], b = four[4 + i % 4];
                _mm256_storeu_si256(
                    (__m256i *)(void *)(sums + (size_t)(t + i) * sums_stride + (size_t)r),
                    i < 4 ? _mm256_permute2x128_si256(a, b, 0x20)
                          : _mm256_permute2x128_si256(a, b, 0x31));
            }
        }
    }
}

void es_lookup_avx2(es_kernels *table) {
    table->t2_index = t2_index;
    table->t2n_index = t2n_index;
    table->t2_lookup = t2_lookup;
    table->t2n_lookup = t2n_lookup;
    table->turn_sums = turn_sums;
    /* Few tokens are multiplied. */
    table->t2_variant = "avx2+lookup";
    table->t2n_variant = "avx2+lookup";
}
