"""How far products with bit slices are off: what rounding the inputs costs, and what tables do."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from edgesparse.benchmark.micro import products
from edgesparse.executors.native import NativeExecutor
from edgesparse.formats.bitslice import middle, pack_bitslice
from edgesparse.formats.dequantize import dequantize
from edgesparse.formats.weight import BLOCK, Weight

__all__ = ["lookup_error", "normal_slices"]

Float32 = npt.NDArray[np.float32]

_ROWS, _COLUMNS, _TOKENS = 128, 4096, 64


def normal_slices(rng: np.random.Generator, bits: int, n_rows: int, k: int) -> Weight:
    """Make normally distributed numbers and round them to the codes of groups of 32 columns.

    Parameters
    ----------
    rng : Generator
    bits : int
        1 to 4.
    n_rows, k : int
        `k` a multiple of 32.
    """
    values = rng.normal(size=(n_rows, k)).astype(np.float32).reshape(n_rows, -1, BLOCK)
    magnitudes, centre = np.abs(values), np.float32(middle(bits))
    spread = 2 * magnitudes.mean(axis=-1) if bits == 1 else magnitudes.max(axis=-1) / centre
    steps = spread.astype(np.float16).astype(np.float32)
    codes = np.clip(np.rint(values / steps[..., None] + centre), 0, (1 << bits) - 1)
    return pack_bitslice(codes.reshape(n_rows, k).astype(np.uint8), bits, BLOCK, steps, name="w")


@cache
def lookup_error(bits: int, *, lossy: bool) -> float:
    """Measure the error's power over the result's (NMSE), against the same weights in float64.

    Weights and inputs are normally distributed; 64 inputs, 128 rows of 4096 columns. With
    exact tables what is left is the rounding of the inputs to int8. All instruction sets give the
    same bits, so one of them is asked.

    Parameters
    ----------
    bits : int
        1 to 4.
    lossy : bool
        With rounded tables.
    """
    rng = np.random.default_rng(bits)
    weight = normal_slices(rng, bits, _ROWS, _COLUMNS)
    x = rng.normal(size=(_TOKENS, _COLUMNS)).astype(np.float32)
    found = _products(weight, x, lossy=lossy).astype(np.float64)
    true = x.astype(np.float64) @ dequantize(weight).astype(np.float64).T
    return float(np.square(found - true).sum() / np.square(true).sum())


def _products(weight: Weight, x: Float32, *, lossy: bool) -> Float32:
    micro = products([weight], len(x))
    executor = NativeExecutor(micro.plan, micro.parameters, threads=1, lossy=lossy)
    try:
        executor.buffer("x", len(x))[:] = x
        executor.run(micro.step(np.zeros(1, np.uint64)))
        return executor.buffer("y", len(x)).copy()
    finally:
        executor.close()
