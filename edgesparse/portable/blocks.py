"""Block-quantised × int16 products: q8, q6, q4, q8m, q4m, and these by columns and by rows.

The bytes are pictured in ``edgesparse/formats/README.md``.

A tile of 8 rows is unpacked once into rows of int8 codes, its steps are widened, and every token is
multiplied with it. A block's |Σ code q| ≤ 32 · 128 · 32767 fits int32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import COLUMN_WIDTH, Format, Weight
from edgesparse.portable.bind import Bytes, Float32, Int32
from edgesparse.portable.jit import njit
from edgesparse.portable.numerics import ZERO, half_to_float

__all__ = ["block_product", "multiply_tile", "row_from_tile", "tiles_of", "unpack_tile"]

Q8 = int(Format.Q8)
Q4 = int(Format.Q4)
Q8M = int(Format.Q8M)
Q4M = int(Format.Q4M)
Q6 = int(Format.Q6)
Q8N = int(Format.Q8N)
Q4N = int(Format.Q4N)
Q4MN = int(Format.Q4MN)
Q8MN = int(Format.Q8MN)
Q8R = int(Format.Q8R)
Q4R = int(Format.Q4R)
Q4MR = int(Format.Q4MR)
Q8MR = int(Format.Q8MR)
WIDTH = COLUMN_WIDTH


def tiles_of(weight: Weight) -> npt.NDArray[np.uint16]:
    """Return the stored bytes as a (n_tiles, n_blocks, block_bytes / 2) view of 16-bit words.

    Formats by columns have lines in place of tiles, see `unpack_columns`; formats by rows have
    rows, each in one piece, see `unpack_rows`.
    """
    fmt, n_blocks = weight.format, -(-weight.k // 32)
    if fmt.is_row:
        return weight.data.view(np.uint16).reshape(weight.n_rows, 1, -1)
    n_tiles = -(-weight.n_rows // (fmt.line_rows if fmt.is_column else fmt.tile_rows))
    return weight.data.view(np.uint16).reshape(n_tiles, n_blocks, -1)


@njit
def zero_of(kind: int) -> np.int32:
    """Return what a stored code of value 0 is."""
    if kind == Q6:
        return np.int32(32)
    return np.int32(8) if kind in (Q4, Q4N, Q4R) else np.int32(0)


@njit
def has_minimum_of(kind: int) -> bool:
    """Whether the format has an offset beside its step."""
    return kind in (Q8M, Q4M, Q8MN, Q4MN, Q8MR, Q4MR)


@njit
def unpack_six(out: Bytes, words: npt.NDArray[np.uint16]) -> None:
    """Write every second of 32 numbers of 6 bits, from six words that lie 16 apart."""
    for i in range(6):
        word = words[16 * i]
        out[2 * i] = word & 63
        out[12 + 2 * i] = (word >> 6) & 63
    for i in range(4):
        upper = words[16 * (4 + i // 2)] >> (12 + i % 2 * 2)
        out[24 + 2 * i] = (words[16 * i] >> 12) | ((upper & 3) << 4)


@njit
def unpack_tile(
    words: npt.NDArray[np.uint16], kind: int, codes: Bytes, d: Float32, m: Float32
) -> None:
    """Unpack one tile.

    Parameters
    ----------
    words : (n_blocks, block_bytes / 2) uint16
        The tile. A word of the codes holds two neighbouring columns of one row.
    kind : int
        Value of `Format`.
    codes : (8, 32 n_blocks) uint8
        Written: int8 codes (q8, q8m), numbers 0…63 (q6) or nibbles 0…15 (q4, q4m).
    d, m : (8, n_blocks) float32
        Written: steps; minima where the format has them.
    """
    has_minimum = has_minimum_of(kind)
    first = 16 if has_minimum else 8
    pairs = codes.view(np.uint16)
    for block in range(words.shape[0]):
        source = words[block]
        for r in range(8):
            d[r, block] = half_to_float(source[r])
        if has_minimum:
            for r in range(8):
                m[r, block] = half_to_float(source[8 + r])
        begin = block * 16
        if kind in (Q8, Q8M):
            for r in range(8):
                out = pairs[r, begin : begin + 16]
                for c in range(16):
                    out[c] = source[first + c * 8 + r]
        elif kind == Q6:
            for r in range(8):
                for e in range(2):
                    unpack_six(codes[r, block * 32 + e : block * 32 + 32], source[8 + 2 * r + e :])
        else:
            for r in range(8):
                out = pairs[r, begin : begin + 16]
                for c in range(8):
                    word = source[first + c * 8 + r]
                    out[c] = word & 0x0F0F
                    out[8 + c] = (word >> 4) & 0x0F0F


@njit
def unpack_columns(
    data: npt.NDArray[np.uint16], kind: int, first: int, codes: Bytes, d: Float32, m: Float32
) -> None:
    """Unpack eight rows, from `first` on, of a matrix by columns; results as in `unpack_tile`.

    Parameters
    ----------
    data : (n_lines, n_blocks, words of a line's block) uint16
        All of the matrix: its shape says the sizes; a tile's bytes are its lines' together.
    """
    nibble = kind in (Q4N, Q4MN)
    line_rows = 128 if nibble else 64
    n_blocks = data.shape[1]
    tile_rows = WIDTH * line_rows
    tile = first // tile_rows
    width = min(WIDTH, data.shape[0] - tile * WIDTH)
    flat = data[tile * WIDTH : tile * WIDTH + width].reshape(n_blocks, -1)
    line, lane = first % tile_rows // line_rows, first % line_rows
    for block in range(n_blocks):
        words = flat[block]
        column = words.view(np.uint8)[64 * line :]
        for r in range(8):
            row = lane + r
            step = 1024 * width + line * line_rows + row
            d[r, block] = half_to_float(words[step])
            if has_minimum_of(kind):
                m[r, block] = half_to_float(words[step + width * line_rows])
            place = row // 4 % 4 * 16 + row % 64 // 16 * 4 + row % 4
            out = codes[r, block * 32 : block * 32 + 32]
            for c in range(out.shape[0]):
                stored = column[64 * width * c + place]
                if not nibble:
                    out[c] = stored ^ np.uint8(128)
                elif row < 64:
                    out[c] = stored & np.uint8(15)
                else:
                    out[c] = stored >> np.uint8(4)


@njit
def unpack_rows(
    data: npt.NDArray[np.uint16], kind: int, first: int, codes: Bytes, d: Float32, m: Float32
) -> None:
    """Unpack up to eight rows, from `first` on, of a matrix by rows; results as in `unpack_tile`.

    Parameters
    ----------
    data : (n_rows, 1, words of a row) uint16
        All of the matrix.
    """
    nibble = kind in (Q4R, Q4MR)
    n_blocks = d.shape[1]
    n_codes = n_blocks * (16 if nibble else 32)
    for r in range(min(8, data.shape[0] - first)):
        words = data[first + r, 0]
        stored = words.view(np.uint8)
        for block in range(n_blocks):
            d[r, block] = half_to_float(words[n_codes // 2 + block])
            if has_minimum_of(kind):
                m[r, block] = half_to_float(words[n_codes // 2 + n_blocks + block])
            out = codes[r, block * 32 : block * 32 + 32]
            if nibble:
                for i in range(16):
                    out[i] = stored[block * 16 + i] & np.uint8(15)
                    out[16 + i] = stored[block * 16 + i] >> np.uint8(4)
            else:
                for i in range(out.shape[0]):
                    out[i] = stored[block * 32 + i]


@njit
def row_from_tile(out: Float32, codes: Bytes, d: Float32, m: Float32, kind: int, r: int) -> None:
    """Dequantise row r of an unpacked tile."""
    signed = codes.view(np.int8)
    offset = zero_of(kind)
    for i in range(out.shape[0]):
        value = d[r, i // 32] * np.float32(np.int32(signed[r, i]) - offset)
        if has_minimum_of(kind):
            value = value + m[r, i // 32]
        out[i] = value


@njit
def dot(codes: npt.NDArray[np.int8], q: npt.NDArray[np.int16]) -> np.int32:
    """Return Σ code q over one block.

    A literal 32 as trip count would be unrolled before it could be vectorised, and run several
    times slower.
    """
    total = np.int32(0)
    for i in range(codes.shape[0]):
        total = np.int32(total + np.int32(codes[i]) * np.int32(q[i]))
    return total


@njit
def multiply_tile(
    dst: Float32,
    add: bool,
    bias: Float32,
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
    """Multiply every token with rows [row_begin, row_end), which lie unpacked in the scratch.

    Parameters as for `block_product`.
    """
    has_bias = bias.shape[0] > 0
    has_minimum = has_minimum_of(kind)
    offset = zero_of(kind)
    signed = codes.view(np.int8)
    for o in range(row_begin, row_end):
        r = o - row_begin
        row = signed[r]
        for t in range(n_tokens):
            x = q[t]
            y = ZERO
            for block in range(d.shape[1]):
                i = block * 32
                total = dot(row[i : i + 32], x[i : i + 32])
                total = np.int32(total - offset * q_sum[t, block])
                y = y + np.float32(total) * np.float32(d[r, block] * d_x[t, block])
                if has_minimum:
                    y = y + m[r, block] * x_sum[t, block]
            if has_bias:
                y = y + bias[o]
            dst[t, o] = dst[t, o] + y if add else y


@njit
def block_product(
    dst: Float32,
    add: bool,
    bias: Float32,
    tiles: npt.NDArray[np.uint16],
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
    dst, add, bias
        As for `ternary_product`.
    tiles : uint16, three dimensions
        Weight bytes in format `kind`, as `tiles_of` gives them.
    q, d_x, q_sum, x_sum : (>= n_tokens, 32 n_blocks) int16, (>= n_tokens, n_blocks) each
        Quantised activations.
    codes, d, m : (8, 32 n_blocks) uint8, (8, n_blocks) float32 twice
        Scratch.
    """
    for tile_begin in range(row_begin, row_end, 8):
        if kind >= Q8R:
            unpack_rows(tiles, kind, tile_begin, codes, d, m)
        elif kind >= Q8N:
            unpack_columns(tiles, kind, tile_begin, codes, d, m)
        else:
            unpack_tile(tiles[tile_begin // 8], kind, codes, d, m)
        multiply_tile(
            *(dst, add, bias, kind, q, d_x, q_sum, x_sum, n_tokens),
            *(tile_begin, min(tile_begin + 8, row_end), codes, d, m),
        )
