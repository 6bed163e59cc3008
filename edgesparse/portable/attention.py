"""Causal grouped-query attention over the cache (numba twin of ``ops/attention.py``).

One work item is one kv head of one token: its query heads share every widened key and value.
"""

from __future__ import annotations

import numpy as np

from edgesparse.executors.base import Step
from edgesparse.plan.cache_type import CacheType
from edgesparse.plan.op import Attention
from edgesparse.portable.bind import (
    Bindings,
    Bytes,
    Float32,
    Int32,
    Runner,
    require,
    require_cache,
    row_bytes_of,
    tokens_of,
)
from edgesparse.portable.jit import njit
from edgesparse.portable.numerics import ONE, ZERO, dot16, exp, halfs_in_bytes, sum16, widen_q8_0

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
def attend(
    out: Float32,
    q: Float32,
    keys: Bytes,
    values: Bytes,
    type_k: int,
    type_v: int,
    scale: np.float32,
    scores: Float32,
    wide: Float32,
    lanes: Float32,
) -> None:
    """Attend with the query heads of one kv head.

    Parameters
    ----------
    out, q : (group, head_dim) float32
        Result and queries.
    keys, values : (n_positions, row_bytes) uint8
        Rows to attend to.
    type_k, type_v : int
        Their `CacheType`.
    scores, wide, lanes : (group, n_positions), (head_dim,), (16,) float32
        Scratch.
    """
    n_positions = keys.shape[0]
    group, head_dim = q.shape
    for j in range(n_positions):
        widen(wide, keys[j], type_k)
        for g in range(group):
            scores[g, j] = dot16(q[g], wide, lanes) * scale
    for g in range(group):
        row = scores[g]
        top = row[0]
        for j in range(n_positions):
            top = row[j] if row[j] > top else top
        for j in range(n_positions):
            row[j] = exp(np.float32(row[j] - top))
        out[g, :] = ZERO
    for j in range(n_positions):
        widen(wide, values[j], type_v)
        for g in range(group):
            e = scores[g, j]
            acc = out[g]
            for i in range(head_dim):
                acc[i] += e * wide[i]
    for g in range(group):
        inverse = np.float32(ONE / sum16(scores[g], lanes))
        for i in range(head_dim):
            out[g, i] = out[g, i] * inverse


@njit
def attention_items(
    dst: Float32,
    q: Float32,
    keys: Bytes,
    values: Bytes,
    indices: Int32,
    positions: Int32,
    type_k: int,
    type_v: int,
    n_heads: int,
    head_dim: int,
    scale: np.float32,
    window: int,
    scores: Float32,
    begin: int,
    end: int,
) -> None:
    """Compute items [begin, end): kv head ``item % n_kv_heads`` of token ``item // n_kv_heads``.

    Parameters
    ----------
    dst, q : (max_tokens, >= n_heads * head_dim) float32
        Result and queries.
    keys, values : (n_kv_heads, capacity, row_bytes) uint8
        The layer's cache of one sequence.
    indices : (n,) int32
        That sequence's tokens.
    scores : (>= group * positions,) float32
        Scratch.
    """
    n_kv_heads = keys.shape[0]
    group = n_heads // n_kv_heads
    width = group * head_dim
    wide = np.empty(head_dim, np.float32)
    lanes = np.empty(16, np.float32)
    for item in range(begin, end):
        t = indices[item // n_kv_heads]
        h = item % n_kv_heads
        last = positions[t] + 1
        first = max(0, last - window) if window > 0 else 0
        n = last - first
        attend(
            dst[t, h * width : (h + 1) * width].reshape((group, head_dim)),
            q[t, h * width : (h + 1) * width].reshape((group, head_dim)),
            keys[h, first:last],
            values[h, first:last],
            type_k,
            type_v,
            scale,
            scores[: group * n].reshape((group, n)),
            wide,
            lanes,
        )


def bind(op: Attention, bindings: Bindings) -> Runner:
    """Return the op as a function of the step."""
    q, dst = bindings.buffers[op.q], bindings.buffers[op.dst]
    n_heads, scale, window = op.n_heads, np.float32(op.scale), op.window
    group = n_heads // op.n_kv_heads
    types = int(bindings.plan.cache_type_k), int(bindings.plan.cache_type_v)
    require(n_heads == group * op.n_kv_heads, op.name, "n_heads is no multiple of n_kv_heads")
    width = n_heads * op.head_dim
    require_cache(op, bindings.plan)
    require(min(q.shape[1], dst.shape[1]) >= width, op.name, "q or dst is narrower than its heads")

    def run(step: Step) -> None:
        for indices, cache in tokens_of(step):
            keys, values = (row_bytes_of(rows[op.layer]) for rows in (cache.keys, cache.values))
            n_scores = group * (int(step.positions[indices].max()) + 1)

            def work(
                begin: int,
                end: int,
                worker: int,
                keys: Bytes = keys,
                values: Bytes = values,
                indices: Int32 = indices,
                n_scores: int = n_scores,
            ) -> None:
                scores = bindings.workspace.scores(worker, n_scores)
                data = (dst, q, keys, values, indices, step.positions)
                attention_items(
                    *data, *types, n_heads, op.head_dim, scale, window, scores, begin, end
                )

            bindings.pool.run(work, len(indices) * op.n_kv_heads)

    return run
