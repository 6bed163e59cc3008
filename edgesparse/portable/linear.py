"""Linear: (glu) → (norm) → (gather) → quantise → products (numba twin of ``ops/linear.py``).

Two phases: the prologue over tokens, then the products over tiles of output features, all matrices
of the op in one run of the pool; an output that waits for a gate has a run of its own. The products
of each storage format are in `ternary.py`, `blocks.py` and `floats.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgesparse.executors.base import Step
from edgesparse.formats.signs import SignPlanes, plane_bytes
from edgesparse.formats.weight import BLOCK, TILE, Format, Weight, row_tiles
from edgesparse.ops.predict import limits
from edgesparse.ops.two_stage import propose
from edgesparse.plan.op import LOGITS, GluKind, Linear, Output
from edgesparse.portable.bind import Bindings, Float32, Int32, Runner, require, require_bytes
from edgesparse.portable.blocks import block_product, tiles_of
from edgesparse.portable.floats import float_product, float_tiles_of
from edgesparse.portable.glu import glu_row
from edgesparse.portable.jit import njit
from edgesparse.portable.norm import norm_row
from edgesparse.portable.numerics import quantize_i8, quantize_i8_blocks, quantize_i16
from edgesparse.portable.predict import mask_predicted
from edgesparse.portable.slices import (
    fill_tables,
    slice_layout,
    slice_tiles_of,
    sliced_product,
    ternary_sliced_product,
)
from edgesparse.portable.ternary import (
    n_planes_of,
    neuron_product,
    padded_k,
    rows_of,
    ternary_product,
    to_planes,
)
from edgesparse.portable.without_zeros import sparse_product
from edgesparse.portable.workspace import LOOK_UP_TOKENS

__all__ = ["bind"]

NO_GLU = int(GluKind.NONE)
SILU = int(GluKind.SILU)

Product: TypeAlias = Callable[[Float32, int, int, int, int], None]
"""product(dst, n_tokens, row_begin, row_end, worker): compute some output features."""


Clear: TypeAlias = Callable[[Float32, Step, Int32, int, int], None]
"""clear(dst, step, indices, row_begin, row_end): set some of the computed outputs to zero."""


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
def clear_small_gates(
    dst: Float32,
    gate: Float32,
    threshold: np.float32,
    factors: Float32,
    positions: Int32,
    sparse_from: int,
    indices: Int32,
    row_begin: int,
    row_end: int,
) -> None:
    """Set outputs whose activated gate is below the threshold to zero; see `Output.live`."""
    ones = np.ones(row_end - row_begin, np.float32)
    activated = np.empty_like(ones)
    for j in range(indices.shape[0]):
        i = indices[j]
        if positions[i] < sparse_from:
            continue
        glu_row(activated, gate[i, row_begin:row_end], ones, SILU)
        for r in range(activated.shape[0]):
            size = np.float32(abs(activated[r]))
            if factors.shape[0] > 0:
                size = np.float32(size * factors[row_begin + r])
            if size < threshold:
                dst[j, row_begin + r] = np.float32(0)


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


@dataclass(frozen=True, eq=False)
class BoundOutput:
    """One matrix: its destination (None: the logits), its rows, its product, what clears rows."""

    dst: Float32 | None
    n_rows: int
    product: Product
    clear: Clear | None = None


def bind(op: Linear, bindings: Bindings) -> Runner:
    """Return the op as a function of the step."""
    prologue = _bind_prologue(op, bindings)
    outputs = [_bind_output(op, output, bindings) for output in op.outputs]
    # Outputs with `live` read what the ones before them wrote.
    first_live = next((i for i, out in enumerate(op.outputs) if out.live), len(outputs))
    phases = [outputs[:first_live], *([output] for output in outputs[first_live:])]

    coarse = bindings.parameters.coarse if op.outputs[0].dst == LOGITS else None
    h = bindings.workspace.floats(bindings.parameters.weights[op.outputs[0].weight].k)

    def decide(step: Step, tiles: npt.NDArray[np.intp]) -> None:
        """Compute the logits of some tiles; the others are -inf."""
        n_rows, product = outputs[0].n_rows, outputs[0].product
        step.logits.fill(-np.inf)

        def work(begin: int, end: int, worker: int) -> None:
            for tile in tiles[begin:end]:
                row = int(tile) * TILE
                product(step.logits, 1, row, min(row + TILE, n_rows), worker)

        bindings.pool.run(work, len(tiles))

    def run(step: Step) -> None:
        if op.outputs_only:
            indices = step.outputs
        else:
            indices = np.arange(len(step.tokens), dtype=np.int32)
        n_tokens = len(indices)
        if n_tokens == 0:
            return
        bindings.pool.run(lambda begin, end, _: prologue(step, indices, begin, end), n_tokens)

        if coarse is not None and step.n_tiles > 0 and n_tokens == 1:
            decide(step, propose(coarse, h[0], step.n_tiles))
            return

        def work(phase: list[BoundOutput], begin: int, end: int, worker: int) -> None:
            """Compute tiles [begin, end), counted through all outputs."""
            for output in phase:
                n = row_tiles(output.n_rows)
                if begin < n and end > 0:
                    dst = step.logits if output.dst is None else output.dst
                    row_begin, row_end = max(0, begin) * TILE, min(end * TILE, output.n_rows)
                    output.product(dst, n_tokens, row_begin, row_end, worker)
                    if output.clear is not None:
                        output.clear(dst, step, indices, row_begin, row_end)
                begin, end = begin - n, end - n

        for phase in phases:
            n_tiles = sum(row_tiles(output.n_rows) for output in phase)
            bindings.pool.run(partial(work, phase), n_tiles)

    return run


def _bind_prologue(op: Linear, bindings: Bindings) -> Callable[[Step, Int32, int, int], None]:
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
    any_sliced = any(w.format.is_sliced and w.format is not Format.BST for w in weights)
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


def _bind_output(op: Linear, output: Output, bindings: Bindings) -> BoundOutput:
    """Resolve one matrix."""
    weight = bindings.parameters.weights[output.weight]
    bias = np.empty(0, np.float32)
    if output.bias is not None:
        bias = bindings.parameters.vectors[output.bias]
    dst = None if output.dst == LOGITS else bindings.buffers[output.dst]
    require_bytes(op.name, weight)
    require(bias.size in (0, weight.n_rows), op.name, f"{output.bias} is not n_rows long")
    width = bindings.plan.n_vocab if dst is None else dst.shape[1]
    require(width >= weight.n_rows, op.name, "its destination is narrower than n_rows")
    require(dst is not None or op.outputs_only, op.name, "logits are written for outputs only")
    live = np.empty((0, 0), np.float32) if output.live is None else bindings.buffers[output.live]
    require(output.live is None or live.shape[1] >= weight.n_rows, op.name, "its gate is narrower")
    require(output.live is None or not output.add, op.name, "live outputs cannot be added")
    if output.live_threshold > 0:
        product = _product(weight, output.add, bias, np.empty((0, 0), np.float32), bindings)
        return BoundOutput(dst, weight.n_rows, product, _clear(op, output, live, bindings))
    product = _product(weight, output.add, bias, live, bindings)
    if live.size and not _skips(weight):
        product = _masked(product, live)
    if output.signs is not None:
        require(not output.add and output.dst != LOGITS, op.name, "a prediction cannot be added")
        planes = bindings.parameters.signs[output.signs]
        product = _predicted(product, _require_planes(op, weight, planes), output.alpha, bindings)
    return BoundOutput(dst, weight.n_rows, product)


def _clear(op: Linear, output: Output, gate: Float32, bindings: Bindings) -> Clear:
    """Return what clears the outputs whose activated gate is small."""
    n_rows = bindings.parameters.weights[output.weight].n_rows
    threshold, factors = np.float32(output.live_threshold), np.empty(0, np.float32)
    if output.live_factors is not None:
        factors = bindings.parameters.vectors[output.live_factors]
    require(output.live is not None, op.name, "a threshold on the gate needs the gate")
    require(factors.size in (0, n_rows), op.name, "the factors are not n_rows long")

    def clear(dst: Float32, step: Step, indices: Int32, begin: int, end: int) -> None:
        clear_small_gates(
            *(dst, gate, threshold, factors, step.positions, step.sparse_from),
            *(indices, begin, end),
        )

    return clear


def _skips(weight: Weight) -> bool:
    """Whether the format's product looks at `live` itself."""
    return weight.format.is_ternary and not weight.format.is_neuron_major


def _masked(product: Product, live: Float32) -> Product:
    """Set dead outputs to 0 after the product."""

    def run(dst: Float32, n_tokens: int, begin: int, end: int, worker: int) -> None:
        product(dst, n_tokens, begin, end, worker)
        dst[:n_tokens, begin:end][~(live[:n_tokens, begin:end] > 0)] = 0

    return run


def _require_planes(op: Linear, weight: Weight, planes: SignPlanes) -> SignPlanes:
    width = plane_bytes(weight.k) * (2 if planes.masked else 1)
    fits = planes.data.shape == (weight.n_rows, width) and planes.k == weight.k
    require(fits, op.name, f"the signs are not those of {weight.name}")
    return planes


def _predicted(product: Product, planes: SignPlanes, alpha: int, bindings: Bindings) -> Product:
    """Set outputs that are predicted to be dead to 0 after the product."""
    h, most = bindings.workspace.floats(planes.k), limits(planes, alpha)

    def run(dst: Float32, n_tokens: int, begin: int, end: int, worker: int) -> None:
        product(dst, n_tokens, begin, end, worker)
        mask_predicted(dst, h, planes.data, planes.masked, most, n_tokens, begin, end)

    return run


def _product(
    weight: Weight, add: bool, bias: Float32, live: Float32, bindings: Bindings
) -> Product:
    """Return the product of the weight's format with all but the call's range filled in."""
    workspace, n_workers = bindings.workspace, bindings.pool.n_threads
    scratch = [workspace.unpacked(worker) for worker in range(n_workers)]
    kind = int(weight.format)
    if weight.format is Format.T2N:
        neurons, scales = rows_of(weight), weight.scales
        x8 = workspace.int8(weight.k, 1)
        sums = [np.empty(weight.n_rows, np.int32) for _ in range(n_workers)]
        return lambda dst, n_tokens, begin, end, worker: neuron_product(
            dst, add, bias, neurons, scales, *x8, n_tokens, begin, end, sums[worker]
        )
    if weight.format.is_ternary:
        n_planes = n_planes_of(weight)
        q, s, q_sum = workspace.int8(weight.k, n_planes)
        rows, scales = rows_of(weight), weight.scales
        codes = [flat.view(np.uint8)[: padded_k(weight)] for flat in scratch]
        return lambda dst, n_tokens, begin, end, worker: ternary_product(
            *(dst, add, bias, live, rows, scales, n_planes, q, s, q_sum),
            *(n_tokens, begin, end, codes[worker]),
        )
    if weight.format.is_sparse:
        return _sparse_product(weight, add, bias, bindings)
    if weight.format.is_block:
        x = workspace.int16(weight.k)
        tiles = tiles_of(weight)
        n_blocks = -(-weight.k // 32)
        unpacked = [_tile_scratch(flat, n_blocks) for flat in scratch]
        return lambda dst, n_tokens, begin, end, worker: block_product(
            dst, add, bias, tiles, kind, *x, n_tokens, begin, end, *unpacked[worker]
        )
    if weight.format.is_sliced:
        return _sliced_product(weight, add, bias, bindings)
    h, columns = workspace.floats(weight.k), float_tiles_of(weight)
    wide = [flat[: 8 * weight.k] for flat in scratch]
    return lambda dst, n_tokens, begin, end, worker: float_product(
        dst, add, bias, columns, kind, h, n_tokens, begin, end, wide[worker]
    )


def _sparse_product(weight: Weight, add: bool, bias: Float32, bindings: Bindings) -> Product:
    """Return the product with a format without zeros."""
    x, n_blocks = bindings.workspace.int16(weight.k), -(-weight.k // BLOCK)
    n_tiles = -(-weight.n_rows // weight.format.tile_rows)
    if weight.format.has_varying_length:
        starts = weight.data[: 8 * n_tiles].view("<u8").astype(np.int64)
    else:
        starts = np.arange(n_tiles) * (weight.data.nbytes // n_tiles)
    scratch = [
        _tile_scratch(bindings.workspace.unpacked(worker), n_blocks)
        for worker in range(bindings.pool.n_threads)
    ]
    data, kind = weight.data, int(weight.format)
    return lambda dst, n_tokens, begin, end, worker: sparse_product(
        dst, add, bias, data, starts, kind, *x, n_tokens, begin, end, *scratch[worker]
    )


def _sliced_product(weight: Weight, add: bool, bias: Float32, bindings: Bindings) -> Product:
    """Return the product with bit slices."""
    workspace, k, is_bst = bindings.workspace, weight.k, weight.format is Format.BST
    tiles, scales, layout = slice_tiles_of(weight), weight.scales, slice_layout(weight)
    x8, x8_blocks = workspace.int8(k, 1), workspace.int8_blocks(k)
    tables = workspace.tables(k, per_token=is_bst)
    width = 32 * layout[1]
    codes = [workspace.unpacked(w).view(np.int8)[:width] for w in range(bindings.pool.n_threads)]

    def run(dst: Float32, n_tokens: int, begin: int, end: int, worker: int) -> None:
        own, row = tables if n_tokens <= LOOK_UP_TOKENS else tables[:0], codes[worker]
        if is_bst:
            ternary_sliced_product(
                *(dst, add, bias, tiles, scales, layout), *x8, own, n_tokens, begin, end, row
            )
        else:
            sliced_product(
                *(dst, add, bias, tiles, layout), *x8_blocks, own, n_tokens, begin, end, row
            )

    return run


def _tile_scratch(flat: Float32, n_blocks: int) -> tuple[npt.NDArray[np.uint8], Float32, Float32]:
    """Cut one worker's scratch into codes (8, 32 n_blocks), d and m (8, n_blocks)."""
    codes = flat.view(np.uint8)[: 256 * n_blocks].reshape(8, -1)
    d, m = flat[64 * n_blocks : 80 * n_blocks].reshape(2, 8, n_blocks)
    return codes, d, m
