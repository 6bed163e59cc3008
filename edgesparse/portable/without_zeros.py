"""Products of formats without zeros × int16: codes are expanded into rows and multiplied as q8's.

The bytes are pictured in ``edgesparse/formats/README.md``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import BITMAP_CHUNKS, BITMAP_HEAD, BITMAP_TILE, Format
from edgesparse.portable.bind import Bytes, Float32, Int32
from edgesparse.portable.blocks import multiply_tile
from edgesparse.portable.jit import njit
from edgesparse.portable.numerics import half_in_bytes, half_to_float

__all__ = ["sparse_product"]

BMP8 = int(Format.BMP8)
BMP4 = int(Format.BMP4)
CSR = int(Format.CSR)
NM8 = int(Format.NM8)
TILE = BITMAP_TILE
HEAD = BITMAP_HEAD
CHUNKS = BITMAP_CHUNKS
NM_CODES = 2 * TILE + 64


@njit
def unpack_bitmap_half(
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
def unpack_csr_half(
    data: Bytes, start: int, first: int, n_blocks: int, codes: Bytes, d: Float32
) -> None:
    """Do the same for csr."""
    at = start
    codes[:] = 0
    d[:] = 0
    for block in range(n_blocks):
        head = int(data[at]) | int(data[at + 1]) << 8
        n_words = head >> 11
        v = at + 2 + 4 * n_words
        for row in range(TILE if n_words > 0 else 0):  # steps of rows with an entry
            if (data[at + 2 + row // 4] >> (2 * (row % 4))) & 1:
                if 0 <= row - first < 8:
                    d[row - first, block] = half_in_bytes(data, v)
                v += 2
        for i in range(4 * n_words):
            bits = data[at + 2 + i]
            for bit in range(8):
                if (bits >> bit) & 1 == 0:
                    continue
                row = 4 * (i % 4) + bit // 2 - first
                if 0 <= row < 8:
                    codes[row, 32 * block + data[v]] = data[v + 1]
                v += 2
        at += head & 2047


@njit
def unpack_two_of_four_half(
    data: Bytes, start: int, first: int, n_blocks: int, kind: int, codes: Bytes, d: Float32
) -> None:
    """Do the same for nm8 and nm4."""
    block_bytes = NM_CODES + (256 if kind == NM8 else 128)
    codes[:] = 0
    for block in range(n_blocks):
        at = start + block * block_bytes
        for r in range(8):
            row = first + r
            d[r, block] = half_in_bytes(data, at + 2 * row)
            for j in range(2):
                place = at + 2 * TILE + 2 * (2 * row + j)
                word = int(data[place]) | int(data[place + 1]) << 8
                for group in range(8):
                    i = 64 * (group % 4) + 4 * row + 2 * j + group // 4
                    if kind == NM8:
                        code = data[at + NM_CODES + i]
                    else:
                        both = data[at + NM_CODES + i // 2]
                        code = np.uint8(((both >> (4 * (i % 2))) & 15) - 8)
                    codes[r, 32 * block + 4 * group + ((word >> (2 * group)) & 3)] = code


@njit
def sparse_product(
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
        start, first, n_blocks = starts[begin // TILE], begin % TILE, d.shape[1]
        if kind in (BMP8, BMP4):
            unpack_bitmap_half(data, start, first, n_blocks, kind, codes, d)
        elif kind == CSR:
            unpack_csr_half(data, start, first, n_blocks, codes, d)
        else:
            unpack_two_of_four_half(data, start, first, n_blocks, kind, codes, d)
        multiply_tile(
            *(dst, add, bias, kind, q, d_x, q_sum, x_sum, n_tokens),
            *(begin, min(begin + 8, row_end), codes, d, m),
        )
