"""Outliers beside a matrix in few bits, in a GGUF file: our extension (formats/README.md).

The side matrix of ``X.weight`` is a tensor ``X.outliers`` of type I8 with one dimension, its bytes
those of the format csr. Arrays under ``edgesparse.outliers.`` give names and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgesparse.checkpoint.gguf_header import MetadataValue
from edgesparse.checkpoint.source import shown
from edgesparse.checkpoint.strings import StringArray
from edgesparse.checkpoint.types import TensorInfo, TensorType
from edgesparse.errors import ModelFormatError

__all__ = ["VERSION", "find_outliers", "outliers_name"]

VERSION = 1
_PREFIX = "edgesparse.outliers."
_MAX_DIMENSION = 2**31 - 1
_DENSEST = 4096
"""Numbers that a byte may stand for at most: an empty block of 512 takes two bytes."""


def outliers_name(weight: str) -> str:
    """Return the name of the side matrix of ``X.weight``."""
    return weight.removesuffix(".weight") + ".outliers"


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
    version = metadata.get(_PREFIX + "version")
    if version is None:
        return tensors
    if version != VERSION:
        detail = f"expected {VERSION}, found {shown(version)}"
        raise _error("version", "version", detail, path, "Use a newer edgesparse for this file.")
    names = metadata.get(_PREFIX + "names")
    if not isinstance(names, StringArray):
        raise _error("missing", "names", f"expected strings, found {shown(names)}", path)
    rows, columns = (_numbers(metadata, field, len(names), path) for field in ("rows", "columns"))
    found = dict(tensors)
    for name, n_rows, n_columns in zip(names, rows, columns, strict=True):
        found[name] = _described(tensors.get(name), name, (n_rows, n_columns), path)
    return found


def _numbers(metadata: Mapping[str, MetadataValue], field: str, n: int, path: str) -> list[int]:
    values = metadata.get(_PREFIX + field)
    if isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.integer):
        values = values.tolist()
    if not isinstance(values, list) or len(values) != n:
        size = len(values) if isinstance(values, list) else shown(values)
        raise _error("layout", field, f"expected {n} whole numbers, found {size}", path)
    return values


def _described(info: TensorInfo | None, name: str, shape: tuple[int, int], path: str) -> TensorInfo:
    if info is None:
        raise _error("missing", "names", f"there is no tensor {shown(name)}", path)
    if not name.endswith(".outliers") or info.type is not TensorType.I8 or len(info.shape) != 1:
        detail = f"expected X.outliers, I8, one dimension, found {info.type.name} {info.shape}"
        raise ModelFormatError("layout", shown(name), detail, path=shown(path, 400))
    if not all(1 <= size <= _MAX_DIMENSION for size in shape):
        raise _error("range", "rows", f"{shown(name)}: {shape} is no shape", path)
    if shape[0] * shape[1] > _DENSEST * info.n_bytes:
        detail = f"{info.n_bytes} bytes cannot stand for {shape[0]} x {shape[1]} numbers"
        raise ModelFormatError("layout", shown(name), detail, path=shown(path, 400))
    return replace(info, shape=shape, has_outliers=True)


def _error(
    kind: str, field: str, detail: str, path: str, advice: str = "The file is damaged."
) -> ModelFormatError:
    return ModelFormatError(kind, _PREFIX + field, detail, path=shown(path, 400), advice=advice)
