"""`Histogram`: quantiles of magnitudes that stream by, without knowing their range beforehand.

The bin of a float32 is its bits without the sign and without the lowest 14: 512 bins for every
power of two, so a quantile is exact to 0.2 %, whatever the scale and the order of the values. The
first bin counts as 0: what else it holds is below 1e-40.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Histogram"]

_SHIFT = 14
_N_BINS = 1 << (31 - _SHIFT)


class Histogram:
    """Counts of |x|."""

    def __init__(self) -> None:
        self._counts = np.zeros(_N_BINS, np.int64)

    def add(self, x: npt.NDArray[np.float32]) -> None:
        """Count the magnitudes of an array of any shape."""
        bits = np.ascontiguousarray(np.abs(x), np.float32).view(np.uint32)
        self._counts += np.bincount((bits >> np.uint32(_SHIFT)).ravel(), minlength=_N_BINS)

    @property
    def n(self) -> int:
        """Values counted."""
        return int(self._counts.sum())

    def quantile(self, share: float) -> float:
        """Return the magnitude below which `share` of the values lie, linear within a bin.

        Parameters
        ----------
        share : float
            In [0, 1].

        Returns
        -------
        float
            0 where so many values are 0: nothing else has to be ignored to ignore that share.
        """
        below = np.cumsum(self._counts)
        wanted = share * below[-1]
        if wanted <= below[0]:
            return 0.0
        bin_ = int(np.searchsorted(below, wanted, side="left"))
        count = self._counts[bin_]
        low, high = _edges(bin_)
        return low + (high - low) * float((wanted - (below[bin_] - count)) / count)

    def share_below(self, threshold: float) -> float:
        """Return the share of values that are 0 or below `threshold`, linear within a bin."""
        if not self.n:
            return 0.0
        bin_ = int(np.float32(threshold).view(np.uint32) >> _SHIFT)
        if bin_ == 0:
            return float(self._counts[0]) / self.n
        low, high = _edges(bin_)
        part = (threshold - low) / (high - low) * float(self._counts[bin_])
        return (float(self._counts[:bin_].sum()) + part) / self.n


def _edges(bin_: int) -> tuple[float, float]:
    bits = np.array([bin_ << _SHIFT, (bin_ + 1) << _SHIFT], np.uint32)
    low, high = bits.view(np.float32)
    return float(low), float(high)
