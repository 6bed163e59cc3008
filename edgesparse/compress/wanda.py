"""Wanda (Sun et al., 2023, arXiv 2306.11695): weights times the norms of their inputs.

Scores are compared within each output row, every row loses the same number of weights, and the
survivors stay as they are. Where the inputs are orthogonal over the text, no other choice of as
many weights of a row changes its outputs less.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.compress.patterns import Mask, Pattern, n_zeros, smallest

__all__ = ["wanda_mask", "wanda_scores"]

Float32 = npt.NDArray[np.float32]


def wanda_scores(weight: Float32, norms: Float32) -> Float32:
    """Return |w| · norm of its input, (n_rows, k)."""
    scores: Float32 = np.abs(weight) * norms
    return scores


def wanda_mask(weight: Float32, norms: Float32, pattern: Pattern) -> Mask:
    """Mark the weights to be zero.

    Parameters
    ----------
    weight : float32 ndarray, shape (n_rows, k)
    norms : float32 ndarray, shape (k,)
        2-norm of every input over the text, up to a factor.
    pattern : Pattern
        Unstructured: the floor(k · sparsity) lowest scores of every row.

    Returns
    -------
    bool ndarray, shape (n_rows, k)
    """
    scores = wanda_scores(weight, norms)
    if pattern.is_structured:
        return pattern.group_mask(scores)
    return smallest(scores, n_zeros(weight.shape[1], pattern.sparsity))
