"""OWL (Yin et al., 2023, arXiv 2310.05175): layers with many outliers keep more of their weights.

Useful from about 70 % on; at lower shares it may as well do harm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["LAMBDA", "OUTLIER", "outlier_share", "owl_sparsities"]

OUTLIER = 5.0
"""A score is an outlier above so many times the mean of its layer."""
LAMBDA = 0.08
"""Sparsities stay within this of the wanted one, but for the rest that makes the mean exact."""
_LEAST = 0.01
_MOST = 0.99


def outlier_share(scores: Sequence[npt.NDArray[np.float32]], outlier: float = OUTLIER) -> float:
    """Return the percentage of a layer's Wanda scores, all matrices pooled, that are outliers."""
    size = sum(each.size for each in scores)
    mean = sum(float(each.sum(dtype=np.float64)) for each in scores) / size
    return 100.0 * sum(int((each > outlier * mean).sum()) for each in scores) / size


def owl_sparsities(
    outliers: Sequence[float], sparsity: float, spread: float = LAMBDA
) -> list[float]:
    """Turn the outliers of every layer into its sparsity; their mean is `sparsity`.

    Parameters
    ----------
    outliers : sequence of float
        `outlier_share` of every layer of the dense model.
    sparsity : float
        In (0, 1).
    spread : float
        Lambda of the paper.

    Returns
    -------
    list of float
        Clamped to [0.01, 0.99], which alone can move the mean.
    """
    share = np.asarray(outliers, np.float64)
    lowest, highest = share.min(), share.max()
    if highest == lowest:
        return [sparsity] * len(outliers)
    density = (share - lowest) / (highest - lowest) * (2 * spread)
    wanted = sparsity - (density - density.mean())
    return [float(each) for each in np.clip(wanted, _LEAST, _MOST)]
