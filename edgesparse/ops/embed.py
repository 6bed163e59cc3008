"""Embedding lookup."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.dequantize import dequantize
from edgesparse.formats.weight import Weight

__all__ = ["embed"]


def embed(
    weight: Weight, tokens: npt.NDArray[np.int32], scale: float = 1.0
) -> npt.NDArray[np.float32]:
    """Return the dequantised rows of `tokens`, times `scale`; shape (n_tokens, k)."""
    rows = dequantize(weight, tokens.astype(np.int64))
    return rows if scale == 1.0 else rows * np.float32(scale)
