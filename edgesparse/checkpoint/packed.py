"""Matrices in several tensors, codes, steps, zero points: GPTQ, AWQ, compressed-tensors.

``value[r, c] = scales[r, g] * (codes[r, c] - zeros[r, g])`` with g the group of column c.
``hf_grouped.py`` finds the parts of a matrix in a folder; the functions here read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint.source import SourceFile, shown
from edgesparse.checkpoint.unpack_bits import awq_columns, bit_stream, padded_words
from edgesparse.errors import ModelFormatError

if TYPE_CHECKING:
    from edgesparse.checkpoint.reader import Checkpoint
    from edgesparse.checkpoint.types import TensorInfo

__all__ = ["GroupedRows", "Packed", "Part", "grouped_chunks", "sorted_columns", "survey"]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]

_HALF_MAX = 65504.0
_CHUNK_WEIGHTS = 4 << 20
_DTYPES = {"I32": "<i4", "F16": "<f2", "F32": "<f4", "I8": "<i1", "I64": "<i8", "BF16": "<u2"}


class Part(NamedTuple):
    """One tensor of a matrix: where it stands, and what it is."""

    name: str
    file: int
    offset: int
    n_bytes: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Packed:
    """How a matrix of several tensors is stored.

    Attributes
    ----------
    scheme : str
        ``gptq``, ``awq``, ``pack-quantized`` or ``int-quantized``.
    bits : int
        Of a code.
    n_groups : int
        Groups of columns with a step each.
    group : int
        Columns of a group, the last may have fewer.
    codes, scales : Part
    zeros : Part or None
        Zero points; None: 2^(bits - 1).
    order : Part or None
        Group of each column.
    plus_one : bool
        GPTQ's first format: what is stored is the zero point minus one.
    padded : bool
        Words hold floor(32 / bits) whole values (compressed-tensors up to 0.17).
    low, high : int
        Bounds of code - zero over the whole matrix.
    is_half : bool
        Whether every step is a half-precision number.
    is_ordered : bool
        Whether groups follow one another along a row; not so with act-order.
    unit : int
        Columns that share a step throughout, once columns are sorted by group: 128, 64 or 32, 0 for
        all of a row; -1: fewer than 32.
    """

    scheme: str
    bits: int
    n_groups: int
    group: int
    codes: Part
    scales: Part
    zeros: Part | None = None
    order: Part | None = None
    plus_one: bool = False
    padded: bool = False
    low: int = 0
    high: int = 0
    is_half: bool = True
    is_ordered: bool = True
    unit: int = -1


class GroupedRows(NamedTuple):
    """Rows [begin, end) of a matrix.

    Attributes
    ----------
    codes : (n, k) uint8
        As stored, unsigned.
    zeros : (n, n_groups) int32
        Zero points.
    scales : (n, n_groups) float32
        Steps.
    groups : (k,) int64
        Group of each column.
    """

    begin: int
    end: int
    codes: U8
    zeros: I32
    scales: F32
    groups: npt.NDArray[np.int64]


def survey(packed: Packed, shape: tuple[int, int], files: list[SourceFile]) -> Packed:
    """Read and check steps, zero points and order; fill in what they say about the matrix.

    Raises
    ------
    ModelFormatError
        ``value``: a step is not finite or beyond half precision; ``range``: a column belongs to
        no group; ``truncated``.
    """
    scales = _scales(packed, shape, _read_all(files, packed.scales))
    if not np.isfinite(scales).all() or np.abs(scales).max(initial=0.0) > _HALF_MAX:
        raise _error("value", packed.scales.name, "a step is not finite or above 65504")
    zeros = _zeros(packed, shape, None if packed.zeros is None else _read_all(files, packed.zeros))
    groups = np.arange(shape[1]) // packed.group
    if packed.order is not None:
        groups = _read_all(files, packed.order).astype(np.int64)
        if groups.size and (groups.min() < 0 or groups.max() >= packed.n_groups):
            detail = f"expected groups 0 to {packed.n_groups - 1}, found {groups.min()} to "
            raise _error("range", packed.order.name, detail + str(groups.max()))
    top = (1 << packed.bits) - 1
    return replace(
        packed,
        low=-int(zeros.max(initial=0)),
        high=top - int(zeros.min(initial=top)),
        is_half=bool((scales.astype(np.float16).astype(np.float32) == scales).all()),
        is_ordered=bool((np.diff(groups) >= 0).all()),
        unit=_unit(np.sort(groups)),
    )


def sorted_columns(groups: npt.NDArray[np.int64]) -> I32:
    """Give the columns in the order of their groups, those of a group as they come.

    Parameters
    ----------
    groups : (k,) int64
        Group of each column.

    Returns
    -------
    (k,) int32
        Column that stands at each place.
    """
    return np.argsort(groups, kind="stable").astype(np.int32)


def _unit(groups: npt.NDArray[np.int64]) -> int:
    """Columns that share a step throughout, see `Packed`."""
    borders = np.flatnonzero(np.diff(groups)) + 1
    if not borders.size:
        return 0
    return next((unit for unit in (128, 64, 32) if not (borders % unit).any()), -1)


def grouped_chunks(
    checkpoint: Checkpoint, info: TensorInfo, tile_rows: int = 32
) -> Iterator[GroupedRows]:
    """Decode a matrix exactly, a range of rows at a time.

    Parameters
    ----------
    checkpoint : Checkpoint
    info : TensorInfo
        A matrix of several tensors.
    tile_rows : int
        Ranges, but for the last, are multiples of it; itself a multiple of 32.

    Raises
    ------
    ModelFormatError
        ``truncated``.
    """
    packed = info.packed
    if packed is None:
        raise _error("layout", info.name, "is stored in one tensor")
    shape = (info.n_rows, info.n_cols)
    part = checkpoint.read_part
    scales = _scales(packed, shape, _view(packed.scales, part(packed.scales)))
    raw = None if packed.zeros is None else _view(packed.zeros, part(packed.zeros))
    zeros = _zeros(packed, shape, raw)
    groups = np.arange(shape[1]) // packed.group
    if packed.order is not None:
        groups = _view(packed.order, part(packed.order)).astype(np.int64)
    stored = _view(packed.codes, part(packed.codes))
    step = max(tile_rows, _CHUNK_WEIGHTS // shape[1] // tile_rows * tile_rows)
    for begin in range(0, shape[0], step):
        end = min(begin + step, shape[0])
        codes = _codes(packed, stored, shape, begin, end)
        yield GroupedRows(begin, end, codes, zeros[begin:end], scales[begin:end], groups)


def _codes(
    packed: Packed, stored: npt.NDArray[np.generic], shape: tuple[int, int], begin: int, end: int
) -> U8:
    """Give the codes of some rows, unsigned."""
    if packed.scheme == "int-quantized":
        return stored[begin:end].view(np.uint8) ^ np.uint8(128)
    words = stored.view("<u4")
    if packed.scheme == "gptq":  # packed along the input
        return bit_stream(words[:, begin:end].T, packed.bits, shape[1])
    if packed.scheme == "awq":  # packed along the output
        return awq_columns(words[:, begin // 8 : end // 8])
    return _words(packed, words[begin:end], shape[1])


def _words(packed: Packed, words: npt.NDArray[np.uint32], n: int) -> U8:
    return (padded_words if packed.padded else bit_stream)(words, packed.bits, n)


def _scales(packed: Packed, shape: tuple[int, int], raw: npt.NDArray[np.generic]) -> F32:
    """Give steps as (n_rows, n_groups)."""
    if packed.scales.dtype == "BF16":
        raw = (raw.astype(np.uint32) << np.uint32(16)).view("<f4")
    scales = raw.astype(np.float32)
    if packed.scheme in ("gptq", "awq"):
        return np.ascontiguousarray(scales.T)
    return np.broadcast_to(scales.reshape(-1, packed.n_groups), (shape[0], packed.n_groups))


def _zeros(
    packed: Packed, shape: tuple[int, int], raw: npt.NDArray[np.generic] | None
) -> npt.NDArray[np.int32]:
    """Give zero points as (n_rows, n_groups), for unsigned codes."""
    full = (shape[0], packed.n_groups)
    if raw is None:
        return np.broadcast_to(np.int32(1 << (packed.bits - 1)), full)
    if packed.scheme == "int-quantized":
        signed = raw.astype(np.int32).reshape(-1, packed.n_groups)
        return np.broadcast_to(signed + np.int32(128), full)
    words = raw.view("<u4")
    if packed.scheme == "gptq":
        zeros = bit_stream(words, packed.bits, shape[0]).T.astype(np.int32)
        return (zeros + 1) & ((1 << packed.bits) - 1) if packed.plus_one else zeros
    if packed.scheme == "awq":
        return awq_columns(words).astype(np.int32)
    return _words(packed, words.T, shape[0]).T.astype(np.int32)


def _read_all(files: list[SourceFile], part: Part) -> npt.NDArray[np.generic]:
    raw = files[part.file].read_at(part.offset, part.n_bytes, part.name)
    return _view(part, np.frombuffer(raw, np.uint8))


def _view(part: Part, raw: U8) -> npt.NDArray[np.generic]:
    return raw.view(_DTYPES[part.dtype]).reshape(part.shape)


def _error(kind: str, name: str, detail: str) -> ModelFormatError:
    return ModelFormatError(
        kind, shown(name), detail, advice="The file is damaged: fetch or convert it again."
    )
