"""Stored bytes back to numbers: what an embedding row is, and what tests compare with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.bitslice import unpack_bitslice
from edgesparse.formats.blocks import unpack_blocks
from edgesparse.formats.coo import unpack_coo
from edgesparse.formats.floats import unpack_float, widen
from edgesparse.formats.ternary import unpack_ternary
from edgesparse.formats.weight import BLOCK, Format, Weight

__all__ = ["dequantize"]


def dequantize(weight: Weight, rows: npt.ArrayLike | None = None) -> npt.NDArray[np.float32]:
    """Give a weight, or some of its rows, as float32.

    Each operation is one rounded float32 operation: ternary ``code * scale``; blocks
    ``d * code``, then ``+ m``; bit slices ``scale * (code - zero)``, or ``scale * code``, then
    ``+ offset``; floats are widened.

    Parameters
    ----------
    weight : Weight
        In any format.
    rows : (n,) int, optional
        Row numbers in [0, n_rows); all rows when omitted.

    Returns
    -------
    (n, k) float32
    """
    picked = None if rows is None else np.atleast_1d(np.asarray(rows, dtype=np.intp))
    values = _stored(weight, picked)
    if weight.order is None:
        return values
    placed = np.empty_like(values)
    placed[:, weight.order] = values
    return placed


def _stored(weight: Weight, picked: npt.NDArray[np.intp] | None) -> npt.NDArray[np.float32]:
    """Give rows with their columns as they are stored."""
    if weight.format is Format.COO:
        coo, dense = unpack_coo(weight), np.zeros((weight.n_rows, weight.k), np.float32)
        dense[coo.matrix_rows, coo.columns] = coo.values
        return dense if picked is None else dense[picked]
    if weight.format.is_sliced:
        return _slices(weight, picked)
    if weight.format.is_ternary:
        scales = weight.scales if picked is None else weight.scales[picked]
        return unpack_ternary(weight, picked).astype(np.float32) * scales[:, None]
    if not weight.format.is_block:
        return widen(unpack_float(weight, picked))
    codes, d, m = unpack_blocks(weight, picked)
    values = codes.astype(np.float32)
    values *= _per_column(d, weight.k)
    if m is not None:
        values += _per_column(m, weight.k)
    return values


def _slices(weight: Weight, rows: npt.NDArray[np.intp] | None) -> npt.NDArray[np.float32]:
    codes, scales, zeros, offsets = unpack_bitslice(weight, rows)
    group = (weight.slices.group if weight.slices else 0) or weight.k
    wide = codes.astype(np.float32)
    beside = zeros if offsets is None else offsets
    assert beside is not None  # one of the two is there
    steps, beside = (np.repeat(part, group, axis=1)[:, : weight.k] for part in (scales, beside))
    if offsets is None:
        return np.asarray(steps * (wide - beside), np.float32)
    return np.asarray(steps * wide + beside, np.float32)


def _per_column(steps: npt.NDArray[np.float16], k: int) -> npt.NDArray[np.float32]:
    return np.repeat(steps.astype(np.float32), BLOCK, axis=1)[:, :k]
