"""Residual addition."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["add"]


def add(dst: npt.NDArray[np.float32], src: npt.NDArray[np.float32]) -> None:
    """Add `src` to `dst` in place."""
    np.add(dst, src, out=dst)
