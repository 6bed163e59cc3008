"""Products with bit slices: int8 activations per block of 32, steps per group of weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.bitslice import middle, unpack_bitslice
from edgesparse.formats.weight import BLOCK, Weight
from edgesparse.ops.numerics import quantize_i8_blocks

__all__ = ["sliced_product"]

Float32 = npt.NDArray[np.float32]


def sliced_product(weight: Weight, h: Float32) -> Float32:
    """Multiply activations by a weight in bs1 to bs4.

    Parameters
    ----------
    weight : Weight
        Shape (n_rows, k).
    h : float32 ndarray, shape (n_tokens, k)

    Returns
    -------
    float32 ndarray, shape (n_tokens, n_rows)
    """
    q, d = quantize_i8_blocks(h)
    xsum = d * q.sum(axis=-1, dtype=np.int32).astype(np.float32)
    codes, steps, zeros, offsets = unpack_bitslice(weight)
    bits, n_blocks = weight.format.planes, q.shape[1]
    # Codes count from their middle; a single bit as -1 or 1, times half of the step.
    factor = 2 if bits == 1 else 1
    centre = np.float32(factor * middle(bits))
    steps = steps * np.float32(1 / factor)
    signed = np.zeros((weight.n_rows, n_blocks * BLOCK), np.float64)
    signed[:, : weight.k] = factor * codes.astype(np.float64) - centre
    signed = signed.reshape(weight.n_rows, n_blocks, BLOCK)
    points = None if zeros is None else factor * zeros - centre
    group = weight.slices.group // BLOCK if weight.slices else 0
    y = np.zeros((h.shape[0], weight.n_rows), np.float32)
    for g, first in enumerate(range(0, n_blocks, group or n_blocks)):
        blocks = range(first, min(first + (group or n_blocks), n_blocks))
        part, xs = _group(q, d, xsum, signed, blocks)
        if points is not None and points.any():
            part = part - points[None, :, g] * xs[:, None]
        y += steps[None, :, g] * part
        if offsets is not None:
            y += (offsets[None, :, g] + steps[None, :, g] * centre) * xs[:, None]
    return y


def _group(
    q: npt.NDArray[np.int8],
    d: Float32,
    xsum: Float32,
    signed: npt.NDArray[np.float64],
    blocks: range,
) -> tuple[Float32, Float32]:
    """Add up blocks one after the other: sums times steps (n_tokens, n_rows), xsum (n_tokens,)."""
    part, xs = np.zeros(0, np.float32), np.zeros(0, np.float32)
    for b in blocks:
        # Within 32 * 8 * 127: exact.
        sums = (q[:, b].astype(np.float64) @ signed[:, b].T).astype(np.float32)
        term = sums * d[:, b, None]
        part = term if b == blocks[0] else part + term
        xs = xsum[:, b] if b == blocks[0] else xs + xsum[:, b]
    return part, xs
