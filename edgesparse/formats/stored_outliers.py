"""Outliers that a file holds in the bytes of csr: read and checked, not changed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint import Checkpoint, TensorInfo
from edgesparse.checkpoint.source import shown
from edgesparse.errors import ModelFormatError
from edgesparse.formats.sparse import bytes_agree
from edgesparse.formats.weight import Format, Weight

__all__ = ["read_outliers"]


def read_outliers(checkpoint: Checkpoint, info: TensorInfo, data: npt.NDArray[np.uint8]) -> None:
    """Fill `data` with a side matrix.

    Raises
    ------
    ModelFormatError
        ``value``: lengths, words, columns or steps are not those of csr; ``truncated``.
    """
    checkpoint.read_into(info.name, data)
    none = np.zeros(0, np.float32)
    if not bytes_agree(Weight(info.name, Format.CSR, info.n_rows, info.n_cols, data, none)):
        detail = "lengths, words, columns or steps contradict each other"
        raise ModelFormatError("value", shown(info.name), detail, advice="The file is damaged.")
