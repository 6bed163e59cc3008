"""Dense matrices as bitmaps: the same codes, steps and products, without the zeros."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgesparse import _native
from edgesparse.checkpoint import TensorInfo
from edgesparse.errors import UsageError
from edgesparse.formats.bitmap import pack_bitmap
from edgesparse.formats.blocks import unpack_blocks
from edgesparse.formats.choose import is_roundable
from edgesparse.formats.dequantize import dequantize
from edgesparse.formats.floats import ELEMENT_DTYPE
from edgesparse.formats.memory import allocate
from edgesparse.formats.sparse_cost import SparseCost
from edgesparse.formats.weight import SPARSE, Format, Weight

__all__ = [
    "SPARSE_OF",
    "WEIGHTS",
    "as_bitmap",
    "bitmap_bytes",
    "choose_sparse",
    "note_zeros",
    "parse_weights",
    "rounding",
]

SPARSE_OF = {dense: sparse for sparse, dense in SPARSE.items()}
"""The format without zeros of dense ones that have one."""

WEIGHTS = ("auto", "dense", "q8", "q4", "bmp8", "bmp4")
"""Names that command lines and `load` take for the storage of a model's layers."""

_NO_SCALES = np.zeros(0, np.float32)
_SAMPLED_ROWS = 16
_PRUNED = 0.05
"""Share of zeros from which floats count as pruned."""
_MARGIN = 0.05
"""Share by which a bitmap must be predicted to be faster."""


def bitmap_bytes(weight: Weight) -> int:
    """Count the bytes that `as_bitmap` would take, without taking them."""
    if not _native.available():
        return as_bitmap(weight).n_bytes
    return _pack_native(weight, None)


def as_bitmap(weight: Weight, *, native: bool | None = None, n_bytes: int | None = None) -> Weight:
    """Store a matrix in q8 or q4 without its zeros, as bmp8 or bmp4; products keep their bits.

    Parameters
    ----------
    weight : Weight
        In q8 or q4.
    native : bool, optional
        Pack in C; by default when the compiled module is available. The bytes are the same.
    n_bytes : int, optional
        What `bitmap_bytes` has said, so that it is not counted again.

    Raises
    ------
    UsageError
        Another format.
    MemoryBudgetError
        The result does not fit.
    """
    if weight.format not in SPARSE_OF:
        raise UsageError(f"{weight.format.name.lower()} cannot be stored as a bitmap.")
    if _native.available() if native is None else native:
        (data,) = allocate([n_bytes or _pack_native(weight, None)], weight.name)
        _pack_native(weight, data)
    else:
        codes, d, _ = unpack_blocks(weight)
        data = pack_bitmap(codes, d, SPARSE_OF[weight.format])
    data.flags.writeable = False
    return Weight(
        weight.name,
        SPARSE_OF[weight.format],
        weight.n_rows,
        weight.k,
        data,
        _NO_SCALES,
        source=weight.source,
        note=weight.note,
        is_rounded=weight.is_rounded,
    )


def _pack_native(weight: Weight, data: np.ndarray[tuple[int], np.dtype[np.uint8]] | None) -> int:
    """Pack in C, or count the bytes of it."""
    ffi, lib = _native.ffi(), _native.lib()
    job = ffi.new(
        "es_bitmap_job *",
        {
            "src_format": int(weight.format),
            "n_rows": weight.n_rows,
            "k": weight.k,
            "src": ffi.from_buffer("uint8_t[]", weight.data),
            "src_bytes": weight.data.nbytes,
            "dst": ffi.NULL if data is None else ffi.from_buffer("uint8_t[]", data),
            "dst_bytes": 0 if data is None else data.nbytes,
        },
    )
    n_bytes = int(lib.es_bitmap_pack(job))
    if n_bytes < 0 or (data is not None and n_bytes != data.nbytes):
        raise ValueError(f"{weight.name}: packing {Format(weight.format).name} failed ({n_bytes})")
    return n_bytes


def parse_weights(name: str) -> str:
    """Return `name` if there is such a choice.

    Raises
    ------
    UsageError
        There is none.
    """
    if name not in WEIGHTS:
        raise UsageError(f"there are no weights {name!r}.", advice=f"Use {', '.join(WEIGHTS)}.")
    return name


def rounding(info: TensorInfo, weights: str) -> Format | None:
    """Give the format that a layer's matrix is to be rounded to; None: as the file has it.

    Types whose numbers cannot be rounded (ternary, 4-bit codes) stay as they are.
    """
    if weights in ("auto", "dense") or not is_roundable(info):
        return None
    fmt = Format[weights.upper()]
    return SPARSE.get(fmt, fmt)


def note_zeros(weight: Weight) -> Weight:
    """Add to a float matrix's note that many of its numbers are 0, as in pruned checkpoints.

    A few rows, evenly spaced, are looked at. Below 5 % nothing is said: floats are rarely 0 by
    themselves.
    """
    if weight.format not in ELEMENT_DTYPE:
        return weight
    rows = np.unique(np.linspace(0, weight.n_rows - 1, _SAMPLED_ROWS).astype(np.intp))
    values = dequantize(weight, rows)
    zeros = 1 - np.count_nonzero(values) / values.size
    if zeros < _PRUNED:
        return weight
    said = f"about {zeros:.0%} zeros, stored; --weights bmp8 rounds to q8 and leaves them out"
    return replace(weight, note="; ".join(filter(None, (weight.note, said))))


def choose_sparse(weight: Weight, weights: str, cost: SparseCost) -> Weight:
    """Store a matrix without its zeros where that is asked for or predicted to be faster.

    Parameters
    ----------
    weight : Weight
        In q8 or q4.
    weights : str
        One of `WEIGHTS`: ``dense`` leaves it alone, ``bmp8`` and ``bmp4`` turn q8 and q4 into
        bitmaps, the others do where `cost` predicts it to be faster.
    """
    sparse = SPARSE_OF.get(weight.format)
    if sparse is None or weights == "dense":
        return weight
    n_weights, forced = weight.n_rows * weight.k, weights == sparse.name.lower()
    n_bytes = bitmap_bytes(weight)
    before = cost.microseconds(weight.format, weight.n_bytes, n_weights)
    after = cost.microseconds(sparse, n_bytes, n_weights)
    if not forced and after >= (1 - _MARGIN) * before:
        return weight
    made = as_bitmap(weight, n_bytes=n_bytes)
    ratio = f"{weight.n_bytes / made.n_bytes:.2f}x fewer bytes than {weight.format.name.lower()}"
    said = f"zeros left out, {ratio}, " + (
        "as asked" if forced else f"{before / after:.2f}x faster"
    )
    return replace(made, note="; ".join(filter(None, (weight.note, said))))
