"""bmp8, bmp4: a bitmap and the non-zero codes of q8 or q4 (pictures in README.md).

The layout is the bitmap form of pruned weights (SpInfer, SparAMX, compressed-tensors'
``sparse-bitmask``) over tiles of 16 rows, so that expanding 64 codes gives four neighbouring
columns of each row in a 32-bit lane. The functions here define the bytes; native/repack/bitmap.c
writes the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.memory import allocate
from edgesparse.formats.sixteen_rows import blocks_of
from edgesparse.formats.weight import (
    BITMAP_CHUNKS,
    BITMAP_HEAD,
    BITMAP_SLACK,
    BITMAP_TILE,
    BLOCK,
    Format,
    Weight,
)

__all__ = ["bitmap_is_valid", "count_codes", "pack_bitmap", "unpack_bitmap"]

U8 = npt.NDArray[np.uint8]
I8 = npt.NDArray[np.int8]
F16 = npt.NDArray[np.float16]
I64 = npt.NDArray[np.int64]

_CHUNK = 64
"""Codes of one word of the bitmap: four columns of sixteen rows."""


def _value_bytes(counts: I64, fmt: Format) -> I64:
    """Bytes of a chunk's codes: nibbles fill whole bytes."""
    return counts if fmt is Format.BMP8 else (counts + 1) // 2


def pack_bitmap(codes: I8, d: F16, fmt: Format) -> U8:
    """Store codes and steps, leaving the codes of 0 out.

    Parameters
    ----------
    codes : (n_rows, k) int8
        bmp8: any; bmp4: -8 to 7.
    d : (n_rows, ceil(k / 32)) float16
        Step of every block.
    fmt : Format
        `Format.BMP8` or `Format.BMP4`.

    Returns
    -------
    (n,) uint8
        64-byte aligned; the length depends on the number of codes that are not 0.
    """
    blocks, steps = blocks_of(codes, d)
    n_tiles, n_blocks = blocks.shape[:2]
    by_row = blocks.reshape(n_tiles * n_blocks, BITMAP_TILE, BITMAP_CHUNKS, 4)
    chunks = np.ascontiguousarray(by_row.swapaxes(1, 2)).reshape(-1, BITMAP_CHUNKS, _CHUNK)
    mask = chunks != 0
    counts = mask.sum(axis=2, dtype=np.int64)
    sizes = _value_bytes(counts, fmt)
    index_bytes = 8 * (n_tiles + 1)
    ends = index_bytes + np.cumsum(BITMAP_HEAD + sizes.sum(axis=1))
    begins = np.concatenate([[index_bytes], ends[:-1]])
    (data,) = allocate([-(-(int(ends[-1]) + BITMAP_SLACK) // 64) * 64], "a sparse matrix")
    index = np.concatenate([begins[::n_blocks], ends[-1:]]).astype("<u8")
    data[:index_bytes] = index.view(np.uint8)
    heads = np.concatenate(
        [
            steps.reshape(len(begins), -1).view(np.uint8),
            np.packbits(mask, axis=2, bitorder="little").reshape(len(begins), -1),
        ],
        axis=1,
    )
    data[begins[:, None] + np.arange(BITMAP_HEAD)] = heads
    first = begins[:, None] + BITMAP_HEAD + np.cumsum(sizes, axis=1) - sizes
    rank = (np.cumsum(mask, axis=2) - 1)[mask]
    at = np.broadcast_to(first[:, :, None], mask.shape)[mask]
    values = chunks[mask].view(np.uint8)
    if fmt is Format.BMP8:
        data[at + rank] = values
        return data
    nibbles = values + np.uint8(8)
    low, high = rank % 2 == 0, rank % 2 == 1
    data[(at + rank // 2)[low]] = nibbles[low]
    data[(at + rank // 2)[high]] |= nibbles[high] << np.uint8(4)
    return data


def _blocks(data: U8, fmt: Format, n_rows: int, k: int) -> tuple[I64, I64, U8] | None:
    """Walk the blocks: where each starts, the codes of each chunk, and its 96-byte head.

    None where offsets leave the data or contradict the bitmaps.
    """
    n_tiles, n_blocks = -(-n_rows // BITMAP_TILE), -(-k // BLOCK)
    index_bytes = 8 * (n_tiles + 1)
    least = index_bytes + n_tiles * n_blocks * BITMAP_HEAD + BITMAP_SLACK
    if data.nbytes < least or data.nbytes % 64:
        return None
    index = data[:index_bytes].view("<u8")
    if int(index[0]) != index_bytes or int(index.max()) > data.nbytes - BITMAP_SLACK:
        return None
    starts = np.empty((n_tiles, n_blocks), np.int64)
    counts = np.empty((n_tiles, n_blocks, BITMAP_CHUNKS), np.int64)
    heads = np.empty((n_tiles, n_blocks, BITMAP_HEAD), np.uint8)
    at = index[:-1].astype(np.int64)
    for block in range(n_blocks):  # all tiles at once
        if int(at.max()) + BITMAP_HEAD > data.nbytes - BITMAP_SLACK:
            return None
        starts[:, block] = at
        heads[:, block] = data[at[:, None] + np.arange(BITMAP_HEAD)]
        bits = np.unpackbits(heads[:, block, 2 * BITMAP_TILE :], axis=1)
        counts[:, block] = bits.reshape(n_tiles, BITMAP_CHUNKS, _CHUNK).sum(axis=2)
        at = at + BITMAP_HEAD + _value_bytes(counts[:, block], fmt).sum(axis=1)
    return (starts, counts, heads) if np.array_equal(at, index[1:]) else None


def count_codes(weight: Weight) -> int:
    """Count the codes that are not 0; 0 where the bytes contradict each other."""
    found = _blocks(weight.data, weight.format, weight.n_rows, weight.k)
    return 0 if found is None else int(found[1].sum())


def bitmap_is_valid(weight: Weight) -> bool:
    """Tell whether a matrix's offsets, bitmaps and length agree, so that kernels stay inside it."""
    return _blocks(weight.data, weight.format, weight.n_rows, weight.k) is not None


def unpack_bitmap(weight: Weight, rows: npt.NDArray[np.intp]) -> tuple[I8, F16, None]:
    """Take rows of a matrix in bmp8 or bmp4 apart; results as of `unpack_blocks`.

    Raises
    ------
    ValueError
        The bytes contradict each other: see `bitmap_is_valid`.
    """
    fmt, n_blocks = weight.format, -(-weight.k // BLOCK)
    found = _blocks(weight.data, fmt, weight.n_rows, weight.k)
    if found is None:
        raise ValueError(f"{weight.name}: offsets and bitmaps contradict each other")
    starts, counts, heads = found
    sizes = _value_bytes(counts, fmt)
    first = starts[..., None] + BITMAP_HEAD + np.cumsum(sizes, axis=2) - sizes
    mask = np.unpackbits(heads[..., 2 * BITMAP_TILE :], axis=2, bitorder="little").view(np.bool_)
    mask = mask.reshape(*counts.shape, _CHUNK)
    rank = (np.cumsum(mask, axis=3) - 1)[mask]
    at = np.broadcast_to(first[..., None], mask.shape)[mask]
    chunks = np.zeros(mask.shape, np.int8)
    if fmt is Format.BMP8:
        chunks[mask] = weight.data[at + rank].view(np.int8)
    else:
        nibbles = weight.data[at + rank // 2] >> (4 * (rank % 2)).astype(np.uint8) & np.uint8(15)
        chunks[mask] = nibbles.view(np.int8) - np.int8(8)
    tiles = chunks.reshape(-1, n_blocks, BITMAP_CHUNKS, BITMAP_TILE, 4).transpose(0, 3, 1, 2, 4)
    codes = tiles.reshape(-1, n_blocks * BLOCK)[rows, : weight.k]
    steps = np.ascontiguousarray(heads[..., : 2 * BITMAP_TILE]).view("<f2").transpose(0, 2, 1)
    d = steps.reshape(-1, n_blocks)[rows].astype(np.float16, copy=False)
    return codes, d, None
