"""Bit slices in a GGUF file: our extension, described in `edgesparse/formats/README.md`.

A matrix of 1 to 4 bits is a tensor of type I8 with one dimension, its bytes those of the formats
bs1 to bs4. Arrays under ``edgesparse.slices.`` say what the bytes are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from edgesparse.checkpoint.extension import MAX_DIMENSION, Extension
from edgesparse.checkpoint.gguf_header import MetadataValue
from edgesparse.checkpoint.source import shown
from edgesparse.checkpoint.types import MAX_TENSOR_BYTES, SliceLayout, TensorInfo

__all__ = ["VERSION", "find_slices", "slice_bytes"]

VERSION = 1
_PREFIX = "edgesparse.slices."
_TILE, _BLOCK = 64, 32


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
    extension = Extension(_PREFIX, VERSION, path)
    found = dict(tensors)
    for name, numbers in extension.records(metadata, _Record._fields):
        info = extension.tensor(tensors, name)
        found[name] = _described(extension, info, _Record(*numbers))
    return found


def _described(extension: Extension, info: TensorInfo, record: _Record) -> TensorInfo:
    name = info.name
    for field, low, high in (
        ("rows", 1, MAX_DIMENSION),
        ("columns", 1, MAX_DIMENSION),
        ("bits", 1, 4),
        ("zeros", 0, 2),
        ("wide", 0, 1),
    ):
        value = getattr(record, field)
        if not low <= value <= high:
            detail = f"{shown(name)}: {value} is not {low} to {high}"
            raise extension.error("range", field, detail)
    if record.group not in (0, 32, 64, 128):
        detail = f"{shown(name)}: {record.group} is none of 0, 32, 64 and 128"
        raise extension.error("range", "group", detail)
    layout = SliceLayout(record.bits, record.group, record.zeros, bool(record.wide))
    expected = slice_bytes(record.rows, record.columns, layout)
    if expected > MAX_TENSOR_BYTES or info.n_bytes != expected:
        detail = f"expected {expected} bytes of {record.rows} x {record.columns} numbers, "
        raise extension.layout_error(name, f"{detail}found {info.n_bytes}")
    return replace(info, shape=(record.rows, record.columns), slices=layout)
