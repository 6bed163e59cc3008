"""Bit slices in a GGUF file: our extension, described in `edgesparse/formats/README.md`.

A matrix of 1 to 4 bits is a tensor of type I8 with one dimension, its bytes those of the formats
bs1 to bs4. Arrays under ``edgesparse.slices.`` say what the bytes are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from edgesparse.checkpoint.gguf_header import MetadataValue
from edgesparse.checkpoint.source import shown
from edgesparse.checkpoint.strings import StringArray
from edgesparse.checkpoint.types import MAX_TENSOR_BYTES, SliceLayout, TensorInfo, TensorType
from edgesparse.errors import ModelFormatError

__all__ = ["VERSION", "find_slices", "slice_bytes"]

VERSION = 1
_PREFIX = "edgesparse.slices."
_TILE, _BLOCK = 64, 32
_MAX_DIMENSION = 2**31 - 1


class _Record(NamedTuple):
    """What the arrays say about one matrix."""

    rows: int
    columns: int
    bits: int
    group: int
    zeros: int
    wide: int


def slice_bytes(n_rows: int, k: int, layout: SliceLayout) -> int:
    """Bytes of a matrix: heads of groups and planes of blocks, tiles of 64 rows."""
    n_blocks = -(-k // _BLOCK)
    n_groups = -(-k // layout.group) if layout.group else 1
    element = 4 if layout.wide else 2
    head = _TILE * (element + (0, 1, element)[layout.zeros])
    return -(-n_rows // _TILE) * (n_groups * head + n_blocks * layout.bits * 256)


def find_slices(
    metadata: Mapping[str, MetadataValue], tensors: dict[str, TensorInfo], path: str
) -> dict[str, TensorInfo]:
    """Give tensors that hold bit slices their shape and layout.

    Raises
    ------
    ModelFormatError
        ``version``, ``missing``, ``layout``, ``range`` or ``value``: arrays that do not agree with
        each other or with the tensors.
    """
    version = metadata.get(_PREFIX + "version")
    if version is None:
        return tensors
    if version != VERSION:
        detail = f"expected {VERSION}, found {shown(version)}"
        raise _error("version", "version", detail, path, "Use a newer edgesparse for this file.")
    names = metadata.get(_PREFIX + "names")
    if not isinstance(names, StringArray):
        raise _error("missing", "names", f"expected strings, found {shown(names)}", path)
    fields = {field: _numbers(metadata, field, len(names), path) for field in _Record._fields}
    found = dict(tensors)
    for i, name in enumerate(names):
        record = _Record(**{field: int(values[i]) for field, values in fields.items()})
        found[name] = _described(tensors.get(name), name, record, path)
    return found


def _numbers(metadata: Mapping[str, MetadataValue], field: str, n: int, path: str) -> list[int]:
    values = metadata.get(_PREFIX + field)
    if isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.integer):
        values = values.tolist()
    if not isinstance(values, list) or len(values) != n:
        size = len(values) if isinstance(values, list) else shown(values)
        raise _error("layout", field, f"expected {n} whole numbers, found {size}", path)
    return values


def _described(info: TensorInfo | None, name: str, record: _Record, path: str) -> TensorInfo:
    if info is None:
        raise _error("missing", "names", f"there is no tensor {shown(name)}", path)
    if info.type is not TensorType.I8 or len(info.shape) != 1:
        detail = f"expected I8 with one dimension, found {info.type.name} {info.shape}"
        raise ModelFormatError("layout", shown(name), detail, path=shown(path, 400))
    for field, low, high in (
        ("rows", 1, _MAX_DIMENSION),
        ("columns", 1, _MAX_DIMENSION),
        ("bits", 1, 4),
        ("zeros", 0, 2),
        ("wide", 0, 1),
    ):
        value = getattr(record, field)
        if not low <= value <= high:
            raise _error("range", field, f"{shown(name)}: {value} is not {low} to {high}", path)
    if record.group not in (0, 32, 64, 128):
        detail = f"{shown(name)}: {record.group} is none of 0, 32, 64 and 128"
        raise _error("range", "group", detail, path)
    layout = SliceLayout(record.bits, record.group, record.zeros, bool(record.wide))
    expected = slice_bytes(record.rows, record.columns, layout)
    if expected > MAX_TENSOR_BYTES or info.n_bytes != expected:
        detail = f"expected {expected} bytes of {record.rows} x {record.columns} numbers, "
        raise ModelFormatError(
            "layout", shown(name), f"{detail}found {info.n_bytes}", path=shown(path, 400)
        )
    return replace(info, shape=(record.rows, record.columns), slices=layout)


def _error(
    kind: str, field: str, detail: str, path: str, advice: str = "The file is damaged."
) -> ModelFormatError:
    return ModelFormatError(kind, _PREFIX + field, detail, path=shown(path, 400), advice=advice)
