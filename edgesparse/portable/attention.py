"""Causal grouped-query attention over the cache (numba twin of ``ops/attention.py``).

One work item is one kv head of one token: its query heads share every widened key and value.
"""

from __future__ import annotations

import numpy as np

from edgesparse.executors.base import Step
from edgesparse.plan.op import Attention
from edgesparse.portable.bind import (
    Bindings,
    Float32,
    Halfs,
    Int32,
    Runner,
    require,
    require_cache,
    tokens_of,
)
from edgesparse.portable.jit import njit
from edgesparse.portable.numerics import ONE, ZERO, dot16, exp, halfs_to_floats, sum16

__all__ = ["bind"]


@njit
def attend(
    out: Float32,
    q: Float32,
    keys: Halfs,
    values: Halfs,
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
    keys, values : (n_positions, head_dim) uint16
        Rows to attend to.
    scores, wide, lanes : (group, n_positions), (head_dim,), (16,) float32
        Scratch.
    """
    n_positions, head_dim = keys.shape
    group = q.shape[0]
    for j in range(n_positions):
        halfs_to_floats(wide, keys[j], head_dim)
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
        halfs_to_floats(wide, values[j], head_dim)
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
    keys: Halfs,
    values: Halfs,
    indices: Int32,
    positions: Int32,
    n_heads: int,
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
    keys, values : (n_kv_heads, capacity, head_dim) uint16
        The layer's cache of one sequence.
    indices : (n,) int32
        That sequence's tokens.
    scores : (>= group * positions,) float32
        Scratch.
    """
    n_kv_heads, _, head_dim = keys.shape
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
    require(n_heads == group * op.n_kv_heads, op.name, "n_heads is no multiple of n_kv_heads")
    width = n_heads * op.head_dim
    require_cache(op, bindings.plan)
    require(min(q.shape[1], dst.shape[1]) >= width, op.name, "q or dst is narrower than its heads")

    def run(step: Step) -> None:
        for indices, cache in tokens_of(step):
            keys, values = cache.data[op.layer].view(np.uint16)
            n_scores = group * (int(step.positions[indices].max()) + 1)

            def work(
                begin: int,
                end: int,
                worker: int,
                keys: Halfs = keys,
                values: Halfs = values,
                indices: Int32 = indices,
                n_scores: int = n_scores,
            ) -> None:
                scores = bindings.workspace.scores(worker, n_scores)
                data = (dst, q, keys, values, indices, step.positions)
                attention_items(*data, n_heads, scale, window, scores, begin, end)

            bindings.pool.run(work, len(indices) * op.n_kv_heads)

    return run
