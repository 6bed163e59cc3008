"""f16, bf16, f32: plain floats in tiles of 8 rows (picture in README.md).

bf16 has no numpy type: its elements are the uint16 that hold the upper halves of float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import TILE, Format, Weight, row_tiles

__all__ = ["ELEMENT_DTYPE", "pack_float", "unpack_float", "widen"]

ELEMENT_DTYPE = {Format.F16: "<f2", Format.BF16: "<u2", Format.F32: "<f4"}


def pack_float(values: npt.NDArray[Any], fmt: Format) -> npt.NDArray[np.uint8]:
    """Lay a float matrix out in tiles.

    Parameters
    ----------
    values : (n_rows, k) float16, uint16 (bits of bf16) or float32
        Elements of the type that `fmt` stores.
    fmt : Format
        One of the float formats.

    Returns
    -------
    (storage_bytes(fmt, n_rows, k),) uint8
    """
    n_rows, k = values.shape
    n_tiles = row_tiles(n_rows)
    full = np.zeros((n_tiles * TILE, k), dtype=ELEMENT_DTYPE[fmt])
    full[:n_rows] = values
    tiles = full.reshape(n_tiles, TILE, k).transpose(0, 2, 1)
    return np.ascontiguousarray(tiles).reshape(-1).view(np.uint8)


def unpack_float(weight: Weight, rows: npt.NDArray[np.intp] | None = None) -> npt.NDArray[Any]:
    """Give the elements of a float weight, or of some of its rows, shape (n, k).

    The dtype is that of `pack_float`; `widen` turns it into float32.
    """
    if rows is None:
        rows = np.arange(weight.n_rows)
    tiles = weight.data.view(ELEMENT_DTYPE[weight.format])
    tiles = tiles.reshape(row_tiles(weight.n_rows), weight.k, TILE).transpose(0, 2, 1)
    picked: npt.NDArray[Any] = tiles[rows // TILE, rows % TILE]
    return picked


def widen(elements: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Turn float16, bf16 bits (uint16) or float32 into float32, exactly."""
    if elements.dtype.kind == "u":
        return (elements.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return elements.astype(np.float32)
