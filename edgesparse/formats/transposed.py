"""Matrices that a file holds by columns (PowerInfer's ``down``) into storage by rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint import Checkpoint, TensorInfo, TensorType, check_scales, dequantize
from edgesparse.formats.choice import Choice
from edgesparse.formats.choose import choose
from edgesparse.formats.convert import Convert, Target
from edgesparse.formats.weight import Format

__all__ = ["store_transposed", "transposed_choice"]

_DTYPES: dict[TensorType, np.dtype[Any]] = {
    TensorType.F32: np.dtype("<f4"),
    TensorType.F16: np.dtype("<u2"),
    TensorType.BF16: np.dtype("<u2"),
}
_CHUNK_BYTES = 1 << 20
_ROWS = 256


def _as_rows(info: TensorInfo) -> TensorInfo:
    """Describe the matrix as if it lay by rows: floats as they are, blocks as float32."""
    kind = info.type if info.type in _DTYPES else TensorType.F32
    return replace(info, type=kind, transposed=False)


def transposed_choice(info: TensorInfo) -> Choice:
    """Choose the storage format: floats keep their type, blocks are cut anew along the rows."""
    if info.type in _DTYPES:
        return choose(_as_rows(info))
    note = (
        f"{info.type.name} by columns, rounded anew per 32 columns: "
        "error at most about 1/254 of their largest"
    )
    return Choice(Format.Q8, note, is_rounded=True)


def store_transposed(checkpoint: Checkpoint, target: Target, convert: Convert) -> None:
    """Read a matrix that lies by columns and store its rows.

    It is decoded as a whole, in float32 unless the file has halfs, and given back at the end.

    Raises
    ------
    ModelFormatError
        ``truncated``, or ``value`` for a number that is not finite.
    """
    info = target.info
    n_rows, n_columns = info.shape
    plain = _as_rows(info)
    dtype = _DTYPES[plain.type]
    rows = np.empty((n_rows, n_columns), dtype)
    column_bytes = info.n_bytes // n_columns
    step = max(1, _CHUNK_BYTES // column_bytes)
    for begin in range(0, n_columns, step):
        end = min(begin + step, n_columns)
        raw = checkpoint.read_range(info.name, begin * column_bytes, end * column_bytes)
        rows[:, begin:end] = _columns(info, raw, (end - begin, n_rows), dtype).T
    for begin in range(0, n_rows, _ROWS):
        end = min(begin + _ROWS, n_rows)
        raw = rows[begin:end].reshape(-1).view(np.uint8)
        convert(replace(target, info=plain), raw, begin, end)


def _columns(
    info: TensorInfo, raw: npt.NDArray[np.uint8], shape: tuple[int, int], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """Decode some columns, (n_columns, n_rows)."""
    check_scales(info.type, raw, shape, name=info.name)
    if info.type in _DTYPES:
        return raw.view(dtype).reshape(shape)
    return dequantize(info.type, raw, shape, name=info.name)
