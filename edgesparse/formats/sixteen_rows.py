"""Tiles of 16 rows and blocks of 32 columns, which all formats without zeros store."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import BITMAP_TILE, BLOCK

__all__ = ["blocks_of"]


def blocks_of(
    codes: npt.NDArray[np.int8], d: npt.NDArray[np.float16]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """Cut a matrix into tiles and blocks, padded with zeros.

    Parameters
    ----------
    codes : int8 ndarray, shape (n_rows, k)
    d : float16 ndarray, shape (n_rows, ceil(k / 32))
        Step of every block.

    Returns
    -------
    blocks : int8 ndarray, shape (n_tiles, n_blocks, 16, 32)
    steps : little-endian float16 ndarray, shape (n_tiles, n_blocks, 16)
    """
    n_rows, k = codes.shape
    n_tiles, n_blocks = -(-n_rows // BITMAP_TILE), -(-k // BLOCK)
    full = np.zeros((n_tiles * BITMAP_TILE, n_blocks * BLOCK), np.int8)
    full[:n_rows, :k] = codes
    steps = np.zeros((n_tiles * BITMAP_TILE, n_blocks), "<f2")
    steps[:n_rows] = d
    return (
        full.reshape(n_tiles, BITMAP_TILE, n_blocks, BLOCK).swapaxes(1, 2),
        np.ascontiguousarray(steps.reshape(n_tiles, BITMAP_TILE, n_blocks).swapaxes(1, 2)),
    )
