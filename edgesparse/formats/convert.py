"""Rows of a file tensor into storage bytes: numpy's way and the native one, same bytes.

Both write rows ``[begin, end)`` into the storage of the whole tensor. `begin` is a multiple of 8;
`raw` holds exactly those rows, except for HF_T2, whose rows lie in stripes over the whole tensor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgesparse import _native
from edgesparse.checkpoint import (
    TensorInfo,
    affine_blocks,
    check_scales,
    dequantize,
    ternarize,
    ternary_codes,
)
from edgesparse.checkpoint.source import shown
from edgesparse.errors import ModelFormatError
from edgesparse.formats.bitslice import pack_ternary_slices
from edgesparse.formats.blocks import pack_blocks, requantize
from edgesparse.formats.choose import keeps_codes
from edgesparse.formats.floats import ELEMENT_DTYPE, pack_float
from edgesparse.formats.ternary import pack_ternary
from edgesparse.formats.weight import Format, Slices, storage_bytes

__all__ = ["NotUniform", "Target", "convert_native", "convert_numpy", "repack_isa"]

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]


class NotUniform(Exception):
    """The rows are not ternary with one scale each: the tensor needs another format."""


Convert: TypeAlias = "Callable[[Target, U8, int, int], None]"
"""convert(target, raw, begin, end): see the head of this file."""


@dataclass(frozen=True)
class Target:
    """Where a tensor goes.

    Attributes
    ----------
    info : TensorInfo
        The tensor in its file.
    format : Format
        Storage format.
    data : (storage_bytes,) uint8
        Storage of the whole tensor.
    scales : (n_rows,) or (0,) float32
        Ternary formats: filled row by row, 0 for a row of zeros.
    src_scale : float
        Scale of the whole tensor where it stands outside the rows, else 1.
    slices : Slices, optional
        How steps are stored: bs1 to bs4 only.
    """

    info: TensorInfo
    format: Format
    data: U8
    scales: F32
    src_scale: float = 1.0
    slices: Slices | None = None


def convert_numpy(target: Target, raw: U8, begin: int, end: int) -> None:
    """Convert rows with numpy.

    Raises
    ------
    NotUniform
        See there; the storage then holds garbage.
    ModelFormatError
        ``value`` for a scale or number that is not finite or an illegal code.
    """
    info, fmt = target.info, target.format
    shape = (end - begin, info.n_cols)
    if fmt is Format.BST:
        codes, scales = _ternary_rows(target, raw, shape)
        target.scales[begin:end] = np.where(codes.any(axis=1), scales, np.float32(0))
        packed = pack_ternary_slices(codes, target.scales[begin:end]).data
    elif fmt.is_ternary:
        codes, scales = _ternary_rows(target, raw, shape)
        packed = pack_ternary(codes, fmt)
        target.scales[begin:end] = np.where(codes.any(axis=1), scales, np.float32(0))
        if fmt.is_neuron_major:
            neurons = target.data.reshape(info.n_cols, -1)
            first = storage_bytes(fmt, begin, 1)
            neurons[:, first : first + len(packed) // info.n_cols] = packed.reshape(info.n_cols, -1)
            return
    elif fmt.is_block:
        packed = _block_rows(target, raw, shape)
    else:
        check_scales(info.type, raw, shape, name=info.name)
        packed = pack_float(raw.view(ELEMENT_DTYPE[fmt]).reshape(shape), fmt)
    first = storage_bytes(fmt, begin, info.n_cols)
    target.data[first : first + len(packed)] = packed


def _ternary_rows(
    target: Target, raw: U8, shape: tuple[int, int]
) -> tuple[npt.NDArray[np.int8], F32]:
    info = target.info
    if info.ternarize:
        check_scales(info.type, raw, shape, name=info.name)
        values = dequantize(info.type, raw, shape, name=info.name)
        codes, scale = ternarize(values, scale=target.src_scale)
        return codes, np.broadcast_to(scale, shape[:1])
    found = ternary_codes(info.type, raw, shape, target.src_scale, name=info.name)
    if found is None:
        raise NotUniform
    return found[0], np.broadcast_to(found[1], shape[:1])


def _block_rows(target: Target, raw: U8, shape: tuple[int, int]) -> U8:
    info, fmt = target.info, target.format
    blocks = affine_blocks(info.type, raw, shape, name=info.name)
    m = None
    if blocks is not None and keeps_codes(info.type, fmt.row_format):
        codes = blocks[0].reshape(shape)
        with np.errstate(over="ignore"):
            d = blocks[1].astype(np.float16)
            m = None if blocks[2] is None else blocks[2].astype(np.float16)
    else:
        check_scales(info.type, raw, shape, name=info.name)
        codes, d = requantize(dequantize(info.type, raw, shape, name=info.name), fmt.row_format)
    if not np.isfinite(d).all() or (m is not None and not np.isfinite(m).all()):
        raise _value_error(info, "a block is too large for a half-precision step")
    return pack_blocks(codes, d, m, fmt)


def convert_native(target: Target, raw: U8, begin: int, end: int) -> None:
    """Convert rows in C, without the interpreter lock; errors as in `convert_numpy`."""
    ffi, lib = _native.ffi(), _native.lib()
    scales = ffi.from_buffer("float[]", target.scales) if len(target.scales) else ffi.NULL
    source, storage = ffi.from_buffer("uint8_t[]", raw), ffi.from_buffer("uint8_t[]", target.data)
    job = ffi.new(
        "es_repack_job *",
        {
            "src_type": getattr(lib, f"ES_SRC_{target.info.type.name}"),
            "dst_format": int(target.format),
            "n_rows": target.info.n_rows,
            "k": target.info.n_cols,
            "row_begin": begin,
            "row_end": end,
            "src": source,
            "src_bytes": raw.nbytes,
            "dst": storage,
            "dst_bytes": target.data.nbytes,
            "scales": scales,
            "src_scale": target.src_scale,
            "isa": repack_isa(),
        },
    )
    status = int(lib.es_repack(job))
    if status == lib.ES_OK:
        return
    _raise(lib, status, target)


@functools.cache
def repack_isa() -> int:
    """Give the instruction set to repack with: the bytes are the same with each."""
    from edgesparse.executors.native import choose_isa, isa_names

    return isa_names()[choose_isa(None)]


def _raise(lib: Any, status: int, target: Target) -> None:
    if status == lib.ES_E_NOT_UNIFORM:
        raise NotUniform
    if status == lib.ES_E_VALUE:
        raise _value_error(
            target.info, "a scale or number is not finite or too large, or a code is illegal"
        )
    if status == lib.ES_E_MEMORY:
        raise MemoryError
    name, fmt = target.info.type.name, Format(target.format).name
    raise ValueError(f"{shown(target.info.name)}: repacking {name} to {fmt} failed ({status})")


def _value_error(info: TensorInfo, detail: str) -> ModelFormatError:
    return ModelFormatError("value", shown(info.name), detail, advice="The file is damaged.")
