"""Bytes of a tensor, or of some of its rows, as numbers.

Every type goes through `Groups` (codes and scales); `dequantize`, `ternary_codes` and
`affine_blocks` are three views of it. All accept the bytes of a range of rows together with the
shape of that range, so loading can go chunk by chunk; I2_S_ROW4 ranges are multiples of 4 rows,
HF_T2 is read through `edgesparse.checkpoint.rows`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint.groups import U8, Groups
from edgesparse.checkpoint.source import shown
from edgesparse.checkpoint.types import TensorType, layout_of, n_bytes_of
from edgesparse.checkpoint.unpack_classic import CLASSIC_UNPACKERS
from edgesparse.checkpoint.unpack_k import K_UNPACKERS
from edgesparse.checkpoint.unpack_rows import (
    unpack_hf_t2,
    unpack_i2s,
    unpack_i2s_row4,
    unpack_iq1_bn,
    unpack_iq2_bn,
)
from edgesparse.checkpoint.unpack_ternary import TERNARY_UNPACKERS
from edgesparse.errors import ModelFormatError

__all__ = [
    "TERNARY_TYPES",
    "affine_blocks",
    "check_scales",
    "dequantize",
    "ternarize",
    "ternary_codes",
]

_T = TensorType
_BLOCKED = {**CLASSIC_UNPACKERS, **K_UNPACKERS, **TERNARY_UNPACKERS}
_TENSOR_SCALED = frozenset({_T.I2_S_128X32, _T.I2_S_64X16, _T.I2_S_ROW4, _T.HF_T2})
_NO_CODE_3 = _TENSOR_SCALED | {_T.TQ2_0, _T.IQ2_BN}
TERNARY_TYPES = frozenset(TERNARY_UNPACKERS) | _TENSOR_SCALED | {_T.IQ1_BN, _T.IQ2_BN}
"""Types whose codes are -1, 0, +1 (Q2_0 and PQ2_0 may also hold +2)."""

_FLOATS = {_T.F32: "<f4", _T.F16: "<f2", _T.F64: "<f8"}
_INTEGERS = {_T.I8: "<i1", _T.I16: "<i2", _T.I32: "<i4", _T.I64: "<i8"}
_HALF_FIELDS: dict[TensorType, tuple[int, ...]] = {
    _T.Q8_0: (0,),
    _T.Q4_0: (0,),
    _T.Q4_1: (0, 2),
    _T.Q5_0: (0,),
    _T.Q5_1: (0, 2),
    _T.Q2_K: (80, 82),
    _T.Q3_K: (108,),
    _T.Q4_K: (0, 2),
    _T.Q5_K: (0, 2),
    _T.Q6_K: (208,),
    _T.TQ1_0: (52,),
    _T.TQ2_0: (64,),
    _T.PTQ1_0: (26,),
    _T.Q2_0: (0,),
    _T.PQ2_0: (0,),
    _T.Q1_0: (0,),
}


def dequantize(
    tensor_type: TensorType,
    raw: U8,
    shape: tuple[int, ...],
    scale: float | None = None,
    *,
    name: str = "tensor",
) -> npt.NDArray[np.float32]:
    """Decode to float32.

    Parameters
    ----------
    tensor_type : TensorType
        Storage type.
    raw : (n_bytes,) uint8
        Bytes of the rows; an I2_S tail may be present or absent.
    shape : tuple of int
        Shape of what `raw` holds: ``(n_rows, n_cols)`` or ``(n,)``.
    scale : float, optional
        Tensor scale of I2_S and HF_T2; an I2_S tail is used when it is None.
    name : str
        Named in errors.

    Returns
    -------
    numpy.ndarray
        float32 of `shape`.

    Raises
    ------
    ModelFormatError
        ``truncated`` when `raw` is not what `shape` needs, ``value`` for a scale that is not
        finite or an illegal code.
    """
    if tensor_type in _BLOCKED or tensor_type in TERNARY_TYPES:
        groups = _unpack(tensor_type, raw, shape, scale, name)
        values = groups.codes.astype(np.float32)
        values *= groups.d[..., None]
        if groups.m is not None:
            values += groups.m[..., None]
        return values.reshape(shape)
    _rows_of(tensor_type, raw, shape, name)
    if tensor_type is _T.BF16:
        wide = raw.view("<u2").astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32).reshape(shape)
    dtype = _FLOATS.get(tensor_type) or _INTEGERS[tensor_type]
    with np.errstate(over="ignore"):
        return raw.view(dtype).astype(np.float32).reshape(shape)


def ternary_codes(
    tensor_type: TensorType,
    raw: U8,
    shape: tuple[int, ...],
    scale: float | None = None,
    *,
    name: str = "tensor",
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]] | None:
    """Decode a ternary type to codes and as few scales as possible.

    A block whose scale is 0 becomes codes 0 and takes the scale of its row: a writer stores
    0 for a block of zeros, whatever the tensor's scale is.

    Parameters
    ----------
    tensor_type, raw, shape, scale, name
        As in `dequantize`.

    Returns
    -------
    codes : (n_rows, n_cols) int8
        -1, 0 or +1.
    scales : () or (n_rows,) float32
        One for all rows when they agree, else one per row.

    Instead of the pair, None when the type is not ternary, a code is +2, or blocks within a row
    have different scales.

    Raises
    ------
    ModelFormatError
        As in `dequantize`.
    """
    if tensor_type not in TERNARY_TYPES:
        return None
    groups = _unpack(tensor_type, raw, shape, scale, name)
    codes, d = groups.codes, groups.d
    if tensor_type in (_T.Q2_0, _T.PQ2_0) and codes.size and int(codes.max()) > 1:
        return None
    row_scale = d[np.arange(d.shape[0]), np.argmax(d != 0, axis=1)]
    zero = d == 0
    if not bool(np.all(zero | (d == row_scale[:, None]))):
        return None
    if zero.any() and tensor_type not in _TENSOR_SCALED:
        codes[zero] = 0
    codes = codes.reshape(codes.shape[0], codes.shape[1] * codes.shape[2])
    live = row_scale[row_scale != 0]
    if live.size == 0:
        return codes, np.asarray(0.0, dtype=np.float32)
    if bool(np.all(live == live[0])):
        return codes, np.asarray(live[0], dtype=np.float32)
    return codes, row_scale


def affine_blocks(
    tensor_type: TensorType,
    raw: U8,
    shape: tuple[int, ...],
    scale: float | None = None,
    *,
    name: str = "tensor",
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.float32] | None] | None:
    """Decode to blocks of 32 columns, ``value = d * code + m`` exactly.

    Parameters
    ----------
    tensor_type, raw, shape, scale, name
        As in `dequantize`.

    Returns
    -------
    codes : (n_rows, n_blocks, 32) int8
        Signed codes.
    d : (n_rows, n_blocks) float32
        Scales; for Q4_K and Q5_K super-block scale times sub-block scale.
    m : (n_rows, n_blocks) float32 or None
        Offsets; for Q4_K and Q5_K the negated minima.

    Instead of the triple, None for float types and for types with a scale per 16 columns.

    Raises
    ------
    ModelFormatError
        As in `dequantize`.
    """
    if tensor_type not in _BLOCKED and tensor_type not in TERNARY_TYPES:
        return None
    groups = _unpack(tensor_type, raw, shape, scale, name)
    n_rows, n_groups, group = groups.codes.shape
    if group % 32:
        return None
    repeat = group // 32
    codes = groups.codes.reshape(n_rows, n_groups * repeat, 32)
    d = np.repeat(groups.d, repeat, axis=1)
    return codes, d, None if groups.m is None else np.repeat(groups.m, repeat, axis=1)


def ternarize(
    weights: npt.NDArray[np.floating[Any]], *, scale: float | None = None
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Round master weights to ternary by the absolute-mean rule of BitNet b1.58.

    ``scale = max(mean|W|, 1e-5)``, ``code = clip(round_half_even(W / scale), -1, 1)`` in float32.
    A matrix that already has only the values -a, 0, a keeps a as its scale: the mean would be
    a times its density.

    Parameters
    ----------
    weights : (n_rows, n_cols) float
        One whole matrix; q, k and v each have their own scale.
    scale : float, optional
        Scale of the whole matrix when `weights` is a part of it.

    Returns
    -------
    codes : (n_rows, n_cols) int8
        -1, 0 or +1.
    scale : () float32
        Multiplies the codes.
    """
    w = np.asarray(weights, dtype=np.float32)
    if scale is None:
        magnitude = np.abs(w)
        peak = magnitude.max(initial=0.0)
        if bool(np.all((magnitude == 0) | (magnitude == peak))):
            scale = float(peak)
        else:
            mean = np.mean(magnitude, dtype=np.float64).astype(np.float32)
            scale = float(max(mean, np.float32(1e-5)))
    factor = np.asarray(scale, dtype=np.float32)
    if scale == 0.0:
        return np.zeros(w.shape, dtype=np.int8), factor
    return np.clip(np.rint(w / factor), -1, 1).astype(np.int8), factor


def check_scales(
    tensor_type: TensorType, raw: U8, shape: tuple[int, ...], *, name: str = "tensor"
) -> None:
    """Make sure that every stored scale, or every number of a float type, is finite.

    Parameters
    ----------
    tensor_type, raw, shape, name
        As in `dequantize`.

    Raises
    ------
    ModelFormatError
        ``value``, naming the tensor and the block; ``truncated`` as in `dequantize`.
    """
    rows = _rows_of(tensor_type, raw, shape, name)
    fields: list[npt.NDArray[np.generic]] = []
    if tensor_type in _HALF_FIELDS:
        blocks = rows.reshape(-1, layout_of(tensor_type).block_bytes)
        halves = [blocks[:, at : at + 2] for at in _HALF_FIELDS[tensor_type]]
        fields = [np.ascontiguousarray(half).view("<u2") & 0x7C00 for half in halves]
        broken = [field == 0x7C00 for field in fields]
    elif tensor_type is _T.IQ2_BN:
        broken = [~np.isfinite(np.ascontiguousarray(rows[:, :4]).view("<f4"))]
    elif tensor_type is _T.IQ1_BN:
        broken = [~np.isfinite(np.ascontiguousarray(rows[:, :2]).view("<f2"))]
    elif tensor_type is _T.BF16:
        broken = [(raw.view("<u2") & 0x7F80) == 0x7F80]
    elif tensor_type in _FLOATS:
        broken = [~np.isfinite(raw.view(_FLOATS[tensor_type]))]
    else:
        return
    for bad in broken:
        if bad.any():
            place = int(np.flatnonzero(bad)[0])
            raise _error("value", name, f"scale or number {place} is not finite")


def _unpack(
    tensor_type: TensorType, raw: U8, shape: tuple[int, ...], scale: float | None, name: str
) -> Groups:
    rows = _rows_of(tensor_type, raw, shape, name)
    if 0 in shape:
        n_rows = _n_rows(shape)
        codes = np.zeros((n_rows, 1, shape[-1]), dtype=np.int8)
        return Groups(codes, np.zeros((n_rows, 1), dtype=np.float32))
    if tensor_type in _NO_CODE_3:
        _refuse_code_3(tensor_type, rows, name)
    if tensor_type in _TENSOR_SCALED:
        factor = _tensor_scale(tensor_type, raw, shape, scale, name)
        if tensor_type is _T.HF_T2:
            return unpack_hf_t2(rows, _n_rows(shape), factor)
        if tensor_type is _T.I2_S_ROW4:
            return unpack_i2s_row4(rows, factor)
        return unpack_i2s(rows, layout_of(tensor_type).block_bytes, factor)
    check_scales(tensor_type, raw, shape, name=name)
    if tensor_type is _T.IQ2_BN:
        return unpack_iq2_bn(rows)
    if tensor_type is _T.IQ1_BN:
        return unpack_iq1_bn(rows)
    block_bytes = layout_of(tensor_type).block_bytes
    blocks = rows.reshape(rows.shape[0], rows.shape[1] // block_bytes, block_bytes)
    return _BLOCKED[tensor_type](blocks)


def _n_rows(shape: tuple[int, ...]) -> int:
    n_rows = 1
    for dim in shape[:-1]:
        n_rows *= dim
    return n_rows


def _rows_of(tensor_type: TensorType, raw: U8, shape: tuple[int, ...], name: str) -> U8:
    """View the bytes as rows (row groups, packed rows), after checking their number."""
    n_bytes = n_bytes_of(tensor_type, shape, field=shown(name))
    n_rows = _n_rows(shape)
    if tensor_type is _T.HF_T2:
        tail, n_packed = 0, -(-n_rows // 4)
    else:
        layout = layout_of(tensor_type)
        tail, n_packed = layout.tensor_tail, n_rows // layout.row_group
    if raw.ndim != 1 or raw.dtype != np.uint8 or len(raw) not in (n_bytes, n_bytes - tail):
        detail = f"{raw.shape} bytes for {tensor_type.name} {shape}, expected {n_bytes - tail}"
        raise _error("truncated", name, detail)
    n_bytes -= tail
    width = n_bytes // n_packed if n_packed else 0
    return raw[:n_bytes].reshape(n_packed, width)


def _tensor_scale(
    tensor_type: TensorType, raw: U8, shape: tuple[int, ...], scale: float | None, name: str
) -> float:
    if scale is None:
        if tensor_type is _T.HF_T2 or len(raw) != n_bytes_of(tensor_type, shape):
            raise _error("missing", name, f"{tensor_type.name} rows need the scale of the tensor")
        tail = len(raw) - layout_of(tensor_type).tensor_tail
        scale = float(np.frombuffer(raw[tail : tail + 4].tobytes(), dtype="<f4")[0])
    if not np.isfinite(scale):
        raise _error("value", name, f"the scale is {scale}")
    return scale


def _refuse_code_3(tensor_type: TensorType, rows: U8, name: str) -> None:
    if tensor_type is _T.TQ2_0:
        rows = rows.reshape(-1, 66)[:, :64]
    elif tensor_type is _T.IQ2_BN:
        rows = rows[:, 4:]
    if bool(np.any(rows & (rows >> 1) & 0x55)):
        raise _error("value", name, f"{tensor_type.name} holds the illegal code 3")


def _error(kind: str, name: str, detail: str) -> ModelFormatError:
    return ModelFormatError(kind, shown(name), detail, advice="The file is damaged.")
