"""Streaming: decode a tensor of a checkpoint row range by row range, with little scratch.

Rows of most types are independent; I2_S_ROW4 shares bytes among four, and the packed BitNet of
Hugging Face stripes the rows over the whole matrix. Those two are hidden here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint.decode import dequantize, ternarize, ternary_codes
from edgesparse.checkpoint.reader import Checkpoint
from edgesparse.checkpoint.source import shown
from edgesparse.checkpoint.types import TensorInfo, TensorType, layout_of
from edgesparse.errors import ModelFormatError

__all__ = ["dequantize_rows", "read_rows", "row_chunks", "ternary_chunks", "ternary_rows"]

SCRATCH_BYTES = 8 << 20
_BYTES_PER_WEIGHT = 8  # raw bytes, codes and one float32 copy of a weight, generously

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]


def row_chunks(info: TensorInfo, scratch_bytes: int = SCRATCH_BYTES) -> Iterator[tuple[int, int]]:
    """Cut the rows into ranges that decode within `scratch_bytes`; a range has at least 4 rows.

    Yields
    ------
    (row_begin, row_end) : tuple of int
        Consecutive ranges; all but the last are multiples of 4 rows.
    """
    per_row = max(1, info.n_cols * _BYTES_PER_WEIGHT)
    step = max(4, scratch_bytes // per_row // 4 * 4)
    for begin in range(0, info.n_rows, step):
        yield begin, min(begin + step, info.n_rows)


def read_rows(
    checkpoint: Checkpoint, name: str, row_begin: int, row_end: int
) -> npt.NDArray[np.uint8]:
    """Copy the bytes of rows ``[row_begin, row_end)``, ready for `dequantize`.

    Raises
    ------
    ModelFormatError
        ``layout`` for HF_T2 and for a range that splits a row group, else as in
        `Checkpoint.read`.
    """
    info = checkpoint.info(name)
    group = layout_of(info.type).row_group
    if not 0 <= row_begin <= row_end <= info.n_rows or row_begin % group or row_end % group:
        detail = f"rows {row_begin} to {row_end} of {info.n_rows} in groups of {group}"
        raise ModelFormatError("layout", shown(name), detail, path=shown(checkpoint.path, 400))
    row_bytes = info.row_bytes
    start, stop = row_begin // group * row_bytes, row_end // group * row_bytes
    return checkpoint.read_range(name, start, stop)


def dequantize_rows(checkpoint: Checkpoint, name: str, row_begin: int, row_end: int) -> F32:
    """Decode rows ``[row_begin, row_end)`` to float32, shape ``(row_end - row_begin, n_cols)``.

    Masters of ternary weights (``info.ternarize``) come as they are stored.
    """
    info = checkpoint.info(name)
    shape = (row_end - row_begin, info.n_cols)
    if info.type is TensorType.HF_T2:
        codes, scale = _striped_codes(checkpoint, info, row_begin, row_end)
        return codes.astype(np.float32) * scale
    raw = read_rows(checkpoint, name, row_begin, row_end)
    return dequantize(info.type, raw, shape, info.scale, name=name)


def ternary_rows(
    checkpoint: Checkpoint, name: str, row_begin: int, row_end: int
) -> tuple[I8, F32] | None:
    """Decode rows to ternary codes and scales; None and shapes as in `ternary_codes`."""
    info = checkpoint.info(name)
    if info.type is TensorType.HF_T2:
        return _striped_codes(checkpoint, info, row_begin, row_end)
    raw = read_rows(checkpoint, name, row_begin, row_end)
    shape = (row_end - row_begin, info.n_cols)
    return ternary_codes(info.type, raw, shape, info.scale, name=name)


def ternary_chunks(
    checkpoint: Checkpoint, name: str, scratch_bytes: int = SCRATCH_BYTES
) -> Iterator[tuple[int, int, I8, F32] | None]:
    """Stream a matrix as ternary codes, whatever it is stored as.

    Master weights are read twice: once for their mean magnitude, once to be rounded.

    Yields
    ------
    (row_begin, row_end, codes, scales) or None
        As in `ternary_codes`; None means that these rows are not ternary with a scale per row.
    """
    info = checkpoint.info(name)
    scale = _master_scale(checkpoint, info, scratch_bytes) if info.ternarize else None
    for begin, end in row_chunks(info, scratch_bytes):
        if scale is not None:
            codes, _ = ternarize(dequantize_rows(checkpoint, name, begin, end), scale=scale)
            found: tuple[I8, F32] | None = codes, np.asarray(scale, dtype=np.float32)
        else:
            found = ternary_rows(checkpoint, name, begin, end)
        yield None if found is None else (begin, end, *found)


def _master_scale(checkpoint: Checkpoint, info: TensorInfo, scratch_bytes: int) -> float:
    """Apply the rule of `ternarize` to a matrix that is read in pieces."""
    total = 0.0
    low, high = np.inf, 0.0
    for begin, end in row_chunks(info, scratch_bytes):
        magnitude = np.abs(dequantize_rows(checkpoint, info.name, begin, end))
        if not np.all(np.isfinite(magnitude)):
            raise ModelFormatError(
                "value", shown(info.name), "a weight is not finite", path=shown(checkpoint.path)
            )
        total += float(np.sum(magnitude, dtype=np.float64))
        live = magnitude[magnitude != 0]
        if live.size:
            low, high = min(low, float(live.min())), max(high, float(live.max()))
    if low >= high:  # already ternary, or all zero
        return high
    return float(max(np.float32(total / (info.n_rows * info.n_cols)), np.float32(1e-5)))


def _striped_codes(
    checkpoint: Checkpoint, info: TensorInfo, row_begin: int, row_end: int
) -> tuple[I8, F32]:
    """Collect rows of the Hugging Face packing: row j*Rq + p is bit pair j of packed row p."""
    stripe = -(-info.n_rows // 4)
    codes = np.empty((row_end - row_begin, info.n_cols), dtype=np.int8)
    row = row_begin
    while row < row_end:
        pair, packed_row = divmod(row, stripe)
        stop = min(row_end, (pair + 1) * stripe)
        start = packed_row * info.n_cols
        raw = checkpoint.read_range(info.name, start, start + (stop - row) * info.n_cols)
        part = (raw >> (2 * pair)) & 3
        if part.size and int(part.max()) == 3:
            raise ModelFormatError(
                "value",
                shown(info.name),
                "packed BitNet weights hold the illegal code 3",
                path=shown(checkpoint.path, 400),
                advice="The file is damaged: fetch it again.",
            )
        codes[row - row_begin : stop - row_begin] = part.reshape(-1, info.n_cols)
        row = stop
    codes -= 1
    return codes, np.asarray(info.scale if info.scale is not None else 1.0, dtype=np.float32)
