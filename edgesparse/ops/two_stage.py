"""The two-stage head: which tiles of eight rows a coarse pass proposes for exact computation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.coarse import Coarse, rotate
from edgesparse.formats.weight import TILE
from edgesparse.ops.numerics import quantize_i8

__all__ = ["N_TILES", "propose"]

N_TILES = 256
"""Tiles that generation computes exactly: at least the 256 rows of the best estimates, and their
neighbours."""

_ROWS = 4096


def propose(coarse: Coarse, h: npt.NDArray[np.float32], n_tiles: int) -> npt.NDArray[np.intp]:
    """Choose the `n_tiles` tiles whose best row has the largest estimate, ascending.

    Parameters
    ----------
    coarse : Coarse
    h : (k,) float32
        The head's input.
    n_tiles : int
        Of equal tiles the first are taken.

    Returns
    -------
    (min(n_tiles, ceil(n_rows / 8)),) intp
    """
    q, _ = quantize_i8(rotate(h)[None])
    padded = np.zeros(coarse.codes.shape[1] * 4, np.int32)
    padded[: len(h)] = q[0]
    fields = padded.reshape(-1, 4, 32)
    n_rows = len(coarse.scales)
    estimates = np.full(-(-n_rows // TILE) * TILE, -np.inf, np.float32)
    for begin in range(0, n_rows, _ROWS):
        packed = coarse.codes[begin : begin + _ROWS].reshape(-1, len(fields), 32)
        sums = np.zeros(len(packed), np.float64)  # exact: integers below 2^53
        for field in range(4):
            codes = (packed >> (6 - 2 * field) & 3).reshape(len(packed), -1)
            sums += codes.astype(np.float64) @ fields[:, field].reshape(-1).astype(np.float64)
        centred = (2 * sums - 3 * int(q[0].astype(np.int64).sum())).astype(np.float32)
        estimates[begin : begin + len(packed)] = centred * coarse.scales[begin : begin + _ROWS]
    best = estimates.reshape(-1, TILE).max(axis=1)
    order = np.argsort(-best, kind="stable")
    return np.sort(order[:n_tiles])
