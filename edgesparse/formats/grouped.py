"""GPTQ, AWQ and compressed-tensors matrices into block formats; exactly where codes allow.

Blocks have a step per 32 columns, so groups of a multiple of 32 keep their integers: code minus
zero point fits q4, q6 or q8, whatever the file's width. What does not fit says so in its note.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint import Checkpoint, TensorInfo
from edgesparse.checkpoint.packed import GroupedRows, Packed, grouped_chunks
from edgesparse.checkpoint.source import shown
from edgesparse.errors import ModelFormatError
from edgesparse.formats.blocks import pack_blocks, requantize
from edgesparse.formats.weight import BLOCK, Format, storage_bytes

__all__ = ["grouped_choice", "store_grouped"]

_RANGES = {Format.Q4: (-8, 7), Format.Q6: (-32, 31), Format.Q8: (-128, 127)}


def _needs_rounding(packed: Packed, n_cols: int) -> bool:
    """Tell whether the 32 columns of some block have more than one step."""
    return not packed.is_ordered or bool(packed.group % BLOCK and packed.group < n_cols)


def grouped_choice(packed: Packed, n_cols: int) -> tuple[Format, str, bool]:
    """Give the storage format of a matrix, the reason and whether values are rounded."""
    if _needs_rounding(packed, n_cols):
        mixed = f"groups of {packed.group}" if packed.is_ordered else "act-order"
        note = f"{mixed}: 32 columns have several steps, rounded anew"
        return Format.Q8, f"{note}: error at most about 1/254 of their largest", True
    halves = "" if packed.is_half else "steps rounded to half: relative error at most 2^-11"
    for fmt, (low, high) in _RANGES.items():
        if low <= packed.low and packed.high <= high:
            kept = "" if packed.bits > 4 else f"{packed.bits}-bit codes kept exactly"
            return fmt, ", ".join(filter(None, (kept, halves))), not packed.is_half
    note = "codes kept; offsets (128 - zero) · step rounded to half: 2^-11 of each"
    return Format.Q8M, ", ".join(filter(None, (note, halves))), True


def store_grouped(
    checkpoint: Checkpoint, info: TensorInfo, fmt: Format, data: npt.NDArray[np.uint8]
) -> None:
    """Read a matrix and store it.

    Parameters
    ----------
    checkpoint : Checkpoint
        Opened model.
    info : TensorInfo
        A matrix of several tensors.
    fmt : Format
        What `grouped_choice` says.
    data : (storage_bytes(fmt, n_rows, n_cols),) uint8
        Filled.

    Raises
    ------
    ModelFormatError
        ``value``: a block is too large for a half-precision step; ``truncated``.
    """
    if info.packed is None:
        raise ValueError(f"{shown(info.name)} is stored in one tensor")
    anew = _needs_rounding(info.packed, info.n_cols)
    for rows in grouped_chunks(checkpoint, info):
        packed = _rounded(rows) if anew else _kept(rows, info.packed.group, fmt)
        if packed is None:
            detail = "a block is too large for a half-precision step"
            raise ModelFormatError("value", shown(info.name), detail)
        first = storage_bytes(fmt, rows.begin, info.n_cols)
        data[first : first + len(packed)] = packed


def _rounded(rows: GroupedRows) -> npt.NDArray[np.uint8] | None:
    codes = rows.codes - rows.zeros[:, rows.groups]
    codes, d = requantize(codes * rows.scales[:, rows.groups], Format.Q8)
    return pack_blocks(codes, d, None, Format.Q8) if np.isfinite(d).all() else None


def _kept(rows: GroupedRows, group: int, fmt: Format) -> npt.NDArray[np.uint8] | None:
    blocks = rows.groups[::BLOCK]
    steps = rows.scales[:, blocks]
    d = steps.astype(np.float16)
    if fmt is Format.Q8M:
        with np.errstate(over="ignore"):
            m = ((128 - rows.zeros[:, blocks]) * steps).astype(np.float16)
        # The code minus 128: step · (code - zero) = step · this + m.
        stored = (rows.codes ^ np.uint8(128)).view(np.int8)
        return pack_blocks(stored, d, m, fmt) if np.isfinite(m).all() else None
    # Bytes wrap to the difference, which the format was chosen to hold.
    zeros = rows.zeros.astype(np.uint8)
    n_rows, k = rows.codes.shape
    if group * zeros.shape[1] == k:  # no group is cut short
        codes = (rows.codes.reshape(n_rows, -1, group) - zeros[:, :, None]).reshape(n_rows, k)
    else:
        codes = rows.codes - zeros[:, rows.groups]
    return pack_blocks(codes.view(np.int8), d, None, fmt)
