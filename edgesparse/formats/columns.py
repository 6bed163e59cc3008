"""q8n, q4n, q8mn, q4mn: the blocks of `blocks.py` stored by columns (pictures in README.md).

A column of a tile is a few whole cache lines, so an input of zero saves reading it. Codes and steps
are those of the row-major formats. The functions here define the bytes; native/repack/columns.c
writes the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import BLOCK, COLUMN_WIDTH, Format, Weight, storage_bytes

__all__ = ["STORED_ZERO", "pack_columns", "unpack_columns"]

U8 = npt.NDArray[np.uint8]
I8 = npt.NDArray[np.int8]
F16 = npt.NDArray[np.float16]

STORED_ZERO = {Format.Q8N: 128, Format.Q8MN: 128, Format.Q4N: 8, Format.Q4MN: 0}
"""What is added to a code to store it as an unsigned number."""

_LINE = 64


def _is_nibble(fmt: Format) -> bool:
    return fmt in (Format.Q4N, Format.Q4MN)


def _tiles(n_rows: int, fmt: Format) -> Iterator[tuple[int, int]]:
    """Give the first row of every tile and the lines it is wide."""
    n_lines = -(-n_rows // fmt.line_rows)
    for line in range(0, n_lines, COLUMN_WIDTH):
        yield line * fmt.line_rows, min(COLUMN_WIDTH, n_lines - line)


def pack_columns(codes: I8, d: F16, m: F16 | None, fmt: Format) -> U8:
    """Weave codes and steps into tiles of columns; parameters as for `blocks.pack_blocks`."""
    n_rows, k = codes.shape
    n_blocks = -(-k // BLOCK)
    n_padded = -(-n_rows // fmt.line_rows) * fmt.line_rows
    full = np.zeros((n_padded, n_blocks * BLOCK), dtype=np.uint8)
    full[:n_rows, :k] = codes.view(np.uint8)
    full[:n_rows] += np.uint8(STORED_ZERO[fmt])  # padding rows stay bytes of zero
    halves = np.zeros((1 if m is None else 2, n_padded, n_blocks), dtype="<f2")
    halves[0, :n_rows] = d
    if m is not None:
        halves[1, :n_rows] = m
    tiles = []
    for first, width in _tiles(n_rows, fmt):
        rows = slice(first, first + width * fmt.line_rows)
        lines = full[rows].reshape(width, -1, _LINE, n_blocks, BLOCK)
        if _is_nibble(fmt):
            lines = lines[:, :1] & np.uint8(15) | lines[:, 1:] << np.uint8(4)
        # Row 16 j + 4 l + i of a line stands at byte 16 l + 4 j + i.
        woven = lines.reshape(width, 4, 4, 4, n_blocks, BLOCK).transpose(4, 5, 0, 2, 1, 3)
        steps = np.ascontiguousarray(halves[:, rows].transpose(2, 0, 1)).view(np.uint8)
        parts = [woven.reshape(n_blocks, -1), steps.reshape(n_blocks, -1)]
        tiles.append(np.concatenate(parts, axis=1).reshape(-1))
    return np.concatenate(tiles)


def unpack_columns(weight: Weight, rows: npt.NDArray[np.intp]) -> tuple[I8, F16, F16 | None]:
    """Take rows of a weight apart; results as for `blocks.unpack_blocks`."""
    fmt, n_blocks = weight.format, -(-weight.k // BLOCK)
    n_halves = 2 if fmt in (Format.Q8MN, Format.Q4MN) else 1
    stored = np.empty((len(rows), n_blocks * BLOCK), dtype=np.uint8)
    halves = np.empty((n_halves, len(rows), n_blocks), dtype=np.float16)
    for first, width in _tiles(weight.n_rows, fmt):
        mine = np.flatnonzero((rows >= first) & (rows < first + width * fmt.line_rows))
        begin = storage_bytes(fmt, first, weight.k)
        end = begin + storage_bytes(fmt, width * fmt.line_rows, weight.k)
        tile = weight.data[begin:end].reshape(n_blocks, -1)
        lines = tile[:, : BLOCK * width * _LINE].reshape(n_blocks, BLOCK, width, _LINE)
        line, lane = divmod(rows[mine] - first, fmt.line_rows)
        r = lane % _LINE
        found = lines[:, :, line, r // 4 % 4 * 16 + r // 16 * 4 + r % 4]
        if _is_nibble(fmt):
            found = np.where(lane < _LINE, found & 15, found >> 4)
        stored[mine] = found.transpose(2, 0, 1).reshape(len(mine), -1)
        steps = np.ascontiguousarray(tile[:, BLOCK * width * _LINE :]).view("<f2")
        halves[:, mine] = steps.reshape(n_blocks, n_halves, -1)[..., rows[mine] - first].transpose(
            1, 2, 0
        )
    codes = (stored - np.uint8(STORED_ZERO[fmt])).view(np.int8)  # wraps to what int8 reads
    d, m = halves[0], halves[1] if n_halves == 2 else None
    return np.ascontiguousarray(codes[:, : weight.k]), d, m
