"""A model's ops in plain float32, for many tokens at a time: what calibration sees.

Nothing is quantised here and sums have no fixed order: products go through BLAS. So numbers differ
from those of the executors by what those round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgesparse.errors import UsageError
from edgesparse.ops.glu import glu
from edgesparse.ops.linear import cut
from edgesparse.ops.norm import rmsnorm
from edgesparse.ops.rope_kv import rotate
from edgesparse.plan.op import Add, Attention, Glu, GluKind, Linear, Norm, Op, RopeKV

__all__ = ["Observe", "State", "run_ops"]

Float32 = npt.NDArray[np.float32]
State: TypeAlias = dict[str, Float32]
"""Activation buffers by name, each (n_tokens, width), of one sequence from its beginning."""
Observe: TypeAlias = Callable[[Linear, Float32], None]
"""observe(op, inputs): sees what a linear op multiplies, (n_tokens, k)."""


def run_ops(
    ops: Sequence[Op],
    state: State,
    weights: Mapping[str, Float32],
    vectors: Mapping[str, Float32],
    tables: Mapping[str, Float32],
    observe: Observe | None = None,
) -> None:
    """Run the ops of a layer over one sequence, in place.

    Parameters
    ----------
    ops : sequence of Op
        Of a plan without mixtures of experts.
    state : dict of str to float32 ndarray
        Buffers; those that ops write first need not be there.
    weights : mapping of str to float32 ndarray, shape (n_rows, k)
    vectors, tables : mapping of str to float32 ndarray
        As in `Parameters`.
    observe : callable, optional

    Raises
    ------
    UsageError
        An op that a dense decoder layer does not have.
    """
    for op in ops:
        match op:
            case Norm():
                state[op.dst] = rmsnorm(state[op.src], vectors[op.weight], op.eps)
            case Linear():
                _linear(op, state, weights, vectors, observe)
            case RopeKV():
                for name, n_heads, norm in (
                    (op.q, op.n_heads, op.norm_q),
                    (op.k, op.n_kv_heads, op.norm_k),
                ):
                    x = state[name]
                    weight = None if norm is None else vectors[norm]
                    heads = x.reshape(len(x), n_heads, op.head_dim)
                    rotate(heads, tables[op.table][: len(x)], op.style, weight, op.eps)
                state[_kept(op.layer, "k")], state[_kept(op.layer, "v")] = state[op.k], state[op.v]
            case Attention():
                keys, values = state[_kept(op.layer, "k")], state[_kept(op.layer, "v")]
                state[op.dst] = _attention(op, state[op.q], keys, values)
            case Glu():
                state[op.dst] = glu(op.kind, state[op.gate], state[op.up])
            case Add():
                state[op.dst] = state[op.dst] + state[op.src]
            case _:
                raise UsageError(
                    f"{op.name}: {type(op).__name__} is not part of a dense layer.",
                    advice="Only dense models can be compressed layer by layer.",
                )


def _kept(layer: int, what: str) -> str:
    return f"cache.{layer}.{what}"


def _linear(
    op: Linear,
    state: State,
    weights: Mapping[str, Float32],
    vectors: Mapping[str, Float32],
    observe: Observe | None,
) -> None:
    h = state[op.src]
    if op.glu is not GluKind.NONE:
        h = glu(op.glu, h, state[op.src2 or op.src])
    if op.norm is not None:
        h = rmsnorm(h, vectors[op.norm], op.eps)
    if observe is not None:
        observe(op, h)
    for out in op.outputs:
        y = h @ weights[out.weight].T
        if out.bias is not None:
            y += vectors[out.bias]
        if out.live is not None:
            y *= state[out.live] > 0
        if out.is_cut:
            y = cut(y, out.shift, out.cutoff)
        state[out.dst] = state[out.dst] + y if out.add else y


def _attention(op: Attention, q: Float32, keys: Float32, values: Float32) -> Float32:
    n, group = len(q), op.n_heads // op.n_kv_heads
    behind = np.arange(n)[:, None] - np.arange(n)
    hidden = behind < 0
    if op.window:
        hidden |= behind >= op.window
    out = np.empty((n, op.n_heads, op.head_dim), np.float32)
    heads = q.reshape(n, op.n_heads, op.head_dim)
    for kv_head in range(op.n_kv_heads):
        part = slice(kv_head * op.head_dim, (kv_head + 1) * op.head_dim)
        k, v = keys[:, part], values[:, part]
        for head in range(kv_head * group, (kv_head + 1) * group):
            scores = (heads[:, head] @ k.T) * np.float32(op.scale)
            scores[hidden] = -np.inf
            scores -= scores.max(axis=1, keepdims=True)
            np.exp(scores, out=scores)
            out[:, head] = (scores @ v) / scores.sum(axis=1, keepdims=True)
    return out.reshape(n, -1)
