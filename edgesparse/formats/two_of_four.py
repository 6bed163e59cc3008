"""nm8, nm4: 2:4, two codes of every four columns and their places (picture in README.md).

The pattern of sparse tensor cores and of ``sparse-24-bitmask``; places are two bits each, as in
NVIDIA's metadata. Every block has the same length, so nothing is counted while it is read. The
functions here define the bytes; native/repack/nm.c writes the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.memory import allocate
from edgesparse.formats.sixteen_rows import blocks_of
from edgesparse.formats.weight import BITMAP_TILE, BLOCK, Format, Weight, storage_bytes

__all__ = [
    "count_kept",
    "is_two_of_four",
    "pack_two_of_four",
    "two_of_four_is_valid",
    "unpack_two_of_four",
]

U8 = npt.NDArray[np.uint8]
I8 = npt.NDArray[np.int8]
F16 = npt.NDArray[np.float16]

_GROUPS = BLOCK // 4
_PLACES = 2 * BITMAP_TILE
_CODES = _PLACES + 64
_NIBBLE_ZERO = 8


def is_two_of_four(codes: I8) -> bool:
    """Tell whether no aligned group of four columns has more than two codes that are not 0."""
    n_rows, k = codes.shape
    full = np.zeros((n_rows, -(-k // 4) * 4), np.bool_)
    full[:, :k] = codes != 0
    return bool((full.reshape(n_rows, -1, 4).sum(axis=2) <= 2).all())


def pack_two_of_four(codes: I8, d: F16, fmt: Format) -> U8:
    """Store two codes of every four, those that are not 0 among them.

    Parameters
    ----------
    codes : (n_rows, k) int8
        nm8: any; nm4: -8 to 7.
    d : (n_rows, ceil(k / 32)) float16
        Step of every block.
    fmt : Format
        `Format.NM8` or `Format.NM4`.

    Returns
    -------
    (storage_bytes(fmt, n_rows, k),) uint8

    Raises
    ------
    ValueError
        A group of four has more than two codes that are not 0.
    """
    if not is_two_of_four(codes):
        raise ValueError("four columns have more than two codes that are not 0")
    blocks, steps = blocks_of(codes, d)
    n_tiles, n_blocks = blocks.shape[:2]
    groups = blocks.reshape(n_tiles, n_blocks, BITMAP_TILE, _GROUPS, 4)
    # Codes that are not 0 first, then the first of the others; the two of them in ascending order.
    places = np.sort(np.argsort(groups == 0, axis=4, kind="stable")[..., :2], axis=4)
    kept = np.take_along_axis(groups, places, axis=4)
    shifts = 2 * np.arange(_GROUPS)[:, None]
    words = (places.astype(np.uint32) << shifts).sum(axis=3).astype("<u2")
    # [s][row][j][h]: code j of group s + 4h.
    ordered = kept.reshape(*kept.shape[:3], 2, 4, 2).transpose(0, 1, 4, 2, 5, 3)
    stored = np.ascontiguousarray(ordered).reshape(n_tiles, n_blocks, -1).view(np.uint8)
    if fmt is Format.NM4:
        nibbles = stored + np.uint8(_NIBBLE_ZERO)
        stored = nibbles[..., ::2] & np.uint8(15) | nibbles[..., 1::2] << np.uint8(4)
    parts = [
        steps.view(np.uint8),
        np.ascontiguousarray(words.reshape(n_tiles, n_blocks, -1)).view(np.uint8),
        stored,
    ]
    (data,) = allocate([storage_bytes(fmt, *codes.shape)], "a sparse matrix")
    data[:] = np.concatenate(parts, axis=2).reshape(-1)
    return data


def _places(weight: Weight) -> npt.NDArray[np.uint16]:
    """Give the two places of every group, shape (n_tiles, n_blocks, 16 rows, 2, 8)."""
    n_tiles, n_blocks = -(-weight.n_rows // BITMAP_TILE), -(-weight.k // BLOCK)
    blocks = weight.data.reshape(n_tiles, n_blocks, -1)
    words = np.ascontiguousarray(blocks[..., _PLACES:_CODES]).view("<u2")
    words = words.reshape(n_tiles, n_blocks, BITMAP_TILE, 2, 1)
    return np.asarray(words >> (2 * np.arange(_GROUPS)).astype(np.uint16) & np.uint16(3))


def two_of_four_is_valid(weight: Weight) -> bool:
    """Tell whether the length is right and the places of every group ascend."""
    if weight.data.nbytes != storage_bytes(weight.format, weight.n_rows, weight.k):
        return False
    places = _places(weight)
    return bool((places[..., 0, :] < places[..., 1, :]).all())


def _codes(weight: Weight) -> I8:
    """Give the kept codes, shape as of `_places`."""
    n_tiles, n_blocks = -(-weight.n_rows // BITMAP_TILE), -(-weight.k // BLOCK)
    stored = weight.data.reshape(n_tiles, n_blocks, -1)[..., _CODES:]
    if weight.format is Format.NM4:
        stored = np.stack([stored & np.uint8(15), stored >> np.uint8(4)], axis=3)
        stored = stored - np.uint8(_NIBBLE_ZERO)
    ordered = np.ascontiguousarray(stored).view(np.int8)
    ordered = ordered.reshape(n_tiles, n_blocks, 4, BITMAP_TILE, 2, 2)
    return ordered.transpose(0, 1, 3, 4, 5, 2).reshape(n_tiles, n_blocks, BITMAP_TILE, 2, _GROUPS)


def count_kept(weight: Weight) -> int:
    """Count the codes that are not 0."""
    return int(np.count_nonzero(_codes(weight)))


def unpack_two_of_four(weight: Weight, rows: npt.NDArray[np.intp]) -> tuple[I8, F16, None]:
    """Take rows apart; results as of `unpack_blocks`.

    Raises
    ------
    ValueError
        The bytes contradict each other: see `two_of_four_is_valid`.
    """
    if not two_of_four_is_valid(weight):
        raise ValueError(f"{weight.name}: two codes of a group have the same place")
    places, codes = _places(weight), _codes(weight)
    n_tiles, n_blocks = codes.shape[:2]
    groups = np.zeros((n_tiles, n_blocks, BITMAP_TILE, _GROUPS, 4), np.int8)
    np.put_along_axis(groups, places.swapaxes(3, 4).astype(np.intp), codes.swapaxes(3, 4), axis=4)
    full = groups.reshape(n_tiles, n_blocks, BITMAP_TILE, BLOCK).transpose(0, 2, 1, 3)
    heads = weight.data.reshape(n_tiles, n_blocks, -1)[..., :_PLACES]
    steps = np.ascontiguousarray(heads).view("<f2").transpose(0, 2, 1).reshape(-1, n_blocks)
    d = steps[rows].astype(np.float16, copy=False)
    return full.reshape(-1, n_blocks * BLOCK)[rows, : weight.k], d, None
