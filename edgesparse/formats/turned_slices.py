"""Bit planes (bs2 to bs4) by columns (bs2n to bs4n): the same codes and steps in other bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgesparse.formats.bitslice import unpack_heads
from edgesparse.formats.memory import allocate
from edgesparse.formats.slice_columns import fill_tile_from_planes
from edgesparse.formats.weight import (
    BLOCK,
    NEURON_MAJOR,
    SLICE_TILE,
    Weight,
    blocks_of_groups,
    storage_bytes,
)

__all__ = ["by_columns", "fill_by_columns"]

U8 = npt.NDArray[np.uint8]


def by_columns(weight: Weight) -> Weight:
    """Store a matrix in bs2, bs3 or bs4 by columns: the same codes and steps in other bytes."""
    fmt, slices = NEURON_MAJOR[weight.format], weight.slices
    n_bytes = storage_bytes(fmt, weight.n_rows, weight.k, slices)
    data = allocate([n_bytes], weight.name or "a weight")[0]
    fill_by_columns(data, weight)
    return replace(weight, format=fmt, data=data)


def fill_by_columns(data: U8, weight: Weight) -> None:
    """Write the bytes of `by_columns`, a tile at a time so that what is in between stays small."""
    fmt, slices = NEURON_MAJOR[weight.format], weight.slices
    if slices is None:
        raise ValueError(f"{weight.name} has no steps")
    heads = [
        part.transpose(0, 2, 1).reshape(-1, part.shape[1])[: weight.n_rows]
        for part in unpack_heads(weight)
    ]
    n_rows, k = weight.n_rows, weight.k
    for first in range(0, n_rows, fmt.tile_rows):
        last = min(first + fmt.tile_rows, n_rows)
        n_lines = -(-(last - first) // fmt.line_rows)
        codes = np.zeros((2 * n_lines, -(-k // BLOCK) * BLOCK, SLICE_TILE), np.uint8)
        _read_planes(codes, weight, first // SLICE_TILE)
        begin, end = (storage_bytes(fmt, n, k, slices) for n in (first, last))
        steps, beside = (head[first:last] for head in heads)
        fill_tile_from_planes(data[begin:end], codes, fmt, k, slices, steps, beside)


def _read_planes(codes: U8, weight: Weight, first: int) -> None:
    """Write the codes of some tiles, (n, padded k, 64), in the order of their bytes."""
    bits, slices = weight.format.planes, weight.slices
    tiles = weight.data.reshape(-(-weight.n_rows // SLICE_TILE), -1)[first : first + len(codes)]
    eights = codes[: len(tiles)].reshape(len(tiles), -1, 8, SLICE_TILE)
    at = 0
    for block, n_blocks in blocks_of_groups(-(-weight.k // BLOCK), slices):
        at += 0 if slices is None else slices.head_bytes
        n_bytes = n_blocks * bits * 256
        stored = tiles[:, at : at + n_bytes].reshape(len(tiles), -1, bits, SLICE_TILE)
        at += n_bytes
        to = eights[:, 4 * block : 4 * (block + n_blocks)]
        for column in range(8):
            for plane in range(bits):
                bit = stored[:, :, plane] >> np.uint8(column) & np.uint8(1)
                to[:, :, column] |= bit << np.uint8(plane)
