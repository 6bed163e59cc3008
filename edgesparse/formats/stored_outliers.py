"""Outliers that a file holds in the bytes of csr: read and checked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint import Checkpoint, TensorInfo
from edgesparse.checkpoint.source import shown
from edgesparse.errors import ModelFormatError
from edgesparse.formats.coo import MAX_COLUMNS
from edgesparse.formats.sparse import bytes_agree
from edgesparse.formats.weight import BITMAP_SLACK, BITMAP_TILE, BLOCK, Format, Weight

__all__ = ["about_bytes", "read_outliers"]


def read_outliers(checkpoint: Checkpoint, info: TensorInfo, data: npt.NDArray[np.uint8]) -> None:
    """Fill `data` with a side matrix.

    Raises
    ------
    ModelFormatError
        ``range``: too many columns; ``value``: lengths, words, columns or steps are not those of
        csr; ``truncated``.
    """
    if info.n_cols > MAX_COLUMNS:
        detail = f"outliers of rows of {info.n_cols} numbers; {MAX_COLUMNS} at most"
        raise ModelFormatError("range", shown(info.name), detail)
    checkpoint.read_into(info.name, data)
    none = np.zeros(0, np.float32)
    if not bytes_agree(Weight(info.name, Format.CSR, info.n_rows, info.n_cols, data, none)):
        detail = "lengths, words, columns or steps contradict each other"
        raise ModelFormatError("value", shown(info.name), detail, advice="The file is damaged.")


def about_bytes(info: TensorInfo) -> int:
    """Estimate what a side matrix takes as coo, if most numbers are alone in their row of a block.

    Such a number takes 4 bytes in csr, and 7 in coo.
    """
    n_tiles, n_blocks = -(-info.n_rows // BITMAP_TILE), -(-info.n_cols // BLOCK)
    heads = 8 * (n_tiles + 1) + 6 * n_tiles * n_blocks + BITMAP_SLACK
    return 4 * (n_tiles + 1) + 7 * max(0, info.n_bytes - heads) // 4
