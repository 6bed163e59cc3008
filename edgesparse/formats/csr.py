"""csr: for few codes that are not 0, each with its column (picture in README.md).

Compressed sparse rows over blocks of 32 columns: columns count from the block's first one, so a
byte holds any of them. Tiles of 16 rows side by side let a register take two entries of every row.
The functions here define the bytes; native/repack/csr.c writes the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgesparse.formats.memory import allocate
from edgesparse.formats.sixteen_rows import blocks_of
from edgesparse.formats.weight import BITMAP_SLACK, BITMAP_TILE, BLOCK, Weight

__all__ = ["count_entries", "csr_entries", "csr_is_valid", "pack_csr", "unpack_csr"]

U8 = npt.NDArray[np.uint8]
I8 = npt.NDArray[np.int8]
U32 = npt.NDArray[np.uint32]
F16 = npt.NDArray[np.float16]
I64 = npt.NDArray[np.int64]

_WORDS = BLOCK // 2
_HEAD = 2
_LENGTH_BITS = 11
_FIRST = np.uint32(0x55555555)
"""Bits of a word's first entries, one for every row."""


def _counted(counts: I64) -> tuple[I64, I64]:
    """Give words and bytes of blocks from the entries of their rows, shape (…, 16)."""
    n_words = (counts.max(axis=-1) + 1) // 2
    n_bytes = _HEAD + 4 * n_words + 2 * (counts > 0).sum(axis=-1) + 2 * counts.sum(axis=-1)
    return n_words, n_bytes


def pack_csr(codes: I8, d: F16) -> U8:
    """Store codes that are not 0, their columns, and the steps of blocks that have any.

    Parameters
    ----------
    codes : (n_rows, k) int8
    d : (n_rows, ceil(k / 32)) float16
        Step of every block.

    Returns
    -------
    (n,) uint8
        64-byte aligned; the length depends on the number of codes that are not 0.
    """
    tiles, steps = blocks_of(codes, d)
    n_tiles, n_blocks = tiles.shape[:2]
    blocks, steps = tiles.reshape(-1, BITMAP_TILE, BLOCK), steps.reshape(-1, BITMAP_TILE)
    counts = np.count_nonzero(blocks, axis=2).astype(np.int64)
    n_words, n_bytes = _counted(counts)
    index_bytes = 8 * (n_tiles + 1)
    ends = index_bytes + np.cumsum(n_bytes)
    begins = ends - n_bytes
    (data,) = allocate([-(-(int(ends[-1]) + BITMAP_SLACK) // 64) * 64], "a sparse matrix")
    data[:index_bytes] = np.append(begins[::n_blocks], ends[-1]).astype("<u8").view(np.uint8)
    head = (n_bytes | n_words << _LENGTH_BITS).astype("<u2")
    data[begins[:, None] + np.arange(_HEAD)] = head.view(np.uint8).reshape(-1, _HEAD)
    words = _words_of(counts)
    kept = np.arange(_WORDS) < n_words[:, None]
    at = (begins[:, None] + _HEAD + 4 * np.arange(_WORDS))[kept]
    data[at[:, None] + np.arange(4)] = words[kept].astype("<u4").view(np.uint8).reshape(-1, 4)
    live = counts > 0
    first = begins + _HEAD + 4 * n_words
    at = (first[:, None] + 2 * (np.cumsum(live, axis=1) - 1))[live]
    data[at[:, None] + np.arange(2)] = steps[live].view(np.uint8).reshape(-1, 2)
    block, row, column = np.nonzero(blocks)
    rank = (np.cumsum(blocks != 0, axis=2) - 1)[block, row, column]
    order = _before(counts)[block, row, rank // 2] + rank % 2
    at = (first + 2 * live.sum(axis=1))[block] + 2 * order
    data[at] = column
    data[at + 1] = blocks[block, row, column].view(np.uint8)
    return data


def _words_of(counts: I64) -> U32:
    """Make the words of blocks, shape (n, 16 words), from the entries of their rows."""
    entries = 2 * np.arange(_WORDS)[:, None, None] + np.arange(2)
    bits = entries < counts[:, None, :, None]
    packed = np.packbits(bits.reshape(len(counts), -1), axis=1, bitorder="little")
    return packed.view("<u4").astype(np.uint32)


def _before(counts: I64) -> I64:
    """Count the entries that stand before those of a row in a word, shape (n, 16 rows, words)."""
    in_word = np.clip(counts[:, None, :] - 2 * np.arange(_WORDS)[:, None], 0, 2)
    flat = in_word.reshape(len(counts), -1)
    before: I64 = np.cumsum(flat, axis=1) - flat
    return before.reshape(in_word.shape).transpose(0, 2, 1)


class _Found(NamedTuple):
    """Blocks of a matrix, all of them in the order of their bytes.

    Attributes
    ----------
    begins : (n,) int64
        Where each starts.
    counts : (n, 16) int64
        Entries of its rows.
    n_words : (n,) int64
    """

    begins: I64
    counts: I64
    n_words: I64


def _walk(weight: Weight) -> _Found | None:
    """Find the blocks; None where lengths, words or offsets contradict each other."""
    data = weight.data
    n_tiles, n_blocks = -(-weight.n_rows // BITMAP_TILE), -(-weight.k // BLOCK)
    index_bytes = 8 * (n_tiles + 1)
    if data.nbytes < index_bytes + n_tiles * n_blocks * _HEAD + BITMAP_SLACK or data.nbytes % 64:
        return None
    index = data[:index_bytes].view("<u8")
    end = data.nbytes - BITMAP_SLACK
    if int(index[0]) != index_bytes or int(index.max()) > end:
        return None
    at = index[:-1].astype(np.int64)
    begins = np.empty((n_tiles, n_blocks), np.int64)
    counts = np.empty((n_tiles, n_blocks, BITMAP_TILE), np.int64)
    n_words = np.empty((n_tiles, n_blocks), np.int64)
    for block in range(n_blocks):  # all tiles at once
        if int(at.max()) + _HEAD > end:
            return None
        head = np.ascontiguousarray(data[at[:, None] + np.arange(_HEAD)]).view("<u2")[:, 0]
        lengths, n = head & ((1 << _LENGTH_BITS) - 1), (head >> _LENGTH_BITS).astype(np.int64)
        if int(n.max()) > _WORDS or (at + _HEAD + 4 * n > end).any():
            return None
        is_word = np.arange(_WORDS) < n[:, None]
        places = at[:, None] + _HEAD + 4 * np.arange(_WORDS)
        raw = data[np.where(is_word, places, 0)[..., None] + np.arange(4)]
        words = np.where(is_word, np.ascontiguousarray(raw).view("<u4")[..., 0], 0)
        bits = np.unpackbits(words.astype("<u4").view(np.uint8), axis=1, bitorder="little")
        by_rows = bits.reshape(n_tiles, _WORDS, BITMAP_TILE, 2).transpose(0, 2, 1, 3)
        entries = by_rows.reshape(n_tiles, BITMAP_TILE, BLOCK)
        found = entries.sum(axis=2, dtype=np.int64)
        expected_words, expected_bytes = _counted(found)
        # No entry without the one before it, and as many words and bytes as the entries want.
        if (np.diff(entries.view(np.int8), axis=2) > 0).any() or not (
            np.array_equal(expected_words, n) and np.array_equal(expected_bytes, lengths)
        ):
            return None
        begins[:, block], counts[:, block], n_words[:, block] = at, found, n
        at = at + expected_bytes
    if not np.array_equal(at, index[1:]):
        return None
    return _Found(begins.reshape(-1), counts.reshape(-1, BITMAP_TILE), n_words.reshape(-1))


def _entries(data: U8, found: _Found) -> tuple[I64, I64, U8, I8]:
    """Give every entry's block, row, column and code; along a row in the order of its entries."""
    live = found.counts > 0
    first = found.begins + _HEAD + 4 * found.n_words + 2 * live.sum(axis=1)
    block, row, rank = np.nonzero(np.arange(BLOCK) < found.counts[..., None])
    at = first[block] + 2 * (_before(found.counts)[block, row, rank // 2] + rank % 2)
    return block, row, data[at], data[at + 1].view(np.int8)


def csr_is_valid(weight: Weight) -> bool:
    """Tell whether lengths, words, offsets and columns agree, so that kernels stay inside."""
    found = _walk(weight)
    if found is None:
        return False
    block, row, column, code = _entries(weight.data, found)
    same_row = (np.diff(block) == 0) & (np.diff(row) == 0)
    ascends = np.diff(column.astype(np.int64))[same_row] > 0
    is_finite = np.isfinite(_steps(weight.data, found)).all()
    return bool((column < BLOCK).all() and ascends.all() and (code != 0).all() and is_finite)


def _steps(data: U8, found: _Found) -> F16:
    """Give the steps of all rows of blocks, 0 where a row has no entry, shape (n, 16)."""
    live = found.counts > 0
    steps = np.zeros(live.shape, np.float16)
    at = (found.begins + _HEAD + 4 * found.n_words)[:, None] + 2 * (np.cumsum(live, axis=1) - 1)
    stored = np.ascontiguousarray(data[at[live][:, None] + np.arange(2)])
    steps[live] = stored.view("<f2").reshape(-1)
    return steps


def count_entries(weight: Weight) -> int:
    """Count the codes that are not 0; 0 where the bytes contradict each other."""
    found = _walk(weight)
    return 0 if found is None else int(found.counts.sum())


def csr_entries(weight: Weight) -> tuple[I64, I64, I64, U8, npt.NDArray[np.float32]]:
    """Give every entry's tile, its block's first column, its row and column there, and its value.

    Raises
    ------
    ValueError
        The bytes contradict each other.
    """
    found = _walk(weight)
    if found is None:
        raise ValueError(f"{weight.name}: lengths or words contradict each other")
    block, row, column, code = _entries(weight.data, found)
    n_blocks = -(-weight.k // BLOCK)
    value = code.astype(np.float32) * _steps(weight.data, found)[block, row].astype(np.float32)
    return block // n_blocks, block % n_blocks * BLOCK, row, column, value


def unpack_csr(weight: Weight, rows: npt.NDArray[np.intp]) -> tuple[I8, F16, None]:
    """Take rows apart; results as of `unpack_blocks`, steps of blocks without codes as 0.

    Raises
    ------
    ValueError
        The bytes contradict each other: see `csr_is_valid`.
    """
    found = _walk(weight)
    if found is None or not csr_is_valid(weight):
        raise ValueError(f"{weight.name}: lengths, words or columns contradict each other")
    n_blocks = -(-weight.k // BLOCK)
    block, row, column, code = _entries(weight.data, found)
    blocks = np.zeros((len(found.begins), BITMAP_TILE, BLOCK), np.int8)
    blocks[block, row, column] = code
    codes = blocks.reshape(-1, n_blocks, BITMAP_TILE, BLOCK).transpose(0, 2, 1, 3)
    steps = _steps(weight.data, found)
    d = steps.reshape(-1, n_blocks, BITMAP_TILE).transpose(0, 2, 1).reshape(-1, n_blocks)
    return codes.reshape(-1, n_blocks * BLOCK)[rows, : weight.k], d[rows], None
