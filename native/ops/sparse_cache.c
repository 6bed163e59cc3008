/* Pruned keys and values (edgesparse/plan/sparse_rows.py). Every row is stored twice: pruned, for good, and
 * whole in a ring, which later positions overwrite. Attention reads a chunk that is whole in place, and
 * pruned rows too where its kernel can; else these are expanded first, into a thread's own memory. */
#include "engine.h"

#include <string.h>

static es_cache_rows pruned_plane(const es_engine *engine, const es_op *op, const es_cache *cache,
                                  int values, int32_t kv_head, int32_t position) {
    const size_t row_bytes = es_sparse_row_bytes(op->head_dim, engine->plan.kv_kept);
    const size_t row = es_cache_row(engine, op, cache->capacity, kv_head, position);
    return (es_cache_rows){.data = (values ? cache->values : cache->keys) + row * row_bytes,
                           .row_bytes = row_bytes,
                           .type = ES_CACHE_F16};
}

static es_cache_rows whole_plane(const es_engine *engine, const es_op *op, const es_cache *cache,
                                 int values, int32_t kv_head, int32_t position) {
    const int32_t n_recent = engine->plan.kv_recent;
    const size_t row_bytes = es_cache_row_bytes(ES_CACHE_F16, op->head_dim);
    const size_t row = es_cache_row(engine, op, n_recent, kv_head, position % n_recent);
    return (es_cache_rows){.data = (values ? cache->recent_values : cache->recent_keys) +
                                   row * row_bytes,
                           .row_bytes = row_bytes,
                           .type = ES_CACHE_F16};
}

void es_sparse_store(const es_engine *engine, const es_op *op, const es_cache *cache, int values,
                     int32_t kv_head, int32_t position, const float *x) {
    const es_cache_rows whole = whole_plane(engine, op, cache, values, kv_head, position);
    const es_cache_rows pruned = pruned_plane(engine, op, cache, values, kv_head, position);
    uint16_t *halfs = (void *)whole.data;
    engine->k.f32_to_f16(halfs, x, op->head_dim);
    engine->k.prune_row((void *)pruned.data, halfs, op->head_dim, engine->plan.kv_kept);
}

int32_t es_sparse_rows(const es_plan *plan, int32_t position) {
    if (plan->kv_kept == 0) {
        return 0;
    }
    return es_max(0, position + 1 - plan->kv_window) / ES_KV_GROUP * ES_KV_GROUP;
}

es_cache_rows es_sparse_chunk(const es_engine *engine, const es_op *op, const es_cache *cache,
                              int values, int32_t kv_head, int32_t begin, int32_t low, int32_t high,
                              int32_t n_sparse, uint16_t *scratch) {
    es_cache_rows whole = whole_plane(engine, op, cache, values, kv_head, begin);
    const int32_t end = es_min(n_sparse - begin, high);
    if (end <= low) {
        return whole;
    }
    if (engine->k.attention_reads_pruned) {
        const es_cache_rows pruned = pruned_plane(engine, op, cache, values, kv_head, begin);
        whole.n_pruned = end;
        whole.pruned = pruned.data;
        whole.pruned_bytes = pruned.row_bytes;
        return whole;
    }
    /* Kernels read whole tiles, the rows before `low` with a weight of 0. */
    low = low / ES_ATTENTION_TILE * ES_ATTENTION_TILE;
    const size_t dim = (size_t)op->head_dim;
    const es_cache_rows pruned = pruned_plane(engine, op, cache, values, kv_head, begin + low);
    engine->k.expand_rows(scratch + (size_t)low * dim, pruned.data, pruned.row_bytes, end - low,
                          op->head_dim);
    memcpy(scratch + (size_t)end * dim, whole.data + (size_t)end * whole.row_bytes,
           (size_t)(high - end) * whole.row_bytes);
    whole.data = (const uint8_t *)scratch;
    return whole;
}
