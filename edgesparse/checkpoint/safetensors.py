"""The safetensors container: u64 header length, JSON header, data.

The header maps each name to ``{dtype, shape, data_offsets: [begin, end)}``, offsets relative to
the data; the intervals must tile the data exactly. Whatever the official reader refuses is
refused here. Stricter than it: at most 262,144 tensors and rank 8, ``__metadata__`` of 1 MiB.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from edgesparse.checkpoint.source import SourceFile, shown
from edgesparse.checkpoint.strict_json import parse_json
from edgesparse.checkpoint.types import MAX_TENSOR_BYTES, TensorType
from edgesparse.errors import ModelFormatError

__all__ = ["DTYPES", "SafeTensor", "read_safetensors"]

MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 262_144
MAX_RANK = 8
MAX_METADATA_BYTES = 1 << 20

_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E8M0": 8,
    "C64": 64,
}
DTYPES = {
    name: TensorType[name] for name in ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")
}
"""The dtypes that are tensor types of their own; U8 is packed data, see ``hf_folder.py``."""


class SafeTensor(NamedTuple):
    """One checked record; `offset` is absolute."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int


def read_safetensors(source: SourceFile) -> list[SafeTensor]:
    """Read and check the header of one file.

    Returns
    -------
    list of SafeTensor
        In data order.

    Raises
    ------
    ModelFormatError
        With any kind but ``path``.
    """
    length = int.from_bytes(source.read_at(0, 8, "header length"), "little")
    if length > MAX_HEADER_BYTES:
        raise _error(source, "limit", "header length", f"{length} bytes, at most 100,000,000")
    if length > source.n_bytes - 8:
        detail = f"{length} bytes, the file has {source.n_bytes - 8} behind it"
        raise _error(source, "truncated", "header length", detail)
    text = source.read_at(8, length, "header")
    if not text.startswith(b"{"):
        raise _error(source, "value", "header", "does not begin with {")
    header = parse_json(
        text,
        "header",
        source.path,
        max_depth=4,
        max_containers=3 * MAX_TENSORS + 2,
        counts_only=True,
    )
    if "__metadata__" in header:
        _check_metadata(source, header.pop("__metadata__"))
    if len(header) > MAX_TENSORS:
        raise _error(source, "limit", "header", f"{len(header)} tensors, at most {MAX_TENSORS}")
    data_start = 8 + length
    tensors = [_record(source, name, value, data_start) for name, value in header.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.n_bytes))
    expected = data_start
    for tensor in tensors:
        if tensor.offset != expected:
            what = "overlaps the tensor before it" if tensor.offset < expected else "follows a hole"
            raise _error(source, "layout", tensor.name, what)
        expected += tensor.n_bytes
    if expected > source.n_bytes:
        detail = f"the tensors end at {expected}, the file at {source.n_bytes}"
        raise _error(source, "truncated", "data", detail)
    if expected < source.n_bytes:
        detail = f"{source.n_bytes - expected} bytes behind the last tensor"
        raise _error(source, "layout", "data", detail)
    return tensors


def _check_metadata(source: SourceFile, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _error(source, "type", "__metadata__", "must map strings to strings")
    if sum(len(key) + len(value) for key, value in metadata.items()) > MAX_METADATA_BYTES:
        raise _error(source, "limit", "__metadata__", "more than 1 MiB")


def _record(source: SourceFile, name: str, value: Any, data_start: int) -> SafeTensor:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _error(source, "type", name, "must have exactly dtype, shape and data_offsets")
    dtype = value["dtype"]
    bits = _BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise _error(source, "type", name, f"unknown dtype {shown(dtype)}")
    shape, offsets = _counts(value["shape"]), _counts(value["data_offsets"])
    if shape is None or offsets is None or len(offsets) != 2:
        raise _error(source, "type", name, "shape and data_offsets must be lists of integers")
    if len(shape) > MAX_RANK:
        raise _error(source, "limit", name, f"rank {len(shape)}, at most {MAX_RANK}")
    n_bits = bits
    for dim in shape:
        n_bits *= dim
        if n_bits > 8 * MAX_TENSOR_BYTES:
            raise _error(source, "overflow", name, f"shape {shown(shape)}")
    begin, end = offsets
    if begin > end:
        raise _error(source, "range", name, f"data_offsets {begin}, {end} run backwards")
    if n_bits % 8 or n_bits // 8 != end - begin:
        detail = f"{dtype} {shown(shape)} needs {n_bits / 8:g} bytes, data_offsets {end - begin}"
        raise _error(source, "layout", name, detail)
    return SafeTensor(name, dtype, shape, data_start + begin, end - begin)


def _counts(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        return None
    return tuple(value)


def _error(source: SourceFile, kind: str, field: str, detail: str) -> ModelFormatError:
    return ModelFormatError(
        kind,
        shown(field),
        detail,
        path=shown(source.path, 400),
        advice="The file is damaged or incomplete: fetch it again.",
    )
