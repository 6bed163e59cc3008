"""Rotary embedding of q and k, and the store of k and v (numba twin of ``ops/rope_kv.py``)."""

from __future__ import annotations

import numpy as np

from edgesparse.executors.base import Step
from edgesparse.plan.cache_type import CHUNK, CacheType
from edgesparse.plan.op import RopeKV, RopeStyle
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
from edgesparse.portable.norm import norm_row
from edgesparse.portable.numerics import put_half, store_q8_0
from edgesparse.portable.sparse_rows import prune_row

__all__ = ["bind"]

NEOX = int(RopeStyle.NEOX)
Q8_0 = int(CacheType.Q8_0)


@njit
def rotate(x: Float32, table: Float32, style: int) -> None:
    """Rotate one head in place; `table` is the position's cosines, then its sines."""
    half = table.shape[0] // 2
    for i in range(half):
        if style == NEOX:
            first, second = i, i + half
        else:
            first, second = 2 * i, 2 * i + 1
        a, b = x[first], x[second]
        c, s = table[i], table[half + i]
        x[first] = a * c - b * s
        x[second] = b * c + a * s


@njit
def store_row(row: Bytes, x: Float32, kind: int) -> None:
    """Store one head of one token."""
    if kind == Q8_0:
        store_q8_0(row, x)
    else:
        for i in range(x.shape[0]):
            put_half(row, 2 * i, x[i])


@njit
def rope_kv_tokens(
    q: Float32,
    k: Float32,
    v: Float32,
    keys: Bytes,
    values: Bytes,
    indices: Int32,
    positions: Int32,
    recent_keys: Bytes,
    recent_values: Bytes,
    n_recent: int,
    n_kept: int,
    type_k: int,
    type_v: int,
    table: Float32,
    style: int,
    norm_q: Float32,
    norm_k: Float32,
    eps: np.float32,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
    layer: int,
    n_planes: int,
    capacity: int,
    begin: int,
    end: int,
) -> None:
    """Rotate and store tokens indices[begin:end], all of one sequence.

    Parameters
    ----------
    q, k, v : (max_tokens, >= heads * head_dim) float32
        q and k are normed and rotated in place.
    keys, values : uint8
        `CacheRows.data`: `n_planes` times `capacity` rows.
    recent_keys, recent_values : uint8
        Likewise for `n_recent` positions, the latest: where rows are pruned to `n_kept` elements.
        Unused, with n_recent = 0, where they are not.
    type_k, type_v : int
        Their `CacheType`.
    table : (n_ctx, rope_dim) float32
        Cosines and sines by position.
    norm_q, norm_k : (head_dim,) or (0,) float32
        Per-head norms; empty for none.
    """
    lanes = np.empty(16, np.float32)
    for index in range(begin, end):
        t = indices[index]
        position = positions[t]
        for h in range(n_heads):
            x = q[t, h * head_dim : (h + 1) * head_dim]
            if norm_q.shape[0] > 0:
                norm_row(x, x, norm_q, eps, lanes)
            rotate(x, table[position], style)
        for h in range(n_kv_heads):
            head = k[t, h * head_dim : (h + 1) * head_dim]
            if norm_k.shape[0] > 0:
                norm_row(head, head, norm_k, eps, lanes)
            rotate(head, table[position], style)
            plane, chunk, row = layer * n_kv_heads + h, position // CHUNK, position % CHUNK
            key = plane_of(keys, n_planes, capacity, plane, chunk)[row]
            value = plane_of(values, n_planes, capacity, plane, chunk)[row]
            if n_recent == 0:
                store_row(key, head, type_k)
                store_row(value, v[t, h * head_dim : (h + 1) * head_dim], type_v)
                continue
            chunk = position % n_recent // CHUNK
            whole = plane_of(recent_keys, n_planes, n_recent, plane, chunk)[row]
            store_row(whole, head, type_k)
            prune_row(key, whole, head_dim, n_kept)
            whole = plane_of(recent_values, n_planes, n_recent, plane, chunk)[row]
            store_row(whole, v[t, h * head_dim : (h + 1) * head_dim], type_v)
            prune_row(value, whole, head_dim, n_kept)


def bind(op: RopeKV, bindings: Bindings) -> Runner:
    """Return the op as a function of the step."""
    buffers, vectors = bindings.buffers, bindings.parameters.vectors
    q, k, v = buffers[op.q], buffers[op.k], buffers[op.v]
    table, style, eps = bindings.parameters.tables[op.table], int(op.style), np.float32(op.eps)
    n_heads = op.n_heads
    none = np.empty(0, np.float32)
    norm_q = none if op.norm_q is None else vectors[op.norm_q]
    norm_k = none if op.norm_k is None else vectors[op.norm_k]
    types = int(bindings.plan.cache_type_k), int(bindings.plan.cache_type_v)
    n_planes = bindings.plan.n_layers * op.n_kv_heads
    kv_dim = op.n_kv_heads * op.head_dim
    rows = bindings.plan.sparse_rows
    n_recent, n_kept = (0, 0) if rows is None else (rows.n_recent, rows.n_kept)
    require_cache(op, bindings.plan)
    require(q.shape[1] >= n_heads * op.head_dim, op.name, "q is narrower than its heads")
    require(min(k.shape[1], v.shape[1]) >= kv_dim, op.name, "k or v is narrower than its heads")
    require(len(table) >= bindings.plan.n_ctx, op.name, "the rotary table is shorter than n_ctx")
    require(
        table.shape[1] == op.rope_dim <= op.head_dim and op.rope_dim % 2 == 0,
        op.name,
        "rope_dim is odd, above head_dim or not the table's",
    )
    require(norm_q.size in (0, op.head_dim), op.name, "norm_q is not head_dim long")
    require(norm_k.size in (0, op.head_dim), op.name, "norm_k is not head_dim long")

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
                data = (q, k, v, keys, values, indices, step.positions)
                pruning = (*recent, n_recent, n_kept)
                how = (*types, table, style)
                heads = (n_heads, op.n_kv_heads, op.head_dim)
                where = (op.layer, n_planes, capacity)
                rope_kv_tokens(
                    *data, *pruning, *how, norm_q, norm_k, eps, *heads, *where, begin, end
                )

            bindings.pool.run(work, len(indices))

    return run
