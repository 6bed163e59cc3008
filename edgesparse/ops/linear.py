"""Products of quantised activations with weights, for every storage format."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.bitslice import unpack_bitslice
from edgesparse.formats.blocks import unpack_blocks
from edgesparse.formats.coo import unpack_coo
from edgesparse.formats.floats import unpack_float, widen
from edgesparse.formats.ternary import unpack_ternary
from edgesparse.formats.weight import BLOCK, Format, Weight
from edgesparse.ops.glu import glu
from edgesparse.ops.numerics import quantize_i8, quantize_i16, sequential_sum
from edgesparse.ops.slices import sliced_product
from edgesparse.plan.op import GluKind

__all__ = ["cut", "drop_small", "live_outputs", "product", "side_product"]

Float32 = npt.NDArray[np.float32]
_SLICE_BYTES = 64 << 20


def drop_small(h: Float32, threshold: float, factors: Float32 | None) -> Float32:
    """Set inputs with ``|x| * factor < threshold`` to +0 (TEAL, CHESS).

    Parameters
    ----------
    h : float32 ndarray, shape (n_tokens, k)
    threshold : float
        Rounded to float32.
    factors : float32 ndarray, shape (k,), or None
        None: every factor is 1.
    """
    size = np.abs(h) if factors is None else np.abs(h) * factors
    return np.where(size < np.float32(threshold), np.float32(0), h)


def live_outputs(
    gate: Float32, threshold: float, factors: Float32 | None, is_sparse: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Tell which outputs stay: see `Output.live`.

    Parameters
    ----------
    gate : float32 ndarray, shape (n_tokens, n_rows)
    threshold : float
        0: outputs whose gate is above 0 stay.
    factors : float32 ndarray, shape (n_rows,), or None
    is_sparse : bool ndarray, shape (n_tokens,)
        Tokens that a threshold applies to; the others keep all outputs.
    """
    if threshold <= 0:
        return gate > 0
    size = np.abs(glu(GluKind.SILU, gate, np.ones_like(gate)))
    size = size if factors is None else size * factors
    return ~(size < np.float32(threshold)) | ~is_sparse[:, None]


def cut(y: Float32, shift: float, cutoff: float) -> Float32:
    """Subtract `shift`; what is then below `cutoff` is +0: see `Output.shift`.

    Parameters
    ----------
    y : float32 ndarray
    shift, cutoff : float
        Rounded to float32. A NaN stays one.
    """
    shifted = y - np.float32(shift)
    return np.where(shifted < np.float32(cutoff), np.float32(0), shifted)


def product(weight: Weight, h: Float32) -> Float32:
    """Multiply activations by one weight, quantising them as its format asks.

    Parameters
    ----------
    weight : Weight
        Shape (n_rows, k).
    h : float32 ndarray, shape (n_tokens, k)

    Returns
    -------
    float32 ndarray, shape (n_tokens, n_rows)
    """
    if weight.order is not None:
        h = h[:, weight.order]
    if weight.format is Format.BST:
        return _ternary(weight, unpack_bitslice(weight)[0].view(np.int8) - np.int8(1), h)
    if weight.format.is_sliced:
        return sliced_product(weight, h)
    if weight.format.is_ternary:
        return _ternary(weight, unpack_ternary(weight), h)
    if weight.format.is_block:
        return _blocks(weight, h)
    return _floats(weight, h)


def side_product(weight: Weight, h: Float32) -> Float32:
    """Multiply activations by the outliers of a matrix, floats by floats, those of a row in turn.

    Parameters
    ----------
    weight : Weight
        In coo, shape (n_rows, k).
    h : float32 ndarray, shape (n_tokens, k)

    Returns
    -------
    float32 ndarray, shape (n_tokens, n_rows)
    """
    coo = unpack_coo(weight)
    y = np.zeros((h.shape[0], weight.n_rows), np.float32)
    # One after another, unlike y[:, rows] += …, which would take one of equal rows.
    np.add.at(y.T, coo.matrix_rows, (coo.values * h[:, coo.columns]).T)
    return y


def _ternary(weight: Weight, codes: npt.NDArray[np.int8], h: Float32) -> Float32:
    q, s = quantize_i8(h)
    # Integers in float arithmetic are exact while every partial sum stays below the mantissa.
    if weight.k * 128 < 1 << 24:
        sums = q.astype(np.float32) @ codes.astype(np.float32).T
    else:
        sums = (q.astype(np.float64) @ codes.astype(np.float64).T).astype(np.float32)
    return np.asarray(sums * (weight.scales[None, :] / s[:, None]), np.float32)


def _blocks(weight: Weight, h: Float32) -> Float32:
    q, dx = quantize_i16(h)
    codes, dw, m = _block_codes(weight)
    xsum = dx * q.astype(np.int32).sum(axis=-1).astype(np.float32)
    y = np.zeros((h.shape[0], weight.n_rows), np.float32)
    for b in range(codes.shape[1]):
        # A block's sum stays below 32 * 128 * 32767 < 2**27: exact in float64.
        sums = q[:, b].astype(np.float64) @ codes[:, b].astype(np.float64).T
        y += sums.astype(np.float32) * (dw[None, :, b] * dx[:, None, b])
        if m is not None:
            y += m[None, :, b] * xsum[:, None, b]
    return y


def _block_codes(
    weight: Weight,
) -> tuple[npt.NDArray[np.int8], Float32, Float32 | None]:
    """Return codes (n_rows, n_blocks, 32), steps and offsets (n_rows, n_blocks)."""
    codes, d, m = unpack_blocks(weight)
    padded = np.zeros((weight.n_rows, d.shape[1] * BLOCK), np.int8)
    padded[:, : weight.k] = codes
    offsets = None if m is None else m.astype(np.float32)
    return padded.reshape(weight.n_rows, -1, BLOCK), d.astype(np.float32), offsets


def _floats(weight: Weight, h: Float32) -> Float32:
    w = widen(unpack_float(weight))
    n_tokens, k = h.shape
    width = -(-k // 4) * 4
    x4 = np.zeros((n_tokens, width), np.float32)
    x4[:, :k] = h
    w4 = np.zeros((weight.n_rows, width), np.float32)
    w4[:, :k] = w
    y = np.empty((n_tokens, weight.n_rows), np.float32)
    step = max(1, _SLICE_BYTES // (width * 4 * n_tokens))
    for first in range(0, weight.n_rows, step):
        rows = slice(first, first + step)
        terms = x4[:, None, :] * w4[None, rows]
        chains = sequential_sum(np.moveaxis(terms.reshape(*terms.shape[:2], -1, 4), 2, 0))
        y[:, rows] = (chains[..., 0] + chains[..., 1]) + (chains[..., 2] + chains[..., 3])
    return y
