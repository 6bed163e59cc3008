"""Linear: (glu) → (norm) → (gather) → quantise → products (numba twin of ``ops/linear.py``).

Two phases: the prologue over tokens, then the products over tiles of output features, all matrices
of the op in one run of the pool; an output that waits for a gate has a run of its own. The first is
in `prologue.py`, the product of each storage format in `products.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgesparse.executors.base import Step
from edgesparse.formats.coo import coo_is_valid, unpack_coo
from edgesparse.formats.signs import SignPlanes, plane_bytes
from edgesparse.formats.weight import TILE, Format, Weight, row_tiles
from edgesparse.ops.predict import limits
from edgesparse.ops.two_stage import propose
from edgesparse.plan.op import LOGITS, GluKind, Linear, Output
from edgesparse.portable.bind import Bindings, Float32, Int32, Runner, require, require_bytes
from edgesparse.portable.glu import glu_row
from edgesparse.portable.jit import njit
from edgesparse.portable.outliers import add_outliers
from edgesparse.portable.predict import mask_predicted
from edgesparse.portable.products import Product, bind_product
from edgesparse.portable.prologue import bind_prologue

__all__ = ["bind"]

SILU = int(GluKind.SILU)

Clear: TypeAlias = Callable[[Float32, Step, Int32, int, int], None]
"""clear(dst, step, indices, row_begin, row_end): set some of the computed outputs to zero."""


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
def cut_rows(
    dst: Float32,
    shift: np.float32,
    cutoff: np.float32,
    n_tokens: int,
    row_begin: int,
    row_end: int,
) -> None:
    """Shift outputs and set what is below the cutoff to zero; see `Output.shift`."""
    for t in range(n_tokens):
        for r in range(row_begin, row_end):
            shifted = np.float32(dst[t, r] - shift)
            dst[t, r] = np.float32(0) if shifted < cutoff else shifted


@dataclass(frozen=True, eq=False)
class BoundOutput:
    """One matrix: its destination (None: the logits), its rows, its product, what changes rows."""

    dst: Float32 | None
    n_rows: int
    product: Product
    clear: Clear | None = None
    side: Product | None = None
    cut: Product | None = None


def bind(op: Linear, bindings: Bindings) -> Runner:
    """Return the op as a function of the step."""
    prologue = bind_prologue(op, bindings)
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
                    if output.side is not None:
                        output.side(dst, n_tokens, row_begin, row_end, worker)
                    if output.cut is not None:
                        output.cut(dst, n_tokens, row_begin, row_end, worker)
                begin, end = begin - n, end - n

        for phase in phases:
            n_tiles = sum(row_tiles(output.n_rows) for output in phase)
            bindings.pool.run(partial(work, phase), n_tiles)

    return run


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
    side = None if output.side is None else _bind_side(op, output, weight, bindings)
    cut = _bind_cut(op, output) if output.is_cut else None
    if output.live_threshold > 0:
        product = bind_product(weight, output.add, bias, np.empty((0, 0), np.float32), bindings)
        clear = _clear(op, output, live, bindings)
        return BoundOutput(dst, weight.n_rows, product, clear, side, cut)
    product = bind_product(weight, output.add, bias, live, bindings)
    if live.size and not _skips(weight):
        product = _masked(product, live)
    if output.signs is not None:
        require(not output.add and output.dst != LOGITS, op.name, "a prediction cannot be added")
        planes = bindings.parameters.signs[output.signs]
        product = _predicted(product, _require_planes(op, weight, planes), output.alpha, bindings)
    return BoundOutput(dst, weight.n_rows, product, side=side, cut=cut)


def _bind_cut(op: Linear, output: Output) -> Product:
    """Return what shifts an output and cuts it off."""
    whole = not output.add and output.dst != LOGITS
    require(whole, op.name, "what is added, and logits, are not cut")
    shift, cutoff = np.float32(output.shift), np.float32(output.cutoff)
    return lambda dst, n_tokens, begin, end, _: cut_rows(dst, shift, cutoff, n_tokens, begin, end)


def _bind_side(op: Linear, output: Output, weight: Weight, bindings: Bindings) -> Product:
    """Return what adds the outliers beside a matrix."""
    side = bindings.parameters.weights[output.side or ""]
    same = (side.n_rows, side.k) == (weight.n_rows, weight.k) and weight.order is None
    require(side.format is Format.COO and same, op.name, f"{side.name} is not beside {weight.name}")
    require(coo_is_valid(side), op.name, f"{side.name}: its bytes contradict each other")
    coo, h = unpack_coo(side), bindings.workspace.floats(weight.k)
    return lambda dst, n_tokens, begin, end, _: add_outliers(dst, *coo, h, n_tokens, begin, end)


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
