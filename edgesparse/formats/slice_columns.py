"""bs2n, bs3n, bs4n: the codes and steps of bs2 to bs4 stored by columns (pictures in README.md).

An input of zero saves reading its column of a tile. A code takes 2 bits, or 4: of three bits one is
left empty, which keeps taking them apart cheap. The functions here define the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import (
    BLOCK,
    COLUMN_WIDTH,
    Format,
    Slices,
    Weight,
    Zeros,
    blocks_of_groups,
    storage_bytes,
)

__all__ = ["fill_slice_columns", "fill_tile_from_planes", "read_slice_columns"]

U8 = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.generic]


def _tiles(fmt: Format, n_rows: int) -> Iterator[tuple[int, int]]:
    """Give the first row of every tile and the lines it is wide."""
    n_lines = -(-n_rows // fmt.line_rows)
    for line in range(0, n_lines, COLUMN_WIDTH):
        yield line * fmt.line_rows, min(COLUMN_WIDTH, n_lines - line)


def _groups(k: int, slices: Slices) -> Iterator[tuple[int, int]]:
    """Give the first column of every group, and the one behind it, padding included."""
    for first, n_blocks in blocks_of_groups(-(-k // BLOCK), slices):
        yield first * BLOCK, (first + n_blocks) * BLOCK


def _kinds(slices: Slices) -> list[str]:
    """Give the dtypes of a group's heads: steps, and what stands beside them."""
    element = "<f4" if slices.wide else "<f2"
    beside = {Zeros.NONE: [], Zeros.POINTS: ["i1"], Zeros.OFFSETS: [element]}
    return [element, *beside[slices.zeros]]


def _parts(fmt: Format) -> tuple[int, int]:
    """Say how many rows share a byte, and how many runs of 16 bytes a line has."""
    return 128 // fmt.line_bytes, fmt.line_bytes // 16


def fill_slice_columns(
    data: U8, codes: U8, fmt: Format, slices: Slices, steps: Numbers, beside: Numbers | None
) -> None:
    """Write a matrix, or whole tiles of one.

    Parameters
    ----------
    data : (bytes of n_rows rows,) uint8
        Filled.
    codes : (n_rows, k) uint8
        Below 2^bits.
    fmt : Format
        `Format.BS2N` to `Format.BS4N`.
    slices : Slices
    steps, beside : (n_rows, n_groups) numbers
        As for `bitslice.fill_slices`.
    """
    n_rows, k = codes.shape
    for first, width in _tiles(fmt, n_rows):
        rows = slice(first, first + width * fmt.line_rows)
        begin, end = (storage_bytes(fmt, n, k, slices) for n in (rows.start, rows.stop))
        woven = _weave(codes[rows], fmt, width)
        some = [None if part is None else part[rows] for part in (steps, beside)]
        _fill_tile(data[begin:end], woven, k, slices, width * fmt.line_rows, *some)


def fill_tile_from_planes(
    data: U8, planes: U8, fmt: Format, k: int, slices: Slices, steps: Numbers, beside: Numbers
) -> None:
    """Write one tile from the codes of bit planes, whose rows lie in a kindred order.

    Parameters
    ----------
    data : (bytes of the tile,) uint8
        Filled.
    planes : (2 * lines, padded k, 64) uint8
        Codes of tiles of 64 rows, in the order of their bytes (`bitslice`).
    fmt, k, slices, steps, beside
        As for `fill_slice_columns`.
    """
    width, padded = len(planes) // 2, planes.shape[1]
    if fmt is Format.BS2N:
        # Row 64 t + 32 g + 16 h + 8 m + 4 l + i stands in byte 16 l + 8 h + 4 m + i, there at
        # bits 4 t + 2 g.
        split = planes.reshape(width, 2, padded, 2, 2, 2, 2, 4)
        lines = np.zeros((width, padded, 2, 2, 2, 4), np.uint8)
        for t in range(2):
            for g in range(2):
                lines |= split[:, t, :, :, :, g] << np.uint8(4 * t + 2 * g)
        woven = lines.transpose(1, 0, 3, 4, 2, 5)
    else:
        pairs = planes.reshape(width, 2, padded, 64)
        woven = (pairs[:, 0] | pairs[:, 1] << np.uint8(4)).transpose(1, 0, 2)
    flat = np.ascontiguousarray(woven).reshape(padded, -1)
    _fill_tile(data, flat, k, slices, width * fmt.line_rows, steps, beside)


def _fill_tile(
    data: U8,
    woven: U8,
    k: int,
    slices: Slices,
    n_rows: int,
    steps: Numbers | None,
    beside: Numbers | None,
) -> None:
    """Write the heads and the lines (padded k, bytes) of a tile of `n_rows`, padding included."""
    at, kinds = 0, _kinds(slices)
    for group, (begin, end) in enumerate(_groups(k, slices)):
        for kind, values in zip(kinds, (steps, beside), strict=False):
            full = np.zeros(n_rows, kind)
            if values is not None:
                full[: len(values)] = values[:, group]
            at = _put(data, at, full)
        at = _put(data, at, woven[begin:end])


def _put(data: U8, at: int, values: Numbers) -> int:
    raw = values.reshape(-1).view(np.uint8)
    data[at : at + len(raw)] = raw
    return at + len(raw)


def _weave(codes: U8, fmt: Format, width: int) -> U8:
    """Put the codes of a tile into lines: (padded k, width * line_bytes)."""
    n_rows, k = codes.shape
    share, runs = _parts(fmt)
    padded = -(-k // BLOCK) * BLOCK
    full = np.zeros((padded, width * fmt.line_rows), np.uint8)
    full[:k, :n_rows] = codes.T
    # Row 4 · runs · m + 4 l + i of those with the same bits stands at byte 16 l + 4 m + i.
    split = full.reshape(padded, width, share, 4, runs, 4)
    lines = split[:, :, 0]
    for part in range(1, share):
        lines = lines | split[:, :, part] << np.uint8(8 // share * part)
    return np.ascontiguousarray(lines.transpose(0, 1, 3, 2, 4)).reshape(padded, -1)


def read_slice_columns(
    weight: Weight, rows: npt.NDArray[np.intp]
) -> tuple[U8, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Take rows of a weight apart.

    Returns
    -------
    codes : (n, k) uint8
    steps, beside : (n, n_groups) float32
        As stored; `beside` is 0 where nothing is.
    """
    fmt, slices = weight.format, weight.slices
    if slices is None:
        raise ValueError(f"{weight.name} has no steps")
    share, runs = _parts(fmt)
    groups = list(_groups(weight.k, slices))
    codes = np.empty((len(rows), groups[-1][1]), np.uint8)
    steps = np.empty((len(rows), len(groups)), np.float32)
    beside = np.zeros_like(steps)
    kinds = _kinds(slices)
    for first, width in _tiles(fmt, weight.n_rows):
        n_rows = width * fmt.line_rows
        mine = np.flatnonzero((rows >= first) & (rows < first + n_rows))
        at = storage_bytes(fmt, first, weight.k, slices)
        lane = rows[mine] - first
        line, r = divmod(lane, fmt.line_rows)
        part, r = divmod(r, fmt.line_rows // share)
        byte = line * fmt.line_bytes + r // 4 % runs * 16 + r // (4 * runs) * 4 + r % 4
        for group, (begin, end) in enumerate(groups):
            for kind, to in zip(kinds, (steps, beside), strict=False):
                n_bytes = n_rows * np.dtype(kind).itemsize
                to[mine, group] = weight.data[at : at + n_bytes].view(kind)[lane]
                at += n_bytes
            n_bytes = (end - begin) * width * fmt.line_bytes
            stored = weight.data[at : at + n_bytes].reshape(end - begin, -1)[:, byte]
            bits = np.uint8(8 // share)
            codes[mine, begin:end] = (stored >> (part.astype(np.uint8) * bits)).T & np.uint8(
                (1 << bits) - 1
            )
            at += n_bytes
    return np.ascontiguousarray(codes[:, : weight.k]), steps, beside
