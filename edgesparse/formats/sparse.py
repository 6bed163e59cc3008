"""Dense matrices without their zeros: the same codes, steps and products in fewer bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgesparse import _native
from edgesparse.checkpoint import TensorInfo
from edgesparse.choices import WEIGHTS
from edgesparse.errors import UsageError
from edgesparse.formats.blocks import unpack_blocks
from edgesparse.formats.choose import is_roundable
from edgesparse.formats.coo import coo_is_valid
from edgesparse.formats.dequantize import dequantize
from edgesparse.formats.floats import ELEMENT_DTYPE
from edgesparse.formats.memory import allocate
from edgesparse.formats.sparse_cost import SparseCost
from edgesparse.formats.two_of_four import is_two_of_four
from edgesparse.formats.weight import SPARSE, Format, Weight
from edgesparse.formats.without_zeros import expected_bytes, pack_sparse, sparse_is_valid

__all__ = [
    "SPARSE_OF",
    "as_sparse",
    "bytes_agree",
    "choose_sparse",
    "note_zeros",
    "parse_weights",
    "rounding",
    "sparse_bytes",
]

SPARSE_OF = {
    Format.Q8: (Format.BMP8, Format.NM8, Format.CSR),
    Format.Q4: (Format.BMP4, Format.NM4, Format.CSR),
}
"""The formats without zeros of dense ones that have any."""

_NO_SCALES = np.zeros(0, np.float32)
_SAMPLED_ROWS = 16
_PRUNED = 0.05
"""Share of zeros from which floats count as pruned."""
_PRUNED_CODES = 0.25
"""The same for codes: rounding to 4 bits makes 13 to 21 %."""


def sparse_bytes(weight: Weight, fmt: Format) -> int | None:
    """Count the bytes that `as_sparse` would take, without taking them; None: it cannot be done."""
    if _native.available():
        return _pack_native(weight, fmt, None)
    made = _pack_numpy(weight, fmt)
    return None if made is None else made.nbytes


def as_sparse(
    weight: Weight, fmt: Format, *, native: bool | None = None, n_bytes: int | None = None
) -> Weight:
    """Store a matrix in q8 or q4 without its zeros; products keep their bits.

    Parameters
    ----------
    weight : Weight
        In q8 or q4.
    fmt : Format
        One of `SPARSE_OF`.
    native : bool, optional
        Pack in C; by default when the compiled module is available. The bytes are the same.
    n_bytes : int, optional
        What `sparse_bytes` has said, so that it is not counted again.

    Raises
    ------
    UsageError
        Another format; nm8 or nm4 for a matrix that is not 2:4.
    MemoryBudgetError
        The result does not fit.
    """
    if fmt not in SPARSE_OF.get(weight.format, ()):
        name = weight.format.name.lower()
        raise UsageError(f"{name} cannot be stored as {fmt.name.lower()}.")
    data = None
    if not (_native.available() if native is None else native):
        data = _pack_numpy(weight, fmt)
    elif (size := n_bytes or _pack_native(weight, fmt, None)) is not None:
        (data,) = allocate([size], weight.name)
        _pack_native(weight, fmt, data)
    if data is None:
        raise UsageError(f"{weight.name} has more than two codes in four columns.")
    data.flags.writeable = False
    return Weight(
        weight.name,
        fmt,
        weight.n_rows,
        weight.k,
        data,
        _NO_SCALES,
        source=weight.source,
        note=weight.note,
        is_rounded=weight.is_rounded,
    )


def _pack_numpy(weight: Weight, fmt: Format) -> npt.NDArray[np.uint8] | None:
    codes, d, _ = unpack_blocks(weight)
    if fmt.is_two_of_four and not is_two_of_four(codes):
        return None
    return pack_sparse(codes, d, fmt)


def _pack_native(weight: Weight, fmt: Format, data: npt.NDArray[np.uint8] | None) -> int | None:
    """Pack in C, or count the bytes of it; None: the matrix is not 2:4."""
    ffi, lib = _native.ffi(), _native.lib()
    job = ffi.new(
        "es_bitmap_job *",
        {
            "src_format": int(weight.format),
            "dst_format": int(fmt),
            "n_rows": weight.n_rows,
            "k": weight.k,
            "src": ffi.from_buffer("uint8_t[]", weight.data),
            "src_bytes": weight.data.nbytes,
            "dst": ffi.NULL if data is None else ffi.from_buffer("uint8_t[]", data),
            "dst_bytes": 0 if data is None else data.nbytes,
        },
    )
    n_bytes = int(lib.es_bitmap_pack(job))
    if n_bytes == lib.ES_E_VALUE:
        return None
    if n_bytes < 0 or (data is not None and n_bytes != data.nbytes):
        raise ValueError(f"{weight.name}: packing {Format(weight.format).name} failed ({n_bytes})")
    return n_bytes


def bytes_agree(weight: Weight) -> bool:
    """Tell whether the bytes of a matrix without zeros agree with each other; in C where it can."""
    if not _native.available():
        return (coo_is_valid if weight.format is Format.COO else sparse_is_valid)(weight)
    ffi, lib = _native.ffi(), _native.lib()
    data = ffi.from_buffer("uint8_t[]", weight.data)
    record = {
        "format": int(weight.format),
        "n_rows": weight.n_rows,
        "k": weight.k,
        "data": data,
        "n_bytes": weight.data.nbytes,
    }
    return bool(lib.es_weight_is_valid(ffi.new("es_weight *", record)))


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
    if weights in ("auto", "dense", "slices", "blocks") or not is_roundable(info):
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
    zeros = _sampled_zeros(weight)
    if zeros < _PRUNED:
        return weight
    said = f"about {zeros:.0%} zeros, stored; --weights bmp8 rounds to q8 and leaves them out"
    return _noted(weight, said)


def _noted(weight: Weight, said: str) -> Weight:
    return replace(weight, note="; ".join(filter(None, (weight.note, said))))


def _sampled_zeros(weight: Weight) -> float:
    rows = np.unique(np.linspace(0, weight.n_rows - 1, _SAMPLED_ROWS).astype(np.intp))
    values = dequantize(weight, rows)
    return 1 - np.count_nonzero(values) / values.size


def choose_sparse(weight: Weight, weights: str, cost: SparseCost) -> Weight:
    """Store a matrix without its zeros where that is asked for or predicted to be faster.

    Parameters
    ----------
    weight : Weight
        In q8 or q4.
    weights : str
        One of `edgesparse.choices.WEIGHTS`: ``dense`` leaves it alone, the name of a format without
        zeros stores it so (2:4 only where the matrix is), the others do where `cost` predicts it to
        be faster.
    """
    if weight.format not in SPARSE_OF or weights == "dense":
        return weight
    n_weights, dense = weight.n_rows * weight.k, weight.format.name.lower()
    before = cost.microseconds(weight.format, weight.n_bytes, n_weights)
    forced = [fmt for fmt in SPARSE_OF[weight.format] if fmt.name.lower() == weights]
    sizes = _sizes(weight, forced or SPARSE_OF[weight.format])
    times = {fmt: cost.microseconds(fmt, size, n_weights) for fmt, size in sizes.items()}
    if not sizes:
        said = f"not 2:4, stays {dense}; --weights auto tries what else leaves zeros out"
        return _noted(weight, said)
    best = min(times, key=times.__getitem__)
    pays = cost.is_faster(best, sizes[best], weight.format, weight.n_bytes, n_weights)
    if not forced and not pays:
        zeros = _sampled_zeros(weight)
        if zeros < _PRUNED_CODES:
            return weight
        said = f"about {zeros:.0%} zeros, stored: {best.name.lower()} is not predicted to be faster"
        hint = "" if cost.measured else " ('edgesparse tune' measures)"
        return _noted(weight, said + hint)
    made = as_sparse(weight, best, n_bytes=sizes[best])
    ratio = f"{weight.n_bytes / made.n_bytes:.2f}x fewer bytes than {dense}"
    said = f"zeros left out, {ratio}, " + (
        "as asked" if forced else f"{before / times[best]:.2f}x faster"
    )
    return _noted(made, said)


def _sizes(weight: Weight, formats: Sequence[Format]) -> dict[Format, int]:
    """Count the bytes of formats that can hold a matrix; csr only where it may be the smallest."""
    sizes: dict[Format, int] = {}
    for fmt in formats:
        if fmt is Format.CSR and sizes and not _may_be_smallest(weight, sizes):
            continue
        size = sparse_bytes(weight, fmt)
        if size is not None:
            sizes[fmt] = size
    return sizes


def _may_be_smallest(weight: Weight, sizes: Mapping[Format, int]) -> bool:
    """Guess from the bytes of a bitmap whether csr has fewer."""
    bitmap = next(fmt for fmt in sizes if not fmt.is_two_of_four)
    full, empty = (expected_bytes(bitmap, weight.n_rows, weight.k, z) for z in (0.0, 1.0))
    zeros = 1 - (sizes[bitmap] - empty) / (full - empty)
    return expected_bytes(Format.CSR, weight.n_rows, weight.k, zeros) < min(sizes.values())
