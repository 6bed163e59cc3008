"""GPTQ, AWQ and compressed-tensors matrices as bit slices or blocks; exactly where that can be.

Up to 4 bits become bit slices: codes, steps and zero points as the file has them. More bits become
blocks, and so does what is asked to: code minus zero point fits q4, q6 or q8. Both have a step for
32 columns or more, so with act-order (``desc_act``), whose groups are scattered over the columns,
these are stored sorted by group (`Weight.order`). What does not fit says so in its note.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint import Checkpoint, TensorInfo
from edgesparse.checkpoint.packed import GroupedRows, Packed, grouped_chunks, sorted_columns
from edgesparse.checkpoint.source import shown
from edgesparse.errors import ModelFormatError
from edgesparse.formats.bitslice import fill_sliced
from edgesparse.formats.blocks import pack_blocks, requantize
from edgesparse.formats.choice import Choice
from edgesparse.formats.weight import BLOCK, Format, Slices, Zeros, storage_bytes

__all__ = ["grouped_choice", "store_grouped"]

_RANGES = {Format.Q4: (-8, 7), Format.Q6: (-32, 31), Format.Q8: (-128, 127)}
_HALF = "steps rounded to half: relative error at most 2^-11"


def grouped_choice(packed: Packed, *, slices: bool, sort: bool) -> Choice:
    """Choose the storage format of a matrix.

    Parameters
    ----------
    packed : Packed
    slices : bool
        Whether up to 4 bits become bit slices.
    sort : bool
        Whether columns may be sorted by group: inputs are gathered then.
    """
    is_sorted = not packed.is_ordered
    if packed.unit < 0 or (is_sorted and not sort):
        mixed = "act-order" if is_sorted else f"groups of {packed.group}"
        note = f"{mixed}: 32 columns have several steps, rounded anew"
        note = f"{note}: error at most about 1/254 of their largest"
        return Choice(Format.Q8, note, is_rounded=True)
    order = "columns sorted by group (act-order)" if is_sorted else ""
    if slices and packed.bits <= 4:
        wide = "" if packed.is_half else "steps as float32"
        note = ", ".join(filter(None, (_kept_note(packed), wide, order)))
        fmt = Format(Format.BS1 + packed.bits - 1)
        return Choice(fmt, note, slices=_layout(packed), is_sorted=is_sorted)
    halves = "" if packed.is_half else _HALF
    for fmt, (low, high) in _RANGES.items():
        if low <= packed.low and packed.high <= high:
            kept = "" if packed.bits > 4 else f"{packed.bits}-bit codes kept exactly"
            note = ", ".join(filter(None, (kept, halves, order)))
            return Choice(fmt, note, is_rounded=not packed.is_half, is_sorted=is_sorted)
    note = "codes kept; offsets (128 - zero) · step rounded to half: 2^-11 of each"
    note = ", ".join(filter(None, (note, halves, order)))
    return Choice(Format.Q8M, note, is_rounded=True, is_sorted=is_sorted)


def _kept_note(packed: Packed) -> str:
    points = ", steps and zero points" if _layout(packed).zeros else " and steps"
    return f"{packed.bits}-bit codes{points} kept exactly"


def _layout(packed: Packed) -> Slices:
    middle = 1 << (packed.bits - 1)
    is_symmetric = (packed.low, packed.high) == (-middle, middle - 1)
    zeros = Zeros.NONE if is_symmetric else Zeros.POINTS
    return Slices(packed.unit, zeros, not packed.is_half)


def store_grouped(
    checkpoint: Checkpoint, info: TensorInfo, choice: Choice, data: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int32] | None:
    """Read a matrix and store it.

    Parameters
    ----------
    checkpoint : Checkpoint
        Opened model.
    info : TensorInfo
        A matrix of several tensors.
    choice : Choice
        What `grouped_choice` says, or its format by columns or row by row.
    data : (storage_bytes(choice.format, n_rows, n_cols, choice.slices),) uint8
        Filled.

    Returns
    -------
    (n_cols,) int32 or None
        `Weight.order`.

    Raises
    ------
    ModelFormatError
        ``value``: a block is too large for a half-precision step; ``truncated``.
    """
    packed = info.packed
    if packed is None:
        raise ValueError(f"{shown(info.name)} is stored in one tensor")
    order: npt.NDArray[np.int32] | None = None
    for rows in grouped_chunks(checkpoint, info, max(BLOCK, choice.format.tile_rows)):
        begin, end = (
            storage_bytes(choice.format, n, info.n_cols, choice.slices)
            for n in (rows.begin, rows.end)
        )
        if choice.is_sorted:
            order = sorted_columns(rows.groups) if order is None else order
            codes, groups = np.take(rows.codes, order, axis=1), rows.groups[order]
            rows = rows._replace(codes=codes, groups=groups)
        if choice.slices is not None:
            _slice(rows, packed.bits, choice, data[begin:end])
        elif packed.unit < 0 or not (packed.is_ordered or choice.is_sorted):
            data[begin:end] = _checked(_rounded(rows, choice.format), info)
        else:
            data[begin:end] = _checked(_kept(rows, packed.unit, choice.format), info)
    return order


def _checked(stored: npt.NDArray[np.uint8] | None, info: TensorInfo) -> npt.NDArray[np.uint8]:
    if stored is None:
        detail = "a block is too large for a half-precision step"
        raise ModelFormatError("value", shown(info.name), detail)
    return stored


def _slice(rows: GroupedRows, bits: int, choice: Choice, data: npt.NDArray[np.uint8]) -> None:
    slices = choice.slices or Slices()
    groups = rows.groups[:: slices.group or len(rows.groups)]
    points = None
    if slices.zeros is Zeros.POINTS:
        points = (rows.zeros[:, groups] - (1 << (bits - 1))).astype(np.int8)
    fill_sliced(data, rows.codes, choice.format, slices, rows.scales[:, groups], points)


def _rounded(rows: GroupedRows, fmt: Format) -> npt.NDArray[np.uint8] | None:
    codes = rows.codes - rows.zeros[:, rows.groups]
    codes, d = requantize(codes * rows.scales[:, rows.groups], Format.Q8)
    return pack_blocks(codes, d, None, fmt) if np.isfinite(d).all() else None


def _kept(rows: GroupedRows, unit: int, fmt: Format) -> npt.NDArray[np.uint8] | None:
    blocks = rows.groups[::BLOCK]
    steps = rows.scales[:, blocks]
    d = steps.astype(np.float16)
    if fmt.row_format is Format.Q8M:
        with np.errstate(over="ignore"):
            m = ((128 - rows.zeros[:, blocks]) * steps).astype(np.float16)
        # The code minus 128: step · (code - zero) = step · this + m.
        stored = (rows.codes ^ np.uint8(128)).view(np.int8)
        return pack_blocks(stored, d, m, fmt) if np.isfinite(m).all() else None
    # Bytes wrap to the difference, which the format was chosen to hold.
    zeros = rows.zeros.astype(np.uint8)
    n_rows, k = rows.codes.shape
    unit = unit or k
    if k % unit == 0:  # no unit is cut short
        points = zeros[:, rows.groups[::unit], None]
        codes = (rows.codes.reshape(n_rows, -1, unit) - points).reshape(n_rows, k)
    else:
        codes = rows.codes - zeros[:, rows.groups]
    return pack_blocks(codes.view(np.int8), d, None, fmt)
