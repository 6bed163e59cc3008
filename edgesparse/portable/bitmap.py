"""Bitmap × int16 products: codes of bmp8 and bmp4 are expanded into rows and multiplied as q8's.

The bytes are pictured in ``edgesparse/formats/README.md``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import BITMAP_CHUNKS, BITMAP_HEAD, BITMAP_TILE, Format
from edgesparse.portable.bind import Bytes, Float32, Int32
from edgesparse.portable.blocks import multiply_tile
from edgesparse.portable.jit import njit
from edgesparse.portable.numerics import half_to_float

__all__ = ["bitmap_product"]

BMP8 = int(Format.BMP8)
TILE = BITMAP_TILE
HEAD = BITMAP_HEAD
CHUNKS = BITMAP_CHUNKS


@njit
def unpack_half(
    data: Bytes, start: int, first: int, n_blocks: int, kind: int, codes: Bytes, d: Float32
) -> None:
    """Unpack eight rows, from `first` (0 or 8) on, of the tile at `start`: int8 codes and steps."""
    at = start
    codes[:] = 0
    for block in range(n_blocks):
        head = data[at : at + HEAD]
        steps = head[: 2 * TILE].view(np.uint16)
        for r in range(8):
            d[r, block] = half_to_float(steps[first + r])
        v = at + HEAD
        for chunk in range(CHUNKS):
            n = 0
            for i in range(64):
                if (head[2 * TILE + 8 * chunk + i // 8] >> (i % 8)) & 1 == 0:
                    continue
                r = i // 4 - first
                if 0 <= r < 8:
                    if kind == BMP8:
                        code = data[v + n]
                    else:
                        code = np.uint8(((data[v + n // 2] >> (4 * (n % 2))) & 15) - 8)
                    codes[r, block * 32 + 4 * chunk + i % 4] = code
                n += 1
            v += n if kind == BMP8 else (n + 1) // 2
        at = v


@njit
def bitmap_product(
    dst: Float32,
    add: bool,
    bias: Float32,
    data: Bytes,
    starts: npt.NDArray[np.int64],
    kind: int,
    q: npt.NDArray[np.int16],
    d_x: Float32,
    q_sum: Int32,
    x_sum: Float32,
    n_tokens: int,
    row_begin: int,
    row_end: int,
    codes: Bytes,
    d: Float32,
    m: Float32,
) -> None:
    """Compute output features [row_begin, row_end) of every token; row_begin is a multiple of 8.

    Parameters
    ----------
    data, starts : uint8, (n_tiles,) int64
        All of the matrix, and where its tiles of 16 rows begin.
    kind : int
        Value of `Format`.
    dst, add, bias, q, d_x, q_sum, x_sum, codes, d, m
        As for `block_product`.
    """
    for begin in range(row_begin, row_end, 8):
        unpack_half(data, starts[begin // TILE], begin % TILE, d.shape[1], kind, codes, d)
        multiply_tile(
            *(dst, add, bias, kind, q, d_x, q_sum, x_sum, n_tokens),
            *(begin, min(begin + 8, row_end), codes, d, m),
        )
