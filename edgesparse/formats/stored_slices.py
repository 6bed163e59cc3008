"""Bit slices that a file holds in the bytes of bs1 to bs4: checked, and by columns if wanted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint import Checkpoint, TensorInfo
from edgesparse.checkpoint.source import shown
from edgesparse.errors import ModelFormatError
from edgesparse.formats.bitslice import unpack_heads
from edgesparse.formats.turned_slices import fill_by_columns
from edgesparse.formats.weight import Format, Slices, Weight, Zeros

__all__ = ["read_slices", "slices_of"]


def slices_of(info: TensorInfo) -> Slices | None:
    """Return how a tensor's steps are stored, or None if it holds no bit slices."""
    if info.slices is None:
        return None
    return Slices(info.slices.group, Zeros(info.slices.zeros), info.slices.wide)


def read_slices(
    checkpoint: Checkpoint, info: TensorInfo, fmt: Format, data: npt.NDArray[np.uint8]
) -> None:
    """Fill `data` with a matrix in `fmt`: the file's format, or the one by columns.

    Raises
    ------
    ModelFormatError
        ``value``: a step or offset is not finite; ``truncated``.
    """
    slices = slices_of(info)
    if slices is None or info.slices is None:
        raise ValueError(f"{shown(info.name)} holds no bit slices")
    stored = np.empty(info.n_bytes, np.uint8) if fmt.is_column else data
    checkpoint.read_into(info.name, stored)
    planes = Format(Format.BS1 + info.slices.bits - 1)
    none = np.zeros(0, np.float32)
    weight = Weight(info.name, planes, info.n_rows, info.n_cols, stored, none, slices=slices)
    if not all(np.isfinite(part).all() for part in unpack_heads(weight)):
        detail = "a step or an offset is not finite"
        raise ModelFormatError("value", shown(info.name), detail, advice="The file is damaged.")
    if fmt.is_column:
        fill_by_columns(data, weight)
