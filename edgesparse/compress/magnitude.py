"""Magnitude pruning: the smallest weights of a matrix become zero. Needs no text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.compress.patterns import Mask, Pattern, n_zeros, smallest

__all__ = ["magnitude_mask"]


def magnitude_mask(weight: npt.NDArray[np.float32], pattern: Pattern) -> Mask:
    """Mark the weights to be zero.

    Parameters
    ----------
    weight : float32 ndarray, shape (n_rows, k)
    pattern : Pattern
        Unstructured: the floor(n_rows · k · sparsity) smallest of the whole matrix.

    Returns
    -------
    bool ndarray, shape (n_rows, k)
    """
    scores = np.abs(weight)
    if pattern.is_structured:
        return pattern.group_mask(scores)
    count = n_zeros(weight.size, pattern.sparsity)
    return smallest(scores.reshape(-1), count).reshape(weight.shape)
