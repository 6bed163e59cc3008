"""What the cost model expects a token to read, from the shares of zeros of a text.

A gated feed-forward with a ReLU reads its gate, the live rows of ``up`` (or the tiles of eight with
a live one) and of ``down`` the inputs that are not 0 after quantisation. Where more rows are live
than lists pay for, all are read, so the shares are compared with the engine's limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgesparse import _native
from edgesparse.formats.weight import BLOCK, Format, Weight, storage_codes
from edgesparse.plan.op import Experts, Linear, Output, linears_of
from edgesparse.sparsity.statistics import LayerStatistics

if TYPE_CHECKING:
    from edgesparse.model import Model

__all__ = ["expected_bytes"]


def expected_bytes(model: Model, layers: Sequence[LayerStatistics]) -> npt.NDArray[np.float64]:
    """Return the bytes of weights that a token is expected to read, by layer.

    Parameters
    ----------
    model : Model
        As it decodes, with ``sparse="auto"``.
    layers : sequence of LayerStatistics
        Of the same model on some text.

    Returns
    -------
    float64 ndarray, shape (n_layers,)
        What `Step.op_bytes` counts, added up over the linear ops of each layer.
    """
    found = np.zeros(len(layers))
    for op in model.engine.plan.ops:
        if not isinstance(op, (Linear, Experts)) or not op.name.startswith("blk."):
            continue
        _, number, name = op.name.split(".")
        layer = layers[int(number)]
        inputs = layer.inputs.get(name.removeprefix("experts_"))
        zeros = 0.0 if inputs is None else inputs.zero_share
        linears = linears_of(op)
        share = op.n_used / len(linears) if isinstance(op, Experts) else 1.0
        for linear in linears:
            for out in linear.outputs:
                found[int(number)] += share * _output_bytes(model, out, layer, zeros)
    return found


def _output_bytes(model: Model, out: Output, layer: LayerStatistics, zeros: float) -> float:
    weight = model.parameters.weights[out.weight]
    whole = weight.data.nbytes + weight.scales.nbytes
    side = model.parameters.weights[out.side].n_bytes if out.side else 0
    if out.live is not None and out.signs is None:
        return side + whole * _live_share(weight, layer)
    if weight.format is Format.T2N:
        return side + weight.data.nbytes * (1 - zeros) + weight.scales.nbytes
    if weight.format.is_column:
        # Inputs rounded to 16 bits are hardly more often 0 than gates are dead.
        dead = zeros if weight.format.is_sliced else layer.dead_share
        per_step = weight.k if weight.slices is not None else BLOCK
        if weight.slices is not None and weight.slices.group:
            per_step = weight.slices.group
        codes = storage_codes(weight.format, weight.n_rows, weight.k)
        steps = (weight.data.nbytes - codes) * (1 - dead**per_step)
        return side + codes * (1 - dead) + steps
    return float(side + whole)


def _live_share(weight: Weight, layer: LayerStatistics) -> float:
    """Share of a matrix that waits for its gate, of which live rows or tiles are read."""
    fmt, lib = weight.format, _native.lib()
    if fmt.is_row or fmt in (Format.T2, Format.T5):
        live = 1 - layer.dead_share
        return live if 100 * live <= lib.ES_DENSE_ROWS_PERCENT else 1.0
    if Format.Q8 <= fmt <= Format.F32:
        live = layer.live_tile_share
        return live if 100 * live <= lib.ES_DENSE_TILES_PERCENT else 1.0
    return 1.0
