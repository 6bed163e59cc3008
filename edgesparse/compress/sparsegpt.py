"""SparseGPT (Frantar and Alistarh, 2023, arXiv 2301.00774): prune, and correct the survivors.

Columns are taken from left to right. A weight that goes leaves an error behind, and the columns to
its right take over what they can of it: with H = Xᵀ X of the inputs and U the upper Cholesky factor
of H⁻¹ (H⁻¹ = Uᵀ U), the best change of column i > j for an error e of column j is
−e · U[j, i] / U[j, j]. Which weights go is decided block by block, by w² / U[j, j]², with weights
that have been changed already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgesparse.compress.patterns import MAX_M, Mask, Pattern, n_zeros, smallest

__all__ = ["BLOCK", "DAMPING", "Pruned", "inverse_factor", "layer_error", "sparsegpt"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

BLOCK = MAX_M
"""Columns whose mask is chosen at one time."""

DAMPING = 0.01
"""Added to the diagonal, as a share of its mean."""
_MOST_DAMPING = 10.0


class Rounding(Protocol):
    """Rounds columns to what will be stored; zeros must stay zeros."""

    def begin(self, j: int, weight: Float32, mask: Mask) -> None:
        """Look at the whole matrix as it is before column j."""

    def round(self, j: int, column: Float32) -> Float32:
        """Return column j as it will be read."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned matrix.

    Attributes
    ----------
    weight : float32 ndarray, shape (n_rows, k)
    mask : bool ndarray, shape (n_rows, k)
        Set where a weight was made zero.
    damping : float
        What it took to invert H, as a share of its mean diagonal.
    """

    weight: Float32
    mask: Mask
    damping: float


def inverse_factor(hessian: Float64, damping: float = DAMPING) -> tuple[Float64, float]:
    """Return the upper factor U with H⁻¹ = Uᵀ U, and the damping that it took.

    With the order of rows and columns turned round, H = L Lᵀ gives H = R Rᵀ with an upper
    triangular R, whose inverse is U: one factorisation, and H⁻¹ is never formed.

    Parameters
    ----------
    hessian : float64 ndarray, shape (k, k)
        Symmetric, its diagonal above 0.
    damping : float
        Raised tenfold while H cannot be factored.

    Raises
    ------
    numpy.linalg.LinAlgError
        H cannot be factored whatever the damping.
    """
    mean = float(np.mean(np.diag(hessian)))
    while True:
        damped = hessian[::-1, ::-1].copy()
        damped.flat[:: len(damped) + 1] += damping * mean
        try:
            lower = np.linalg.cholesky(damped)
        except np.linalg.LinAlgError:
            damping *= 10
            if damping > _MOST_DAMPING:
                raise
            continue
        return np.linalg.inv(lower[::-1, ::-1]), damping


def sparsegpt(
    weight: Float32,
    hessian: npt.NDArray[np.floating],
    pattern: Pattern,
    *,
    damping: float = DAMPING,
    block: int = BLOCK,
    update: bool = True,
    rounding: Rounding | None = None,
) -> Pruned:
    """Prune a matrix and correct its survivors.

    Parameters
    ----------
    weight : float32 ndarray, shape (n_rows, k)
    hessian : floating ndarray, shape (k, k)
        Sum of x xᵀ over the text, up to a factor. Inputs that are always 0 lose their weights.
    pattern : Pattern
        Unstructured: the floor(n_rows · block · sparsity) lowest scores of every block of columns.
    damping : float
        Share of the mean diagonal to add.
    block : int
        Columns whose mask is chosen at one time, a multiple of the pattern's m.
    update : bool
        False: choose the same way, but leave survivors alone (to see what correcting them gains).
    rounding : Rounding, optional
        Rounds each column, so that later ones make up for that, too.

    Returns
    -------
    Pruned
    """
    w = np.array(weight, np.float32)
    n_rows, k = w.shape
    h = np.array(hessian, np.float64)
    dead = np.diag(h) <= 0
    h[dead, dead] = 1.0
    w[:, dead] = 0.0
    if pattern.sparsity == 0 and rounding is None:
        return Pruned(w, np.zeros(w.shape, bool), damping)
    factor, damping = inverse_factor(h, damping)
    u = factor.astype(np.float32)
    diagonal = np.diag(u).copy()
    mask = np.zeros(w.shape, bool)
    for begin in range(0, k, block):
        end = min(begin + block, k)
        if not pattern.is_structured:
            scores = (w[:, begin:end] / diagonal[begin:end]) ** 2
            chosen = smallest(scores.reshape(-1), n_zeros(scores.size, pattern.sparsity))
            mask[:, begin:end] = chosen.reshape(scores.shape)
        errors = np.zeros((n_rows, end - begin), np.float32)
        for j in range(begin, end):
            if pattern.is_structured and j % pattern.m == 0:
                group = slice(j, j + pattern.m)
                mask[:, group] = pattern.group_mask((w[:, group] / diagonal[group]) ** 2)
            column = np.where(mask[:, j], np.float32(0), w[:, j])
            if rounding is not None:
                rounding.begin(j, w, mask)
                column = rounding.round(j, column)
            if update:
                error = (w[:, j] - column) / diagonal[j]
                w[:, j + 1 : end] -= error[:, None] * u[j, j + 1 : end]
                errors[:, j - begin] = error
            w[:, j] = column
        if update and end < k:
            w[:, end:] -= errors @ u[begin:end, end:]
    return Pruned(w, mask, damping)


def layer_error(weight: Float32, pruned: Float32, hessian: npt.NDArray[np.floating]) -> float:
    """Return ‖X (W − Ŵ)ᵀ‖² / ‖X Wᵀ‖²: what the outputs of a matrix lose, over the text.

    Parameters
    ----------
    weight, pruned : float32 ndarray, shape (n_rows, k)
    hessian : floating ndarray, shape (k, k)
        Xᵀ X, up to a factor.
    """
    change = weight - pruned
    h = hessian.astype(np.float32)
    lost = float(np.sum((change @ h) * change, dtype=np.float64))
    whole = float(np.sum((weight @ h) * weight, dtype=np.float64))
    return lost / whole if whole > 0 else 0.0
