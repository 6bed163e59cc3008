"""q8, q8m, q6, q4, q4m: blocks of 32 columns woven into tiles of 8 rows (pictures in README.md).

The functions here define the bytes; native/repack/blocks.c writes the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.columns import pack_columns, unpack_columns
from edgesparse.formats.rows import pack_rows, unpack_rows
from edgesparse.formats.weight import BLOCK, TILE, Format, Weight, row_tiles
from edgesparse.formats.without_zeros import pack_sparse, unpack_sparse

__all__ = ["has_minimum", "pack_blocks", "requantize", "requantize_q8", "unpack_blocks"]

U8 = npt.NDArray[np.uint8]
I8 = npt.NDArray[np.int8]
F16 = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]

_Q_MAX = {Format.Q8: 127, Format.Q6: 31, Format.Q4: 7}
_STORED_ZERO = {Format.Q6: 32, Format.Q4: 8}
"""What is added to a code to store it as an unsigned number of 6 or 4 bits."""


def has_minimum(fmt: Format) -> bool:
    """Tell whether blocks of this format have an offset m beside their step d."""
    return fmt.row_format in (Format.Q8M, Format.Q4M)


def _is_nibble(fmt: Format) -> bool:
    return fmt in (Format.Q4, Format.Q4M)


def _pair_bytes(fmt: Format) -> int:
    return 4 if fmt is Format.Q6 else 2


def pack_blocks(codes: I8, d: F16, m: F16 | None, fmt: Format) -> U8:
    """Weave codes and steps into tiles.

    Parameters
    ----------
    codes : (n_rows, k) int8
        q8 and q8m: any; q6: -32 to 31; q4: -8 to 7; q4m: 0 to 15.
    d : (n_rows, ceil(k / 32)) float16
        Step of every block.
    m : (n_rows, ceil(k / 32)) float16 or None
        Offset of every block, for q8m and q4m.
    fmt : Format
        One of the block formats.

    Returns
    -------
    (storage_bytes(fmt, n_rows, k),) uint8
        Of bitmaps and csr as many bytes as their codes take.
    """
    if fmt.is_column:
        return pack_columns(codes, d, m, fmt)
    if fmt.is_row:
        return pack_rows(codes, d, m, fmt)
    if fmt.is_sparse:
        return pack_sparse(codes, d, fmt)
    n_rows, k = codes.shape
    n_tiles, n_blocks = row_tiles(n_rows), -(-k // BLOCK)
    full = np.zeros((n_tiles * TILE, n_blocks * BLOCK), dtype=np.int8)
    full[:n_rows, :k] = codes
    # Padding rows stay bytes of zero, padding columns get the code of value 0.
    full[:n_rows] += _STORED_ZERO.get(fmt, 0)
    tiles = full.reshape(n_tiles, TILE, n_blocks, BLOCK).view(np.uint8)
    if fmt is Format.Q6:
        tiles = _six_bit_words(tiles)
    elif _is_nibble(fmt):
        tiles = tiles[..., :16] & np.uint8(15) | tiles[..., 16:] << np.uint8(4)
    # What stands side by side for a row: two columns of a byte each, or of a word each.
    woven = tiles.reshape(n_tiles, TILE, n_blocks, -1, _pair_bytes(fmt))
    parts = [_weave_steps(d, n_tiles)]
    if m is not None:
        parts.append(_weave_steps(m, n_tiles))
    parts.append(woven.transpose(0, 2, 3, 1, 4).reshape(n_tiles, n_blocks, -1))
    return np.concatenate(parts, axis=2).reshape(-1)


def _six_bit_words(stored: U8) -> U8:
    """Turn 32 numbers of 6 bits into the 24 bytes of 12 words, word i of both columns e together.

    Word i of parity e: column 2i + e in bits 0-5, 12 + 2i + e in 6-11. Above: the low four bits of
    column 24 + 2i + e for i < 4; words 4 and 5 hold the upper two bits of these, two columns each.
    """
    pairs = stored.astype(np.uint16).reshape(*stored.shape[:-1], 16, 2)
    words = pairs[..., :6, :] | pairs[..., 6:12, :] << 6
    last = pairs[..., 12:, :]
    words[..., :4, :] |= (last & 15) << 12
    words[..., 4:, :] |= last[..., ::2, :] >> 4 << 12 | last[..., 1::2, :] >> 4 << 14
    return words.astype("<u2").reshape(*stored.shape[:-1], 12).view(np.uint8)


def _six_bit_numbers(words: U8) -> U8:
    """Invert `_six_bit_words`: (…, 24) bytes to (…, 32) numbers."""
    wide = np.ascontiguousarray(words).view("<u2").reshape(*words.shape[:-1], 6, 2)
    upper = wide[..., 4:, :] >> 12
    last = wide[..., :4, :] >> 12
    last[..., ::2, :] |= (upper & 3) << 4
    last[..., 1::2, :] |= upper >> 2 << 4
    pairs = np.concatenate([wide & 63, wide >> 6 & 63, last], axis=-2)
    return pairs.astype(np.uint8).reshape(*words.shape[:-1], BLOCK)


def _weave_steps(steps: F16, n_tiles: int) -> U8:
    """Lay (n_rows, n_blocks) halves out as (n_tiles, n_blocks, 16) bytes."""
    n_rows, n_blocks = steps.shape
    full = np.zeros((n_tiles * TILE, n_blocks), dtype="<f2")
    full[:n_rows] = steps
    tiles = full.reshape(n_tiles, TILE, n_blocks).transpose(0, 2, 1)
    return np.ascontiguousarray(tiles).view(np.uint8).reshape(n_tiles, n_blocks, 2 * TILE)


def unpack_blocks(
    weight: Weight, rows: npt.NDArray[np.intp] | None = None
) -> tuple[I8, F16, F16 | None]:
    """Take a block weight, or some of its rows, apart.

    Parameters
    ----------
    weight : Weight
        In a block format.
    rows : (n,) int, optional
        Row numbers; all rows when omitted.

    Returns
    -------
    codes : (n, k) int8
        As given to `pack_blocks`.
    d : (n, ceil(k / 32)) float16
        Steps.
    m : (n, ceil(k / 32)) float16 or None
        Offsets, for q8m and q4m.
    """
    fmt = weight.format
    if rows is None:
        rows = np.arange(weight.n_rows)
    if fmt.is_column:
        return unpack_columns(weight, rows)
    if fmt.is_row:
        return unpack_rows(weight, rows)
    if fmt.is_sparse:
        return unpack_sparse(weight, rows)
    n_blocks = -(-weight.k // BLOCK)
    tiles = weight.data.reshape(row_tiles(weight.n_rows), n_blocks, -1)
    tile, lane = rows // TILE, rows % TILE
    start = 32 if has_minimum(fmt) else 16
    pairs = tiles[..., start:].reshape(*tiles.shape[:2], -1, TILE, _pair_bytes(fmt))
    codes = pairs.transpose(0, 3, 1, 2, 4)[tile, lane].reshape(len(rows), n_blocks, -1)
    if fmt is Format.Q6:
        codes = _six_bit_numbers(codes)
    elif _is_nibble(fmt):
        codes = np.concatenate([codes & 15, codes >> 4], axis=2)
    codes = codes - np.uint8(_STORED_ZERO.get(fmt, 0))  # wraps to what int8 reads
    signed = codes.reshape(len(rows), -1)[:, : weight.k].view(np.int8)
    m = _steps(tiles, 16, tile, lane) if has_minimum(fmt) else None
    return signed, _steps(tiles, 0, tile, lane), m


def _steps(tiles: U8, start: int, tile: npt.NDArray[np.intp], lane: npt.NDArray[np.intp]) -> F16:
    halves = tiles[..., start : start + 2 * TILE].view("<f2").transpose(0, 2, 1)
    return halves[tile, lane].astype(np.float16, copy=False)


def requantize(values: F32, fmt: Format) -> tuple[I8, F16]:
    """Round numbers to a symmetric block format.

    ``d = half(amax / q_max)`` per block, ``code = clip(round_half_even(x / d), -q_max, q_max)``
    with that rounded d, all in float32; q_max is 127 for q8, 31 for q6 and 7 for q4.

    Parameters
    ----------
    values : (n_rows, k) float32
        Finite.
    fmt : Format
        `Format.Q8`, `Format.Q6` or `Format.Q4`.

    Returns
    -------
    codes : (n_rows, k) int8
        Integers of at most q_max.
    d : (n_rows, ceil(k / 32)) float16
        Infinite where a block's numbers are too large for a half-precision step.
    """
    n_rows, k = values.shape
    q_max = np.float32(_Q_MAX[fmt])
    n_blocks = -(-k // BLOCK)
    blocks = np.zeros((n_rows, n_blocks * BLOCK), dtype=np.float32)
    blocks[:, :k] = values
    blocks = blocks.reshape(n_rows, n_blocks, BLOCK)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        d = (np.abs(blocks).max(axis=2) / q_max).astype(np.float16)
        step = d.astype(np.float32)[..., None]
        ratio = np.where(step > 0, blocks / step, np.float32(0))
    codes = np.rint(np.clip(ratio, -q_max, q_max)).astype(np.int8)
    return codes.reshape(n_rows, -1)[:, :k], d


def requantize_q8(values: F32) -> tuple[I8, F16]:
    """Round numbers to q8; see `requantize`."""
    return requantize(values, Format.Q8)
