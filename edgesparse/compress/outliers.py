"""Outliers: the few numbers of a matrix that a low-bit grid would lose most by.

SqueezeLLM (arXiv 2306.07629) and SpQR (arXiv 2306.03078) keep them in a sparse side matrix; the
rest then spans less, so its steps become finer. Here the side matrix is csr: 8-bit codes with a
half step for every 32 columns of a row. A number that is alone among them is kept as a half.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgesparse.errors import UsageError
from edgesparse.formats.blocks import requantize_q8
from edgesparse.formats.weight import BLOCK

__all__ = ["Outliers", "parse_share", "take_outliers"]

Float32 = npt.NDArray[np.float32]

MOST = 0.1
"""Share above which a bitmap or a dense matrix is smaller."""
_LARGEST_HALF = 65504.0


class Outliers(NamedTuple):
    """Numbers of a side matrix.

    Attributes
    ----------
    codes : (n_rows, k) int8
    steps : (n_rows, ceil(k / 32)) float16
    """

    codes: npt.NDArray[np.int8]
    steps: npt.NDArray[np.float16]

    @property
    def values(self) -> Float32:
        """The numbers, shape (n_rows, k)."""
        steps = np.repeat(self.steps.astype(np.float32), BLOCK, axis=1)
        return self.codes * steps[:, : self.codes.shape[1]]


def parse_share(text: str) -> float:
    """Read ``0.5%`` or ``0.005``.

    Raises
    ------
    UsageError
        It is no share, or above 10 %.
    """
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= MOST:
        raise UsageError(
            f"--outliers {text} is no share of 0 to {MOST:.0%}.", advice="Usual is 0.5%."
        )
    return share


def take_outliers(weight: Float32, share: float, size: Float32 | None) -> tuple[Float32, Outliers]:
    """Split a matrix into what is left and its outliers.

    Parameters
    ----------
    weight : (n_rows, k) float32
    share : float
        Part of all numbers: those with the largest ``|w| * size``.
    size : (k,) float32 or None
        Root mean square of every input, where a text has told it.

    Returns
    -------
    rest : (n_rows, k) float32
        0 where an outlier was.
    outliers : Outliers
    """
    n = round(share * weight.size)
    score = (np.abs(weight) if size is None else np.abs(weight) * size).reshape(-1)
    chosen = np.zeros(weight.size, np.bool_)
    if n:
        chosen[np.argpartition(score, weight.size - n)[weight.size - n :]] = True
    is_outlier = chosen.reshape(weight.shape)
    side = np.where(is_outlier, weight, np.float32(0))
    codes, steps = requantize_q8(side)
    n_blocks = steps.shape[1]
    padded = np.zeros((len(weight), n_blocks * BLOCK), np.float32)
    padded[:, : weight.shape[1]] = side
    blocks = padded.reshape(len(weight), n_blocks, BLOCK)
    largest = np.abs(blocks).max(axis=2)
    alone = (np.count_nonzero(blocks, axis=2) == 1) & (largest <= _LARGEST_HALF)
    steps = np.where(alone, np.where(alone, largest, 0).astype(np.float16), steps)
    single = np.repeat(alone, BLOCK, axis=1)[:, : weight.shape[1]]
    codes = np.where(single, np.sign(side), codes).astype(np.int8)
    # What the side matrix cannot hold (a step of 0) stays where it was.
    rest = np.where(is_outlier & (codes != 0), np.float32(0), weight)
    return rest, Outliers(codes, steps.astype(np.float16))
