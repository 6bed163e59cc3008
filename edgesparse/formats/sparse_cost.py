"""What a matrix costs one token, dense or without zeros: from measured kernels, or usual ones.

A time is ``max(bytes / bandwidth, weights / rate)`` with the bandwidth of all threads and the rate
of each format's kernel. ``edgesparse tune`` measures both; before that, usual rates of the
instruction set count, and the bandwidth that two threads of a server or of a laptop get.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgesparse.formats.weight import Format

__all__ = ["RATE_TOPICS", "SparseCost", "usual_cost"]

RATE_TOPICS = dict.fromkeys(("read", "q8", "q4", "bmp8", "bmp4", "csr", "nm8", "nm4"), 0.0)
"""Topics of `edgesparse.tuning`: GB/s of reading and 10⁹ weights a second of products in cache, all
threads together; 0: not measured."""

_MARGIN, _LOSS = 0.05, 0.1
_READ = 12.0
_AVX2 = {"q8": 42.0, "q4": 40.0, "bmp8": 12.0, "bmp4": 10.0, "csr": 28.0, "nm8": 37.0, "nm4": 29.0}
_USUAL: dict[str, dict[str, float]] = {
    "avx512vbmi2": {"q8": 48, "q4": 46, "bmp8": 44, "bmp4": 40, "csr": 85, "nm8": 66, "nm4": 62},
    "avx2": _AVX2,
    "avxvnni": _AVX2,
    "neon": {"q8": 6.8, "q4": 5.9, "bmp8": 3.4, "bmp4": 2.7, "csr": 5.2, "nm8": 4.6, "nm4": 3.8},
    "neondot": {
        "q8": 12.4,
        "q4": 14.1,
        "bmp8": 6.6,
        "bmp4": 4.9,
        "csr": 13.7,
        "nm8": 13.4,
        "nm4": 10.6,
    },
    "scalar": {"q8": 2, "q4": 2, "bmp8": 0.4, "bmp4": 0.4, "csr": 2, "nm8": 0.8, "nm4": 0.6},
}
"""10⁹ weights a second of one thread on a Sapphire Rapids server at 2.6 GHz: from cache, csr at
94 % zeros; but of bitmaps on AVX2 from memory, where table look-ups and waiting add up. Those of
NEON are predictions for one core of a Raspberry Pi 4 and 5, from counted instructions and modelled
cycles (bench/arm/README.md); nothing was measured there."""


@dataclass(frozen=True)
class SparseCost:
    """Rates of one instruction set and number of threads.

    Attributes
    ----------
    read : float
        10⁹ bytes a second that all threads together read from memory.
    rates : mapping of str to float
        10⁹ weights a second of all threads by format in lower case.
    measured : bool
        Whether ``edgesparse tune`` measured them here.
    """

    read: float
    rates: Mapping[str, float]
    measured: bool = False

    def microseconds(self, fmt: Format, n_bytes: int, n_weights: int) -> float:
        """Predict one product of a matrix of `n_weights` in `n_bytes` with one token."""
        return self._time(fmt, n_bytes, n_weights, self.read)

    def _time(self, fmt: Format, n_bytes: int, n_weights: int, read: float) -> float:
        return max(n_bytes / read, n_weights / self.rates[fmt.name.lower()]) / 1e3

    def is_faster(
        self, fmt: Format, n_bytes: int, over: Format, over_bytes: int, n_weights: int
    ) -> bool:
        """Tell whether a format is worth taking instead of the dense one that it is made of.

        It has to be predicted to be 5 % faster. Where nothing was measured memory may be twice as
        fast as usual, and kernels alone count then: it must not be more than 10 % slower there.
        """
        time = self._time(fmt, n_bytes, n_weights, self.read)
        if time >= (1 - _MARGIN) * self._time(over, over_bytes, n_weights, self.read):
            return False
        if self.measured:
            return True
        time = self._time(fmt, n_bytes, n_weights, 2 * self.read)
        return (1 - _LOSS) * time <= self._time(over, over_bytes, n_weights, 2 * self.read)


def usual_cost(variant: str, threads: int) -> SparseCost:
    """Give the rates that count where nothing was measured.

    Parameters
    ----------
    variant : str
        Of the bitmap kernels, see `es_kernel_variant`.
    threads : int
    """
    rates = _USUAL.get(variant, _USUAL["scalar"])
    return SparseCost(threads * _READ, {name: threads * rate for name, rate in rates.items()})
