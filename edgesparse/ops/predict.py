"""Predicting dead gates from signs alone: SparseInfer (Shin et al., 2024), in integers.

A product w_i x_i looks negative where the signs of w_i and x_i differ. A row is predicted to be
dead where ``N_neg > alpha N_pos``; with alpha = A / 10,000 and N = N_neg + N_pos that is
``N_neg > floor(A N / (10,000 + A))``, a limit for every row. Ties are kept. N is k, or the row's
non-zero weights where the planes are masked.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.signs import SignPlanes, pack_signs

__all__ = ["limits", "predicted_dead", "votes"]

Int32 = npt.NDArray[np.int32]

_ONE = 10_000


def limits(planes: SignPlanes, alpha: int) -> Int32:
    """Return the votes up to which each row is kept, (n_rows,) int32; alpha in ten-thousandths."""
    n = planes.n_weights.astype(np.int64)
    return np.ascontiguousarray(alpha * n // (_ONE + alpha), np.int32)


def votes(planes: SignPlanes, h: npt.NDArray[np.float32]) -> Int32:
    """Count the products that look negative.

    Parameters
    ----------
    planes : SignPlanes
        Of an (n_rows, k) matrix.
    h : float32 ndarray, shape (n_tokens, k)
        Its input, before it is quantised; what is below 0 counts as negative.

    Returns
    -------
    int32 ndarray, shape (n_tokens, n_rows)
    """
    x = pack_signs(h < 0)
    width = x.shape[1]
    found = np.empty((len(h), planes.n_rows), np.int32)
    for row, bits in zip(found, x, strict=True):
        differ = planes.data[:, :width] ^ bits
        if planes.masked:
            differ &= planes.data[:, width:]
        row[:] = np.unpackbits(differ, axis=1).sum(axis=1, dtype=np.int32)
    return found


def predicted_dead(
    planes: SignPlanes, h: npt.NDArray[np.float32], alpha: int
) -> npt.NDArray[np.bool_]:
    """Tell which outputs are predicted to be dead, (n_tokens, n_rows)."""
    return np.asarray(votes(planes, h) > limits(planes, alpha))
