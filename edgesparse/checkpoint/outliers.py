"""Outliers beside a matrix in few bits, in a GGUF file: our extension (formats/README.md).

The side matrix of ``X.weight`` is a tensor ``X.outliers`` of type I8 with one dimension, its bytes
those of the format csr. Arrays under ``edgesparse.outliers.`` give names and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgesparse.checkpoint.extension import MAX_DIMENSION, Extension
from edgesparse.checkpoint.gguf_header import MetadataValue
from edgesparse.checkpoint.source import shown
from edgesparse.checkpoint.types import TensorInfo

__all__ = ["OUTLIERS", "VERSION", "find_outliers", "outliers_name"]

VERSION = 1
OUTLIERS = ".outliers"
"""What names of side matrices end in."""
_PREFIX = "edgesparse.outliers."
_DENSEST = 4096
"""Numbers that a byte may stand for at most: an empty block of 512 takes two bytes."""


def outliers_name(weight: str) -> str:
    """Return the name of the side matrix of ``X.weight``."""
    return weight.removesuffix(".weight") + OUTLIERS


def find_outliers(
    metadata: Mapping[str, MetadataValue], tensors: dict[str, TensorInfo], path: str
) -> dict[str, TensorInfo]:
    """Give tensors that hold outliers their shape.

    Raises
    ------
    ModelFormatError
        ``version``, ``missing``, ``layout`` or ``range``: arrays that do not agree with each other
        or with the tensors.
    """
    extension = Extension(_PREFIX, VERSION, path)
    found = dict(tensors)
    for name, shape in extension.records(metadata, ("rows", "columns")):
        info = extension.tensor(tensors, name, suffix=OUTLIERS)
        found[name] = _described(extension, info, (shape[0], shape[1]))
    return found


def _described(extension: Extension, info: TensorInfo, shape: tuple[int, int]) -> TensorInfo:
    if not all(1 <= size <= MAX_DIMENSION for size in shape):
        raise extension.error("range", "rows", f"{shown(info.name)}: {shape} is no shape")
    if shape[0] * shape[1] > _DENSEST * info.n_bytes:
        detail = f"{info.n_bytes} bytes cannot stand for {shape[0]} x {shape[1]} numbers"
        raise extension.layout_error(info.name, detail)
    return replace(info, shape=shape, has_outliers=True)
