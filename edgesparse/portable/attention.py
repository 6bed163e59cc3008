"""Causal grouped-query attention over the cache (numba twin of ``ops/attention.py``).

One work item is one kv head of one token: its query heads share every widened key and value.
"""

from __future__ import annotations

import numpy as np

from edgesparse.executors.base import Step
from edgesparse.plan.cache_type import CHUNK, CacheType
from edgesparse.plan.op import Attention
from edgesparse.plan.sparse_rows import GROUP
from edgesparse.portable.bind import (
    Bindings,
    Bytes,
    Float32,
    Int32,
    Runner,
    plane_of,
    recent_of,
    require,
    require_cache,
    tokens_of,
)
from edgesparse.portable.jit import njit
from edgesparse.portable.numerics import ONE, ZERO, dot16, exp, fold16, halfs_in_bytes, widen_q8_0
from edgesparse.portable.sparse_rows import widen_sparse

__all__ = ["bind"]

Q8_0 = int(CacheType.Q8_0)


@njit
def widen(out: Float32, row: Bytes, kind: int) -> None:
    """Widen one row of the cache."""
    if kind == Q8_0:
        widen_q8_0(out, row, out.shape[0])
    else:
        halfs_in_bytes(out, row, out.shape[0])


@njit
def attend_chunk(
    part: Float32,
    q: Float32,
    keys: Bytes,
    values: Bytes,
    sparse_keys: Bytes,
    sparse_values: Bytes,
    n_sparse: int,
    type_k: int,
    type_v: int,
    scale: np.float32,
    first: int,
    scores: Float32,
    wide: Float32,
    lanes: Float32,
) -> None:
    """Attend with the query heads of one kv head to rows first … of one chunk.

    Parameters
    ----------
    part : (group, 2 + head_dim) float32
        Result: largest score, sum of weights, weighted sum of values.
    q : (group, head_dim) float32
    keys, values : (n_rows, row_bytes) uint8
        The chunk's rows up to the last one to attend to.
    sparse_keys, sparse_values : (>= n_sparse, row_bytes) uint8
        Rows to read instead of the first `n_sparse`.
    type_k, type_v : int
        Their `CacheType`.
    scores, wide, lanes : (group, CHUNK), (head_dim,), (16,) float32
        Scratch.
    """
    n_rows = keys.shape[0]
    group, head_dim = q.shape
    for j in range(first, n_rows):
        if j < n_sparse:
            widen_sparse(wide, sparse_keys[j])
        else:
            widen(wide, keys[j], type_k)
        for g in range(group):
            scores[g, j] = dot16(q[g], wide, lanes) * scale
    for g in range(group):
        row = scores[g]
        top = row[first]
        for j in range(first, n_rows):
            top = row[j] if row[j] > top else top
        lanes[:] = ZERO
        for j in range(first, n_rows):
            row[j] = exp(np.float32(row[j] - top))
            lanes[j % 16] += row[j]
        part[g, 0] = top
        part[g, 1] = fold16(lanes)
        part[g, 2:] = ZERO
    for j in range(first, n_rows):
        if j < n_sparse:
            widen_sparse(wide, sparse_values[j])
        else:
            widen(wide, values[j], type_v)
        for g in range(group):
            e = scores[g, j]
            acc = part[g, 2:]
            for i in range(head_dim):
                acc[i] += e * wide[i]


@njit
def merge(total: Float32, part: Float32) -> None:
    """Add the part of a later chunk."""
    for g in range(total.shape[0]):
        top = total[g, 0] if total[g, 0] > part[g, 0] else part[g, 0]
        a = exp(np.float32(total[g, 0] - top))
        b = exp(np.float32(part[g, 0] - top))
        total[g, 0] = top
        for i in range(1, total.shape[1]):
            total[g, i] = total[g, i] * a + part[g, i] * b


@njit
def attention_items(
    dst: Float32,
    q: Float32,
    keys: Bytes,
    values: Bytes,
    indices: Int32,
    positions: Int32,
    recent_keys: Bytes,
    recent_values: Bytes,
    n_recent: int,
    sparse_window: int,
    type_k: int,
    type_v: int,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
    layer: int,
    n_planes: int,
    capacity: int,
    scale: np.float32,
    window: int,
    begin: int,
    end: int,
) -> None:
    """Compute items [begin, end): kv head ``item % n_kv_heads`` of token ``item // n_kv_heads``.

    Parameters
    ----------
    dst, q : (max_tokens, >= n_heads * head_dim) float32
        Result and queries.
    keys, values : uint8
        `CacheRows.data` of one sequence: `n_planes` times `capacity` rows.
    indices : (n,) int32
        That sequence's tokens.
    recent_keys, recent_values : uint8
        Whole rows of the latest `n_recent` positions, where those of `keys` and `values` are
        pruned; n_recent = 0: they are not.
    sparse_window : int
        `SparseRows.window`.
    """
    group = n_heads // n_kv_heads
    width = group * head_dim
    total = np.empty((group, 2 + head_dim), np.float32)
    part = np.empty((group, 2 + head_dim), np.float32)
    scores = np.empty((group, CHUNK), np.float32)
    wide = np.empty(head_dim, np.float32)
    lanes = np.empty(16, np.float32)
    for item in range(begin, end):
        t = indices[item // n_kv_heads]
        h = item % n_kv_heads
        last = positions[t] + 1
        first = max(0, last - window) if window > 0 else 0
        opening = first // CHUNK * CHUNK
        n_sparse = max(0, last - sparse_window) // GROUP * GROUP if n_recent > 0 else 0
        for start in range(opening, last, CHUNK):
            n_rows = min(last - start, CHUNK)
            chunk = start // CHUNK
            plane = layer * n_kv_heads + h
            k = plane_of(keys, n_planes, capacity, plane, chunk)
            v = plane_of(values, n_planes, capacity, plane, chunk)
            whole_k, whole_v = k, v
            if n_recent > 0:
                recent = start % n_recent // CHUNK
                whole_k = plane_of(recent_keys, n_planes, n_recent, plane, recent)
                whole_v = plane_of(recent_values, n_planes, n_recent, plane, recent)
            attend_chunk(
                total if start == opening else part,
                q[t, h * width : (h + 1) * width].reshape((group, head_dim)),
                whole_k[:n_rows],
                whole_v[:n_rows],
                k,
                v,
                max(0, n_sparse - start),
                type_k,
                type_v,
                scale,
                max(0, first - start),
                scores,
                wide,
                lanes,
            )
            if start != opening:
                merge(total, part)
        out = dst[t, h * width : (h + 1) * width]
        for g in range(group):
            inverse = np.float32(ONE / total[g, 1])
            for i in range(head_dim):
                out[g * head_dim + i] = total[g, 2 + i] * inverse


def bind(op: Attention, bindings: Bindings) -> Runner:
    """Return the op as a function of the step."""
    q, dst = bindings.buffers[op.q], bindings.buffers[op.dst]
    n_heads, scale, window = op.n_heads, np.float32(op.scale), op.window
    group = n_heads // op.n_kv_heads
    types = int(bindings.plan.cache_type_k), int(bindings.plan.cache_type_v)
    require(n_heads == group * op.n_kv_heads, op.name, "n_heads is no multiple of n_kv_heads")
    width = n_heads * op.head_dim
    n_planes = bindings.plan.n_layers * op.n_kv_heads
    rows = bindings.plan.sparse_rows
    sparse = (0, 0) if rows is None else (rows.n_recent, rows.window)
    require_cache(op, bindings.plan)
    require(min(q.shape[1], dst.shape[1]) >= width, op.name, "q or dst is narrower than its heads")

    def run(step: Step) -> None:
        for indices, cache in tokens_of(step):
            keys, values, capacity = cache.keys.data, cache.values.data, cache.capacity
            recent = recent_of(cache)

            def work(
                begin: int,
                end: int,
                worker: int,
                keys: Bytes = keys,
                values: Bytes = values,
                indices: Int32 = indices,
                capacity: int = capacity,
                recent: tuple[Bytes, Bytes] = recent,
            ) -> None:
                data = (dst, q, keys, values, indices, step.positions, *recent, *sparse)
                heads = (n_heads, op.n_kv_heads, op.head_dim)
                where = (op.layer, n_planes, capacity)
                attention_items(*data, *types, *heads, *where, scale, window, begin, end)

            bindings.pool.run(work, len(indices) * op.n_kv_heads)

    return run
