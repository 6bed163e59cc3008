"""bs1 to bs4, bst: codes of 1 to 4 bits as bit planes in look-up order (pictures in README.md).

Four neighbouring columns of one plane and row make the 4-bit index of a table of 16 sums: the
layout of T-MAC (arXiv 2407.00088). The functions here define the bytes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.errors import UsageError
from edgesparse.formats.memory import allocate
from edgesparse.formats.slice_columns import fill_slice_columns, read_slice_columns
from edgesparse.formats.weight import (
    BLOCK,
    SLICE_TILE,
    Format,
    Slices,
    Weight,
    Zeros,
    blocks_of_groups,
    storage_bytes,
)

__all__ = [
    "SliceParts",
    "fill_sliced",
    "fill_slices",
    "middle",
    "pack_bitslice",
    "pack_ternary_slices",
    "unpack_bitslice",
    "unpack_heads",
]

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.generic]
SliceParts = tuple[U8, F32, F32 | None, F32 | None]
"""Codes (n_rows, k), and per group steps, zero points and offsets (n_rows, n_groups)."""

GROUPS = (32, 64, 128)
_QUADS = BLOCK // 4


def middle(bits: int) -> float:
    """Zero point of symmetric codes: half of 2^bits, and 1/2 for single bits (-step/2, +step/2)."""
    return 0.5 if bits == 1 else float(1 << (bits - 1))


def pack_bitslice(
    codes: U8,
    bits: int,
    group: int,
    scales: F32,
    zeros: npt.NDArray[np.integer] | F32 | None = None,
    *,
    offsets: F32 | None = None,
    name: str = "",
    source: str = "",
    note: str = "",
    is_rounded: bool = False,
) -> Weight:
    """Store a matrix as bit planes, exactly.

    The value of an element is ``scale * (code - zero)``, or ``scale * code + offset``; without
    either, `zero` is `middle`.

    Parameters
    ----------
    codes : (n_rows, k) uint8
        Integers below 2^bits.
    bits : int
        1, 2, 3 or 4.
    group : int
        Columns that share a scale, from a multiple of it on: 32, 64, 128, or k for whole rows.
    scales : (n_rows, ceil(k / group)) float32
        Stored as halfs when that changes none of them, else as float32.
    zeros : (n_rows, ceil(k / group)) integers or float32, optional
        Zero points. Integers (bits = 1: halves too) between -120 and 120 are stored as a byte each;
        others become the float32 offset ``-(scale * zero)``, rounded once.
    offsets : (n_rows, ceil(k / group)) float32, optional
        Offsets, instead of `zeros`.
    name, source, note, is_rounded
        As in `Weight`.

    Returns
    -------
    Weight
        In `Format.BS1` to `Format.BS4`, with 64-byte aligned memory of its own.

    Raises
    ------
    UsageError
        A size, code or number outside what is said above, or one that is not finite.
    """
    n_rows, k = _checked_codes(codes, 1 << bits if 1 <= bits <= 4 else 0, bits)
    if group not in GROUPS and group != k:
        raise UsageError(f"{group} is no group of columns.", advice="Use 32, 64, 128 or k.")
    group = 0 if group >= k else group
    shape = (n_rows, Slices(group).n_groups(k))
    scales = _checked_numbers(scales, shape, "scales")
    points = None
    if zeros is not None and offsets is not None:
        raise UsageError("Bit slices have zero points or offsets, not both.")
    if zeros is not None:
        exact = _checked_numbers(zeros, shape, "zeros")
        relative = (2 * exact - 1) if bits == 1 else exact - np.float32(middle(bits))
        if bool((np.rint(relative) == relative).all() and (np.abs(relative) <= 127).all()):
            points = relative.astype(np.int8)
        else:
            offsets = -(scales * exact)
    if offsets is not None:
        offsets = _checked_numbers(offsets, shape, "offsets")
    steps = scales * np.float32(0.5) if bits == 1 else scales
    wide = not all(_fit_half(part) for part in (steps, offsets) if part is not None)
    kind = Zeros.NONE if zeros is None else Zeros.POINTS
    slices = Slices(group, Zeros.OFFSETS if offsets is not None else kind, wide)
    fmt = Format(Format.BS1 + bits - 1)
    beside = offsets if offsets is not None else points
    data = _allocate(fmt, n_rows, k, slices, name)
    fill_slices(data, codes, bits, slices, steps, beside)
    none = np.zeros(0, np.float32)
    return Weight(name, fmt, n_rows, k, data, none, source, note, is_rounded, slices)


def pack_ternary_slices(codes: npt.NDArray[np.int8], scales: F32, *, name: str = "") -> Weight:
    """Store a ternary matrix as two planes of code + 1 (`Format.BST`).

    Parameters
    ----------
    codes : (n_rows, k) int8
        Nothing but -1, 0 and +1.
    scales : (n_rows,) float32
    """
    stored = (codes + np.int8(1)).view(np.uint8)
    n_rows, k = _checked_codes(stored, 3, 2)
    scales = np.ascontiguousarray(_checked_numbers(scales, (n_rows,), "scales"))
    data = _allocate(Format.BST, n_rows, k, None, name)
    fill_slices(data, stored, 2, None, None, None)
    return Weight(name, Format.BST, n_rows, k, data, scales)


def unpack_bitslice(weight: Weight, rows: npt.NDArray[np.intp] | None = None) -> SliceParts:
    """Take a bit-slice weight, or some of its rows, apart: what `pack_bitslice` was given.

    Parameters
    ----------
    weight : Weight
        In a bit-slice format.
    rows : (n,) int, optional
        Row numbers; all rows when omitted.

    Returns
    -------
    codes : (n, k) uint8
    scales : (n, n_groups) float32
        For bst the row scales, n_groups = 1.
    zeros : (n, n_groups) float32 or None
        Zero points; `middle` where none are stored, 1 for bst; None beside offsets.
    offsets : (n, n_groups) float32 or None
    """
    if rows is None:
        rows = np.arange(weight.n_rows)
    if weight.format.is_column:
        codes, steps, beside = read_slice_columns(weight, rows)
        return _as_given(weight, codes, steps, beside)
    bits, k = weight.format.planes, weight.k
    n_blocks, slices = -(-k // BLOCK), weight.slices
    tiles = weight.data.reshape(-(-weight.n_rows // SLICE_TILE), -1)
    tile, lane = rows // SLICE_TILE, rows % SLICE_TILE
    byte = lane // 4 % 4 * 16 + lane // 16 * 4 + lane % 4
    planes = np.empty((len(rows), n_blocks, _QUADS // 2, bits), np.uint8)
    heads = []
    at = 0
    for first, blocks in blocks_of_groups(n_blocks, slices):
        head = 0 if slices is None else slices.head_bytes
        heads.append(tiles[:, at : at + head])
        at += head
        stored = tiles[:, at : at + blocks * bits * 256]
        stored = stored.reshape(-1, blocks, _QUADS // 2, bits, SLICE_TILE)
        planes[:, first : first + blocks] = stored[tile, ..., byte]
        at += blocks * bits * 256
    nibbles = np.stack([planes & np.uint8(15), planes >> np.uint8(4)], axis=3)
    columns = nibbles[..., None] >> np.arange(4, dtype=np.uint8) & np.uint8(1)
    weights = np.uint8(1) << np.arange(bits, dtype=np.uint8)
    codes = (columns * weights[:, None]).sum(axis=-2, dtype=np.uint8)
    codes = codes.reshape(len(rows), -1)[:, :k]
    if slices is None:
        one = np.ones((len(rows), 1), np.float32)
        return codes, weight.scales[rows, None], one, None
    steps, beside = _read_heads(np.stack(heads, axis=1), slices)
    return _as_given(weight, codes, steps[tile, :, lane], beside[tile, :, lane])


def _as_given(weight: Weight, codes: U8, steps: F32, beside: F32) -> SliceParts:
    """Make what `pack_bitslice` was given of steps, and what stands beside them, as stored."""
    bits = weight.format.planes
    scales = steps * np.float32(2 if bits == 1 else 1)
    if weight.slices is not None and weight.slices.zeros is Zeros.OFFSETS:
        return codes, scales, None, beside
    zeros = (beside + 1) * np.float32(0.5) if bits == 1 else beside + np.float32(middle(bits))
    return codes, scales, zeros, None


def unpack_heads(weight: Weight) -> tuple[F32, F32]:
    """Take out the steps of bs1 to bs4, and what stands beside them, as stored.

    Returns
    -------
    steps, beside : (n_tiles, n_groups, 64) float32
        Padding rows included; `beside` is 0 where nothing is stored.
    """
    slices = weight.slices
    if slices is None:
        raise UsageError(f"{weight.name} has no heads.")
    tiles = weight.data.reshape(-(-weight.n_rows // SLICE_TILE), -1)
    heads, at = [], 0
    for _, blocks in blocks_of_groups(-(-weight.k // BLOCK), slices):
        heads.append(tiles[:, at : at + slices.head_bytes])
        at += slices.head_bytes + blocks * weight.format.planes * 256
    return _read_heads(np.stack(heads, axis=1), slices)


def _checked_codes(codes: U8, limit: int, bits: int) -> tuple[int, int]:
    if not limit:
        raise UsageError(f"{bits} is no number of bit planes.", advice="Use 1, 2, 3 or 4.")
    if codes.ndim != 2 or codes.dtype != np.uint8 or 0 in codes.shape:
        raise UsageError(f"Codes are a matrix of bytes, not {codes.dtype}{list(codes.shape)}.")
    if int(codes.max()) >= limit:
        raise UsageError(f"Code {int(codes.max())} is not below {limit}.")
    return codes.shape[0], codes.shape[1]


def _checked_numbers(numbers: Numbers, shape: tuple[int, ...], what: str) -> F32:
    if numbers.shape != shape:
        raise UsageError(f"{what} must have shape {list(shape)}, not {list(numbers.shape)}.")
    wide: F32 = np.asarray(numbers, np.float32)
    if not np.isfinite(wide).all():
        raise UsageError(f"A number among {what} is not finite.")
    return wide


def _fit_half(numbers: F32) -> bool:
    with np.errstate(over="ignore"):
        return bool((numbers.astype(np.float16).astype(np.float32) == numbers).all())


def _allocate(fmt: Format, n_rows: int, k: int, slices: Slices | None, name: str) -> U8:
    return allocate([storage_bytes(fmt, n_rows, k, slices)], name or "a weight")[0]


def fill_sliced(
    data: U8, codes: U8, fmt: Format, slices: Slices, steps: Numbers, beside: Numbers | None
) -> None:
    """Write whole tiles in bs1 to bs4 or bs2n to bs4n; parameters as for `fill_slices`."""
    if fmt.is_column:
        fill_slice_columns(data, codes, fmt, slices, steps, beside)
    else:
        fill_slices(data, codes, fmt.planes, slices, steps, beside)


def fill_slices(
    data: U8,
    codes: U8,
    bits: int,
    slices: Slices | None,
    steps: Numbers | None,
    beside: Numbers | None,
) -> None:
    """Write tiles, a few at a time so that what is in between stays small.

    Parameters
    ----------
    data : (bytes of n_rows rows,) uint8
        Filled.
    codes : (n_rows, k) uint8
        Below 2^bits.
    bits : int
        1 to 4.
    slices : Slices or None
        None: no heads (bst).
    steps : (n_rows, n_groups) numbers or None
        As stored: for one bit half of the step.
    beside : (n_rows, n_groups) numbers or None
        Zero points from the middle on, or offsets, as `slices` says.
    """
    n_rows, k = codes.shape
    tiles = data.reshape(-(-n_rows // SLICE_TILE), -1)
    per_slab = max(1, (1 << 22) // (SLICE_TILE * k))
    for first in range(0, len(tiles), per_slab):
        rows = slice(first * SLICE_TILE, (first + per_slab) * SLICE_TILE)
        some = [None if part is None else part[rows] for part in (steps, beside)]
        _fill_tiles(tiles[first : first + per_slab], codes[rows], bits, slices, *some)


def _fill_tiles(
    tiles: U8,
    codes: U8,
    bits: int,
    slices: Slices | None,
    steps: Numbers | None,
    beside: Numbers | None,
) -> None:
    n_tiles, n_blocks = len(tiles), -(-codes.shape[1] // BLOCK)
    padded = np.zeros((n_tiles * SLICE_TILE, n_blocks * BLOCK), np.uint8)
    padded[: codes.shape[0], : codes.shape[1]] = codes
    planes = np.empty((n_tiles, n_blocks, _QUADS // 2, bits, SLICE_TILE), np.uint8)
    for plane in range(bits):
        # A byte is two quads: its bit n is column 8 * pair + n.
        packed = np.packbits(padded & np.uint8(1 << plane), axis=1, bitorder="little")
        # Byte 16a + 4v + j of a tile is its row 16v + 4a + j.
        woven = packed.reshape(n_tiles, 4, 4, 4, n_blocks, -1).transpose(0, 4, 5, 2, 1, 3)
        planes[..., plane, :] = woven.reshape(n_tiles, n_blocks, -1, SLICE_TILE)
    at = 0
    for group, (first, blocks) in enumerate(blocks_of_groups(n_blocks, slices)):
        if slices is not None and steps is not None:
            element = "<f4" if slices.wide else "<f2"
            at = _write_head(tiles, at, steps[:, group], element)
            if beside is not None:
                kind = "i1" if slices.zeros is Zeros.POINTS else element
                at = _write_head(tiles, at, beside[:, group], kind)
        n_bytes = blocks * bits * 256
        tiles[:, at : at + n_bytes] = planes[:, first : first + blocks].reshape(n_tiles, -1)
        at += n_bytes


def _write_head(tiles: U8, at: int, numbers: Numbers, dtype: str) -> int:
    """Write one number per row at `at` of each tile; zeros for padding rows."""
    full = np.zeros(len(tiles) * SLICE_TILE, dtype)
    full[: len(numbers)] = numbers
    raw = full.reshape(len(tiles), SLICE_TILE).view(np.uint8)
    tiles[:, at : at + raw.shape[1]] = raw
    return at + raw.shape[1]


def _read_heads(heads: U8, slices: Slices) -> tuple[F32, F32]:
    """Take (n_tiles, n_groups, head_bytes) apart: steps, and what stands beside, 0 for nothing."""
    element = "<f4" if slices.wide else "<f2"
    n_bytes = SLICE_TILE * (4 if slices.wide else 2)
    steps = np.ascontiguousarray(heads[..., :n_bytes]).view(element).astype(np.float32)
    if slices.zeros is Zeros.NONE:
        return steps, np.zeros_like(steps)
    kind = "i1" if slices.zeros is Zeros.POINTS else element
    beside = np.ascontiguousarray(heads[..., n_bytes:]).view(kind).astype(np.float32)
    return steps, beside
