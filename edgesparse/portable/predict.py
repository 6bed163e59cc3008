"""Votes of sign planes (numba twin of ``ops/predict.py``)."""

from __future__ import annotations

import numpy as np

from edgesparse.portable.bind import Bytes, Float32, Int32
from edgesparse.portable.jit import njit
from edgesparse.portable.numerics import ZERO

__all__ = ["mask_predicted"]


@njit
def popcount(byte: int) -> int:
    """Count the bits of a byte."""
    byte = byte - ((byte >> 1) & 0x55)
    byte = (byte & 0x33) + ((byte >> 2) & 0x33)
    return (byte + (byte >> 4)) & 0x0F


@njit
def mask_predicted(
    dst: Float32,
    h: Float32,
    planes: Bytes,
    masked: bool,
    limits: Int32,
    n_tokens: int,
    begin: int,
    end: int,
) -> None:
    """Set outputs [begin, end) to 0 where more votes than the row's limit are against them."""
    k = h.shape[1]
    width = planes.shape[1] // 2 if masked else planes.shape[1]
    bits = np.empty(width, np.uint8)
    for t in range(n_tokens):
        bits[:] = 0
        for i in range(k):
            if h[t, i] < ZERO:
                bits[i >> 3] |= np.uint8(1 << (i & 7))
        for r in range(begin, end):
            votes = 0
            for b in range(width):
                differ = planes[r, b] ^ bits[b]
                if masked:
                    differ &= planes[r, width + b]
                votes += popcount(int(differ))
            if votes > limits[r]:
                dst[t, r] = ZERO
