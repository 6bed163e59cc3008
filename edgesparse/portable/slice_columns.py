"""Bit slices by columns × int8 products: bs2n to bs4n (bytes: ``edgesparse/formats/README.md``)."""

from __future__ import annotations

import numpy as np

from edgesparse.formats.weight import COLUMN_WIDTH, Weight
from edgesparse.portable.bind import Bytes, Float32, Int32
from edgesparse.portable.jit import njit
from edgesparse.portable.slices import Int8, Layout, dot, finish, head_bytes

__all__ = ["bytes_per_line", "sliced_column_product"]

WIDTH = COLUMN_WIDTH
LINE_ROWS = 128


def bytes_per_line(weight: Weight) -> int:
    """Return the bytes that one line takes of the whole matrix."""
    return weight.data.nbytes // -(-weight.n_rows // LINE_ROWS)


@njit
def column_offsets(offsets: Int32, layout: Layout, width: int, line_bytes: int) -> None:
    """Write where in a tile of so many lines every block's codes start."""
    at = 0
    for block in range(layout[1]):
        if block % layout[2] == 0:
            at += head_bytes(layout, width * LINE_ROWS)
        offsets[block] = at
        at += 32 * width * line_bytes


@njit
def unpack_column_row(
    codes: Int8, tile: Bytes, offsets: Int32, lane: int, width: int, line_bytes: int
) -> None:
    """Write the stored codes of one row of a tile."""
    share, runs = LINE_ROWS // line_bytes, line_bytes // 16
    bits = 8 // share
    r = lane % LINE_ROWS
    shift = r // (LINE_ROWS // share) * bits
    r = r % (LINE_ROWS // share)
    byte = lane // LINE_ROWS * line_bytes + r // 4 % runs * 16 + r // (4 * runs) * 4 + r % 4
    for i in range(codes.shape[0]):
        stored = tile[offsets[i // 32] + i % 32 * width * line_bytes + byte]
        codes[i] = (stored >> shift) & ((1 << bits) - 1)


@njit
def sliced_column_product(
    dst: Float32,
    add: bool,
    bias: Float32,
    data: Bytes,
    line_total: int,
    layout: Layout,
    q: Int8,
    d: Float32,
    q_sum: Int32,
    x_sum: Float32,
    n_tokens: int,
    row_begin: int,
    row_end: int,
    codes: Int8,
) -> None:
    """Compute output features [row_begin, row_end) of every token.

    Parameters
    ----------
    dst, add, bias
        As for `ternary_product`.
    data : uint8
        The stored bytes.
    line_total : int
        See `bytes_per_line`.
    layout, q, d, q_sum, x_sum, codes
        As for `sliced_product`.
    """
    planes, n_blocks = layout[0], layout[1]
    line_bytes = 32 if planes == 2 else 64
    offsets = np.empty(n_blocks, np.int32)
    sums = np.empty(n_blocks, np.int32)
    n_lines = data.shape[0] // line_total
    for r in range(row_begin, row_end):
        first = r // (WIDTH * LINE_ROWS) * WIDTH
        width = min(WIDTH, n_lines - first)
        tile, lane = data[first * line_total :], r - first * LINE_ROWS
        column_offsets(offsets, layout, width, line_bytes)
        unpack_column_row(codes, tile, offsets, lane, width, line_bytes)
        for t in range(n_tokens):
            for block in range(n_blocks):
                i = 32 * block
                sums[block] = dot(codes[i : i + 32], q[t, i : i + 32])
            y = finish(
                sums, tile, offsets, lane, width * LINE_ROWS, layout, d[t], q_sum[t], x_sum[t]
            )
            if bias.shape[0] > 0:
                y = y + bias[r]
            dst[t, r] = dst[t, r] + y if add else y
