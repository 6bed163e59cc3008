"""Bit slices × int8 products: bs1 to bs4 and bst (bytes: ``edgesparse/formats/README.md``).

Few tokens look the sums of four activations up by the bits of four weights; more of them share the
unpacked codes of a row. The integers are the same, and what follows is one function.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import BLOCK, SLICE_TILE, Weight, Zeros
from edgesparse.portable.bind import Bytes, Float32, Int32
from edgesparse.portable.jit import njit
from edgesparse.portable.numerics import ZERO, half_to_float

__all__ = [
    "fill_tables",
    "slice_layout",
    "slice_tiles_of",
    "sliced_product",
    "sliced_row",
    "ternary_sliced_product",
]

POINTS = int(Zeros.POINTS)
OFFSETS = int(Zeros.OFFSETS)

Int8 = npt.NDArray[np.int8]
Int16 = npt.NDArray[np.int16]
Layout = tuple[int, int, int, int, bool]
"""Planes, blocks, blocks of a group, kind of zeros, whether steps are float32."""


def slice_layout(weight: Weight) -> Layout:
    """Say how a weight's tiles are laid out; bst has no heads, and none are read."""
    n_blocks, slices = -(-weight.k // BLOCK), weight.slices
    if slices is None:
        return weight.format.planes, n_blocks, n_blocks, 0, False
    group = slices.group // BLOCK or n_blocks
    return weight.format.planes, n_blocks, group, int(slices.zeros), slices.wide


def slice_tiles_of(weight: Weight) -> Bytes:
    """Return the stored bytes as a (n_tiles, tile_bytes) view."""
    return weight.data.reshape(-(-weight.n_rows // SLICE_TILE), -1)


@njit
def fill_tables(tables: Int16, q: Int8, begin: int, end: int) -> None:
    """Write, for tokens [begin, end) and every four columns, the sums of all subsets of their q.

    Parameters
    ----------
    tables : (>= end, quads, 16) int16
    q : (>= end, >= 4 quads) int8
    """
    for t in range(begin, end):
        for quad in range(tables.shape[1]):
            x = q[t, 4 * quad : 4 * quad + 4]
            for i in range(16):
                total = 0
                for n in range(4):
                    total += ((i >> n) & 1) * int(x[n])
                tables[t, quad, i] = total


@njit
def byte_of(lane: int) -> int:
    """Return the byte of row `lane` among the 64 of its tile."""
    return lane // 4 % 4 * 16 + lane // 16 * 4 + lane % 4


@njit
def element(tile: Bytes, at: int, lane: int, wide: bool) -> np.float32:
    """Return number `lane` of those that start at byte `at`."""
    if wide:
        return np.float32(tile[at + 4 * lane : at + 4 * lane + 4].view(np.float32)[0])
    return half_to_float(tile[at + 2 * lane : at + 2 * lane + 2].view(np.uint16)[0])


@njit
def head_bytes(layout: Layout, height: int) -> int:
    """Return the bytes of steps and zeros in front of a group of a tile of `height` rows."""
    step = 4 if layout[4] else 2
    beside = 1 if layout[3] == POINTS else (step if layout[3] == OFFSETS else 0)
    return height * (step + beside)


@njit
def block_offsets(offsets: Int32, layout: Layout, has_heads: bool) -> None:
    """Write where in a tile every block's codes start."""
    planes, n_blocks, group, _, _ = layout
    at = 0
    for block in range(n_blocks):
        if has_heads and block % group == 0:
            at += head_bytes(layout, SLICE_TILE)
        offsets[block] = at
        at += 256 * planes


@njit
def look_up(tile: Bytes, at: int, byte: int, planes: int, tables: Int16) -> np.int32:
    """Return Σ code q over one block of one row; tables: (8, 16)."""
    total = np.int32(0)
    for pair in range(4):
        for plane in range(planes):
            bits = tile[at + (pair * planes + plane) * 64 + byte]
            both = np.int32(tables[2 * pair, bits & 15]) + np.int32(tables[2 * pair + 1, bits >> 4])
            total = np.int32(total + both * (1 << plane))
    return total


@njit
def unpack(codes: Int8, tile: Bytes, offsets: Int32, byte: int, planes: int) -> None:
    """Write the stored codes of one row."""
    for block in range(offsets.shape[0]):
        for pair in range(4):
            out = codes[block * 32 + pair * 8 : block * 32 + pair * 8 + 8]
            out[:] = 0
            for plane in range(planes):
                bits = tile[offsets[block] + (pair * planes + plane) * 64 + byte]
                for n in range(out.shape[0]):
                    out[n] |= ((bits >> n) & 1) << plane


@njit
def dot(codes: Int8, q: Int8) -> np.int32:
    """Return Σ code q over one block."""
    total = np.int32(0)
    for i in range(codes.shape[0]):
        total = np.int32(total + np.int32(codes[i]) * np.int32(q[i]))
    return total


@njit
def finish(
    sums: Int32,
    tile: Bytes,
    offsets: Int32,
    lane: int,
    height: int,
    layout: Layout,
    d: Float32,
    q_sum: Int32,
    x_sum: Float32,
) -> np.float32:
    """Return the output of one row and token, from Σ stored code q of every block.

    `lane` is the row's place in its tile of `height` rows, `offsets` where codes of blocks start.
    """
    planes, n_blocks, group, zeros, wide = layout
    factor = np.int32(2 if planes == 1 else 1)
    middle = np.int32(1 if planes == 1 else 1 << (planes - 1))
    step_bytes = 4 if wide else 2
    y = ZERO
    part = ZERO
    xs = ZERO
    for block in range(n_blocks):
        total = np.int32(factor * sums[block] - middle * q_sum[block])
        term = np.float32(total) * d[block]
        if block % group == 0:
            part = term
            xs = x_sum[block]
        else:
            part = part + term
            xs = xs + x_sum[block]
        if (block + 1) % group != 0 and block + 1 != n_blocks:
            continue
        head = offsets[block - block % group] - head_bytes(layout, height)
        beside = head + height * step_bytes
        step = element(tile, head, lane, wide)
        if zeros == POINTS:
            part = part - np.float32(np.int8(tile[beside + lane])) * xs
        y = y + step * part
        if zeros == OFFSETS:
            offset = element(tile, beside, lane, wide) + step * np.float32(middle)
            y = y + offset * xs
    return y


@njit
def sum_blocks(
    sums: Int32,
    tile: Bytes,
    offsets: Int32,
    byte: int,
    planes: int,
    codes: Int8,
    q: Int8,
    tables: Int16,
) -> None:
    """Write Σ stored code q of every block of one row; looks up where there are tables."""
    for block in range(sums.shape[0]):
        if tables.shape[0] > 0:
            own = tables[8 * block : 8 * block + 8]
            sums[block] = look_up(tile, offsets[block], byte, planes, own)
        else:
            i = 32 * block
            sums[block] = dot(codes[i : i + 32], q[i : i + 32])


@njit
def sliced_product(
    dst: Float32,
    add: bool,
    bias: Float32,
    tiles: Bytes,
    layout: Layout,
    q: Int8,
    d: Float32,
    q_sum: Int32,
    x_sum: Float32,
    tables: Int16,
    n_tokens: int,
    row_begin: int,
    row_end: int,
    codes: Int8,
) -> None:
    """Compute output features [row_begin, row_end) of every token over bs1 to bs4.

    Parameters
    ----------
    dst, add, bias
        As for `ternary_product`.
    tiles : (n_tiles, tile_bytes) uint8
    layout : tuple
        See `slice_layout`.
    q, d, q_sum, x_sum : (>= n_tokens, 32 n_blocks) int8, (>= n_tokens, n_blocks) each
        Quantised activations.
    tables : (>= n_tokens, 8 n_blocks, 16) or (0, 0, 0) int16
        Sums to look up; empty: multiply.
    codes : (32 n_blocks,) int8
        Scratch.
    """
    planes, n_blocks = layout[0], layout[1]
    offsets = np.empty(n_blocks, np.int32)
    block_offsets(offsets, layout, True)
    sums = np.empty(n_blocks, np.int32)
    has_bias, looks_up = bias.shape[0] > 0, tables.shape[0] > 0
    none = np.empty((0, 16), np.int16)
    for r in range(row_begin, row_end):
        tile, lane = tiles[r // 64], r % 64
        byte = byte_of(lane)
        if not looks_up:
            unpack(codes, tile, offsets, byte, planes)
        for t in range(n_tokens):
            own = tables[t] if looks_up else none
            sum_blocks(sums, tile, offsets, byte, planes, codes, q[t], own)
            y = finish(sums, tile, offsets, lane, SLICE_TILE, layout, d[t], q_sum[t], x_sum[t])
            if has_bias:
                y = y + bias[r]
            dst[t, r] = dst[t, r] + y if add else y


@njit
def ternary_sliced_product(
    dst: Float32,
    add: bool,
    bias: Float32,
    tiles: Bytes,
    scales: Float32,
    layout: Layout,
    q: Int8,
    s: Float32,
    q_sum: Int32,
    tables: Int16,
    n_tokens: int,
    row_begin: int,
    row_end: int,
    codes: Int8,
) -> None:
    """Compute output features over bst; q, s and q_sum as for `ternary_product`, q in order."""
    n_blocks = layout[1]
    offsets = np.empty(n_blocks, np.int32)
    block_offsets(offsets, layout, False)
    sums = np.empty(n_blocks, np.int32)
    has_bias, looks_up = bias.shape[0] > 0, tables.shape[0] > 0
    none = np.empty((0, 16), np.int16)
    for r in range(row_begin, row_end):
        tile = tiles[r // 64]
        byte = byte_of(r % 64)
        if not looks_up:
            unpack(codes, tile, offsets, byte, 2)
        for t in range(n_tokens):
            own = tables[t] if looks_up else none
            sum_blocks(sums, tile, offsets, byte, 2, codes, q[t], own)
            total = np.int32(0)
            for block in range(n_blocks):
                total = np.int32(total + sums[block])
            total = np.int32(total - q_sum[t])
            y = np.float32(total) * np.float32(scales[r] / s[t])
            if has_bias:
                y = y + bias[r]
            dst[t, r] = dst[t, r] + y if add else y


@njit
def sliced_row(out: Float32, tiles: Bytes, scales: Float32, layout: Layout, row: int) -> None:
    """Dequantise one row; `scales` is empty but for bst."""
    planes, n_blocks, group, zeros, wide = layout
    is_ternary = scales.shape[0] > 0
    offsets = np.empty(n_blocks, np.int32)
    block_offsets(offsets, layout, not is_ternary)
    codes = np.empty(32 * n_blocks, np.int8)
    tile, lane = tiles[row // 64], row % 64
    unpack(codes, tile, offsets, byte_of(lane), planes)
    factor = np.int32(2 if planes == 1 else 1)
    middle = np.int32(1 if is_ternary or planes == 1 else 1 << (planes - 1))
    beside = 64 * (4 if wide else 2)
    for i in range(out.shape[0]):
        code = np.int32(factor * np.int32(codes[i]))
        if is_ternary:
            out[i] = np.float32(code - middle) * scales[row]
            continue
        block = i // 32
        head = offsets[block - block % group] - head_bytes(layout, SLICE_TILE)
        step = element(tile, head, lane, wide)
        if zeros == OFFSETS:
            out[i] = step * np.float32(code) + element(tile, head + beside, lane, wide)
        elif zeros == POINTS:
            point = np.int32(np.int8(tile[head + beside + lane]))
            out[i] = step * np.float32(code - middle - point)
        else:
            out[i] = step * np.float32(code - middle)
