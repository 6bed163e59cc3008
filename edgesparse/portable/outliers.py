"""Outliers beside a matrix: a sparse product of floats, added (numba twin of ``side_product``)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import BITMAP_TILE
from edgesparse.portable.bind import Float32
from edgesparse.portable.jit import njit

__all__ = ["add_outliers"]


@njit
def add_outliers(
    dst: Float32,
    index: npt.NDArray[np.uint32],
    values: Float32,
    columns: npt.NDArray[np.uint16],
    rows: npt.NDArray[np.uint8],
    h: Float32,
    n_tokens: int,
    begin: int,
    end: int,
) -> None:
    """Add the products of rows [begin, end), whose tiles may begin before and end behind them."""
    y = np.empty(BITMAP_TILE, np.float32)
    for tile in range(begin // BITMAP_TILE, (end + BITMAP_TILE - 1) // BITMAP_TILE):
        first = tile * BITMAP_TILE
        for t in range(n_tokens):
            y[:] = np.float32(0)
            for i in range(index[tile], index[tile + 1]):
                y[rows[i]] = np.float32(y[rows[i]] + np.float32(values[i] * h[t, columns[i]]))
            for row in range(max(begin, first), min(end, first + BITMAP_TILE)):
                dst[t, row] = np.float32(dst[t, row] + y[row - first])
