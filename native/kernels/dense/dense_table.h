/* Names the kernels of one instruction set: the file that includes this defines block_dot() and
 * float_dot(), always inlined with the format as their last argument, and gets one function each.
 */
#ifndef ES_DENSE_TABLE_H
#define ES_DENSE_TABLE_H

#define ES_DENSE_BLOCK(name, format)                                               \
    static void name(float *y, size_t y_stride, const uint8_t *w, int32_t n_tiles, \
                     const es_q16 *x, int32_t n_tokens, int32_t n_blocks) {        \
        block_dot(y, y_stride, w, n_tiles, x, n_tokens, n_blocks, format);         \
    }

#define ES_DENSE_FLOAT(name, format)                                                               \
    static void name(float *y, size_t y_stride, const uint8_t *w, int32_t n_tiles, const float *x, \
                     size_t x_stride, int32_t n_tokens, int32_t k) {                               \
        float_dot(y, y_stride, w, n_tiles, x, x_stride, n_tokens, k, format);                      \
    }

#define ES_DENSE_BLOCK_KERNELS             \
    ES_DENSE_BLOCK(q8_dot, ES_FORMAT_Q8)   \
    ES_DENSE_BLOCK(q4_dot, ES_FORMAT_Q4)   \
    ES_DENSE_BLOCK(q8m_dot, ES_FORMAT_Q8M) \
    ES_DENSE_BLOCK(q4m_dot, ES_FORMAT_Q4M) \
    ES_DENSE_BLOCK(q6_dot, ES_FORMAT_Q6)

#define ES_DENSE_FLOAT_KERNELS               \
    ES_DENSE_FLOAT(f16_dot, ES_FORMAT_F16)   \
    ES_DENSE_FLOAT(bf16_dot, ES_FORMAT_BF16) \
    ES_DENSE_FLOAT(f32_dot, ES_FORMAT_F32)

#define ES_DENSE_SET_BLOCKS(table, variant)                    \
    do {                                                       \
        (table)->q8_dot = q8_dot;                              \
        (table)->q4_dot = q4_dot;                              \
        (table)->q8m_dot = q8m_dot;                            \
        (table)->q4m_dot = q4m_dot;                            \
        (table)->q6_dot = q6_dot;                              \
        (table)->q8_variant = (table)->q4_variant = variant;   \
        (table)->q8m_variant = (table)->q4m_variant = variant; \
        (table)->q6_variant = variant;                         \
    } while (0)

#define ES_DENSE_SET_FLOATS(table, variant)                                            \
    do {                                                                               \
        (table)->f16_dot = f16_dot;                                                    \
        (table)->bf16_dot = bf16_dot;                                                  \
        (table)->f32_dot = f32_dot;                                                    \
        (table)->f16_variant = (table)->bf16_variant = (table)->f32_variant = variant; \
    } while (0)

#endif
