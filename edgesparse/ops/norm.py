"""RMSNorm (Zhang and Sennrich, 2019)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.ops.numerics import lanes16

__all__ = ["rmsnorm"]


def rmsnorm(
    x: npt.NDArray[np.float32], weight: npt.NDArray[np.float32], eps: float
) -> npt.NDArray[np.float32]:
    """Normalise the last axis: ``(x / sqrt(mean(x²) + eps)) * weight``.

    Parameters
    ----------
    x : float32 ndarray, shape (..., n)
    weight : float32 ndarray, shape (n,)
    eps : float
    """
    mean = lanes16(x * x) / np.float32(x.shape[-1])
    r = np.float32(1) / np.sqrt(mean + np.float32(eps))
    return np.asarray((x * r[..., None]) * weight, np.float32)
