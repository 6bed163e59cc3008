"""``edgesparse inspect --costs``: what matrices would cost a token, dense and without zeros."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesparse.formats.dequantize import dequantize
from edgesparse.formats.sparse_cost import SparseCost
from edgesparse.formats.two_of_four import is_two_of_four
from edgesparse.formats.weight import Format, Weight, storage_bytes
from edgesparse.formats.without_zeros import expected_bytes, zero_share

if TYPE_CHECKING:
    from edgesparse.engine import Engine

__all__ = ["break_even", "cost_of", "predictions"]

_EIGHT = (Format.Q8, Format.BMP8, Format.CSR)
_FOUR = (Format.Q4, Format.BMP4, Format.CSR)
_ROWS = 1024
_SIDE = 4096


def cost_of(engine: Engine) -> SparseCost:
    """Give the rates that decided while the engine's model was loaded."""
    from edgesparse.executors.native import NativeExecutor
    from edgesparse.formats.sparse_cost import usual_cost
    from edgesparse.tuning import sparse_cost

    executor = engine.executor
    if isinstance(executor, NativeExecutor):
        return sparse_cost(executor.isa, engine.n_threads)
    return usual_cost("scalar", engine.n_threads)


def predictions(weights: Iterable[Weight], cost: SparseCost) -> list[dict[str, Any]]:
    """Predict one token's product with every matrix that is not ternary.

    Returns
    -------
    list of dict
        ``tensor``, ``format``, ``zeros`` (a share) and, by format, ``bytes`` and ``us``; ``taken``:
        what loading chooses for 8-bit and for 4-bit codes (`choose_sparse`). nm8 and nm4 are there
        where a matrix is 2:4.
    """
    rows = []
    for weight in weights:
        if weight.format.has_row_scales or weight.format.is_sliced:
            continue
        zeros, is_pattern = _zeros(weight)
        pairs = [(*_EIGHT, Format.NM8), (*_FOUR, Format.NM4)] if is_pattern else [_EIGHT, _FOUR]
        n_bytes = {
            fmt: expected_bytes(fmt, weight.n_rows, weight.k, zeros)
            if fmt.is_sparse
            else storage_bytes(fmt, weight.n_rows, weight.k)
            for fmt in dict.fromkeys(pairs[0] + pairs[1])
        }
        times = {
            fmt: cost.microseconds(fmt, n, weight.n_rows * weight.k) for fmt, n in n_bytes.items()
        }
        rows.append(
            {
                "tensor": weight.name,
                "format": weight.format.name.lower(),
                "zeros": round(zeros, 4),
                "bytes": {fmt.name.lower(): n for fmt, n in n_bytes.items()},
                "us": {fmt.name.lower(): round(t, 2) for fmt, t in times.items()},
                "taken": [_taken(weight, each, n_bytes, cost).name.lower() for each in pairs],
            }
        )
    return rows


def _taken(
    weight: Weight, formats: Sequence[Format], n_bytes: Mapping[Format, int], cost: SparseCost
) -> Format:
    """Choose as loading does: csr only where it is the smallest, the dense one if none pays."""
    dense, *others = formats
    if n_bytes[Format.CSR] > min(n_bytes[fmt] for fmt in others):
        others.remove(Format.CSR)
    n_weights = weight.n_rows * weight.k
    best = min(others, key=lambda fmt: cost.microseconds(fmt, n_bytes[fmt], n_weights))
    pays = cost.is_faster(best, n_bytes[best], dense, n_bytes[dense], n_weights)
    return best if pays else dense


def break_even(cost: SparseCost) -> list[dict[str, Any]]:
    """Find from which share of zeros on leaving them out pays, in a matrix of 4096 × 4096.

    Returns
    -------
    list of dict
        ``format``, the dense format that it is ``over``, and the shares from which on it is
        ``smaller`` and ``faster`` (`SparseCost.is_faster`), in whole percents; None where it never
        is. nm8 and nm4 are for 2:4, which is half zeros, and are either at 0.5 or not; csr is
        taken only where it is smaller than bmp8.
    """
    rows = []
    pairs = ((Format.BMP8, Format.Q8), (Format.CSR, Format.Q8), (Format.NM8, Format.Q8))
    for fmt, dense in (*pairs, (Format.BMP4, Format.Q4), (Format.NM4, Format.Q4)):
        whole = storage_bytes(dense, _SIDE, _SIDE)
        percents = (50,) if fmt.is_two_of_four else range(100)
        sizes = {p: expected_bytes(fmt, _SIDE, _SIDE, p / 100) for p in percents}
        if fmt is Format.CSR:
            bitmaps = {p: expected_bytes(Format.BMP8, _SIDE, _SIDE, p / 100) for p in percents}
            sizes = {p: n for p, n in sizes.items() if n < bitmaps[p]}
        pays = {p: cost.is_faster(fmt, n, dense, whole, _SIDE * _SIDE) for p, n in sizes.items()}
        rows.append(
            {
                "format": fmt.name.lower(),
                "over": dense.name.lower(),
                "smaller": next((p / 100 for p, n in sizes.items() if n < whole), None),
                "faster": next((p / 100 for p, is_faster in pays.items() if is_faster), None),
            }
        )
    return rows


def _zeros(weight: Weight) -> tuple[float, bool]:
    """Count zeros as a share, and tell whether no four columns have more than two others."""
    if weight.format.is_two_of_four:
        return zero_share(weight), True
    n_kept, is_pattern = 0, True
    for begin in range(0, weight.n_rows, _ROWS):
        live = dequantize(weight, np.arange(begin, min(begin + _ROWS, weight.n_rows))) != 0
        n_kept += int(np.count_nonzero(live))
        is_pattern = is_pattern and is_two_of_four(live.view(np.int8))
    return 1 - n_kept / (weight.n_rows * weight.k), is_pattern
