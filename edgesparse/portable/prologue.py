"""The prologue of a linear: (glu) → (norm) → (threshold) → (gather) → quantise as weights ask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgesparse.executors.base import Step
from edgesparse.formats.weight import Format
from edgesparse.plan.op import LOGITS, GluKind, Linear
from edgesparse.portable.bind import Bindings, Float32, Int32, require
from edgesparse.portable.glu import glu_row
from edgesparse.portable.jit import njit
from edgesparse.portable.norm import norm_row
from edgesparse.portable.numerics import quantize_i8, quantize_i8_blocks, quantize_i16
from edgesparse.portable.slices import fill_tables
from edgesparse.portable.ternary import n_planes_of, to_planes
from edgesparse.portable.workspace import LOOK_UP_TOKENS

__all__ = ["bind_prologue"]

NO_GLU = int(GluKind.NONE)


@njit
def prepare(
    h: Float32,
    src: Float32,
    src2: Float32,
    glu: int,
    norm: Float32,
    eps: np.float32,
    indices: Int32,
    begin: int,
    end: int,
) -> None:
    """Write h[j] = norm(glu(src[i], src2[i])) with i = indices[j], for j in [begin, end)."""
    k = h.shape[1]
    lanes = np.empty(16, np.float32)
    for j in range(begin, end):
        i = indices[j]
        if glu == NO_GLU:
            h[j, :] = src[i, :k]
        else:
            glu_row(h[j], src[i, :k], src2[i, :k], glu)
        if norm.shape[0] > 0:
            norm_row(h[j], h[j], norm, eps, lanes)


@njit
def apply_threshold(
    h: Float32,
    threshold: np.float32,
    factors: Float32,
    positions: Int32,
    sparse_from: int,
    indices: Int32,
    begin: int,
    end: int,
) -> None:
    """Set inputs below the threshold to zero, in tokens at positions from `sparse_from` on."""
    for j in range(begin, end):
        if positions[indices[j]] < sparse_from:
            continue
        for i in range(h.shape[1]):
            size = np.float32(abs(h[j, i]))
            if factors.shape[0] > 0:
                size = np.float32(size * factors[i])
            if size < threshold:
                h[j, i] = np.float32(0)


@njit
def gather(h: Float32, order: Int32, begin: int, end: int) -> None:
    """Put the inputs of tokens [begin, end) in the order of the matrices' columns."""
    row = np.empty(h.shape[1], np.float32)
    for j in range(begin, end):
        row[:] = h[j]
        for i in range(order.shape[0]):
            h[j, i] = row[order[i]]


@njit
def quantize_i8_tokens(
    q: npt.NDArray[np.int8],
    s: Float32,
    q_sum: Int32,
    n_planes: int,
    h: Float32,
    begin: int,
    end: int,
) -> None:
    """Quantise rows [begin, end) to int8 per token, q in plane order."""
    row = np.empty(h.shape[1], np.int8)
    for j in range(begin, end):
        s[j], q_sum[j] = quantize_i8(row, h[j])
        to_planes(q[j], row, n_planes)


@njit
def quantize_i16_tokens(
    q: npt.NDArray[np.int16],
    d: Float32,
    q_sum: Int32,
    x_sum: Float32,
    h: Float32,
    begin: int,
    end: int,
) -> None:
    """Quantise rows [begin, end) to int16 per block of 32."""
    for j in range(begin, end):
        quantize_i16(q[j], d[j], q_sum[j], x_sum[j], h[j])


@njit
def quantize_i8_block_tokens(
    q: npt.NDArray[np.int8],
    d: Float32,
    q_sum: Int32,
    x_sum: Float32,
    h: Float32,
    begin: int,
    end: int,
) -> None:
    """Quantise rows [begin, end) to int8 per block of 32."""
    for j in range(begin, end):
        quantize_i8_blocks(q[j], d[j], q_sum[j], x_sum[j], h[j])


def bind_prologue(op: Linear, bindings: Bindings) -> Callable[[Step, Int32, int, int], None]:
    """Return prologue(step, indices, begin, end): prepare and quantise tokens as weights ask."""
    weights = [bindings.parameters.weights[output.weight] for output in op.outputs]
    k = weights[0].k
    src = bindings.buffers[op.src]
    src2 = src if op.src2 is None else bindings.buffers[op.src2]
    glu, eps = int(op.glu), np.float32(op.eps)
    none = np.empty(0, np.float32)
    norm = none if op.norm is None else bindings.parameters.vectors[op.norm]
    require(all(weight.k == k for weight in weights), op.name, "its weights differ in k")
    order = weights[0].order
    require(all(w.order is order for w in weights), op.name, "its weights differ in their order")
    require(order is None or is_order(order, k), op.name, "the order of its columns is none")
    is_natural = op.outputs[0].dst != LOGITS or bindings.parameters.coarse is None
    is_natural = is_natural and not any(out.signs for out in op.outputs)
    require(order is None or is_natural, op.name, "signs and a coarse head want ordered columns")
    require(min(src.shape[1], src2.shape[1]) >= k, op.name, "an input is narrower than k")
    require(op.glu == GluKind.NONE or op.src2 is not None, op.name, "a gate needs two inputs")
    require(norm.size in (0, k), op.name, "the norm is not k long")
    ternary = {n_planes_of(weight) for weight in weights if weight.format.is_ternary}
    any_bst = any(weight.format is Format.BST for weight in weights)
    if any_bst:
        ternary.add(1)
    any_sliced = any(weight.format.in_blocks_of_int8 for weight in weights)
    any_block = any(weight.format.is_block for weight in weights)
    h = bindings.workspace.floats(k)
    int8 = [(*bindings.workspace.int8(k, n_planes), n_planes) for n_planes in sorted(ternary)]
    int16 = bindings.workspace.int16(k)
    int8_blocks = bindings.workspace.int8_blocks(k)
    sliced = [(bindings.workspace.tables(k, per_token=False), int8_blocks[0])] * any_sliced
    sliced += [(bindings.workspace.tables(k, per_token=True), bindings.workspace.int8(k, 1)[0])] * (
        any_bst
    )

    threshold = np.float32(op.threshold)
    factors = none if op.factors is None else bindings.parameters.vectors[op.factors]
    require(factors.size in (0, k), op.name, "the factors are not k long")

    def prologue(step: Step, indices: Int32, begin: int, end: int) -> None:
        prepare(h, src, src2, glu, norm, eps, indices, begin, end)
        if threshold > 0:
            apply_threshold(
                h, threshold, factors, step.positions, step.sparse_from, indices, begin, end
            )
        if order is not None:
            gather(h, order, begin, end)
        for q, s, q_sum, n_planes in int8:
            quantize_i8_tokens(q, s, q_sum, n_planes, h, begin, end)
        if any_block:
            quantize_i16_tokens(*int16, h, begin, end)
        if any_sliced:
            quantize_i8_block_tokens(*int8_blocks, h, begin, end)
        if len(indices) <= LOOK_UP_TOKENS:
            for tables, q in sliced:
                fill_tables(tables, q, begin, end)

    return prologue


def is_order(order: Int32, k: int) -> bool:
    """Tell whether all of the numbers are those of columns, k of them."""
    return order.shape == (k,) and bool((order >= 0).all() and (order < k).all())
