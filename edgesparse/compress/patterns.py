"""`Pattern`: which share of a matrix becomes zero, and in what arrangement.

N:M counts the weights that are *kept*, as hardware makers do; reference codes of the papers count
the zeros.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.errors import UsageError

__all__ = ["Pattern", "n_zeros", "smallest"]

Mask = npt.NDArray[np.bool_]

MAX_M = 128
"""Largest group of an N:M pattern; SparseGPT works in blocks of so many inputs."""


@dataclass(frozen=True)
class Pattern:
    """A share of zeros anywhere, or N kept weights in every aligned group of M inputs.

    Attributes
    ----------
    sparsity : float
        Share of zeros, in [0, 1); for N:M it is 1 − N/M.
    n, m : int
        Kept weights of a group and its length; m = 0 for an unstructured pattern.
    """

    sparsity: float
    n: int = 0
    m: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise UsageError(f"sparsity must be at least 0 and below 1, not {self.sparsity}.")

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Return the N:M pattern that e.g. ``2:4`` names.

        Raises
        ------
        UsageError
            The text is no N:M with 0 < N < M and M a power of two up to 128.
        """
        found = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", text)
        n, m = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 0 < n < m <= MAX_M or m & (m - 1):
            raise UsageError(
                f"there is no pattern {text!r}.",
                advice=f"Give N:M, N kept of every M inputs, M a power of two up to {MAX_M}: 2:4.",
            )
        return cls(1 - n / m, n, m)

    @property
    def is_structured(self) -> bool:
        """Whether every group of m inputs keeps exactly n."""
        return self.m > 0

    def __str__(self) -> str:
        return f"{self.n}:{self.m}" if self.m else f"{self.sparsity:g}"

    def check(self, k: int, name: str) -> None:
        """Refuse a matrix whose `k` inputs do not fall into whole groups.

        Raises
        ------
        UsageError
        """
        if self.m and k % self.m:
            raise UsageError(
                f"{name} has {k} inputs, which do not divide into groups of {self.m}.",
                advice="Prune it by --sparsity instead.",
            )

    def group_mask(self, scores: npt.NDArray[np.floating[Any]]) -> Mask:
        """Mark, in scores (n_rows, k), all but the n largest of each group of m."""
        groups = scores.reshape(len(scores), -1, self.m)
        return smallest(groups, self.m - self.n).reshape(scores.shape)


def n_zeros(n: int, sparsity: float) -> int:
    """Return floor(n · sparsity), where a product that is whole but for its rounding is whole."""
    return math.floor(n * sparsity + 1e-6)


def smallest(scores: npt.NDArray[np.floating[Any]], count: int) -> Mask:
    """Mark the `count` smallest scores of every row; of equal ones those that come first.

    Parameters
    ----------
    scores : floating ndarray, shape (..., n)
        No NaN.
    count : int
        At most n.

    Returns
    -------
    bool ndarray, shape (..., n)
        Exactly `count` of each row are set.
    """
    if count == 0:
        return np.zeros(scores.shape, bool)
    bound = np.partition(scores, count - 1, axis=-1)[..., count - 1 : count]
    mask = scores < bound
    missing = count - mask.sum(axis=-1, keepdims=True)
    equal = scores == bound
    mask |= equal & (np.cumsum(equal, axis=-1, dtype=np.int32) <= missing)
    return mask
