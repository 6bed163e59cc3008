"""``edgesparse inspect --costs``: what matrices would cost a token, dense and without zeros."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesparse.formats.bitmap import expected_bytes, zero_share
from edgesparse.formats.dequantize import dequantize
from edgesparse.formats.sparse_cost import SparseCost
from edgesparse.formats.weight import Format, Weight, storage_bytes

if TYPE_CHECKING:
    from edgesparse.engine import Engine

__all__ = ["cost_of", "predictions"]

_FORMATS = (Format.Q8, Format.BMP8, Format.Q4, Format.BMP4)
_ROWS = 1024


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
        ``tensor``, ``format``, ``zeros`` (a share) and, by format, ``bytes`` and ``us``;
        ``fastest`` of the 8-bit and of the 4-bit formats.
    """
    rows = []
    for weight in weights:
        if weight.format.has_row_scales or weight.format.is_sliced:
            continue
        zeros = _zeros(weight)
        n_bytes = {
            fmt: expected_bytes(fmt, weight.n_rows, weight.k, zeros)
            if fmt.is_bitmap
            else storage_bytes(fmt, weight.n_rows, weight.k)
            for fmt in _FORMATS
        }
        times = {
            fmt: cost.microseconds(fmt, n, weight.n_rows * weight.k) for fmt, n in n_bytes.items()
        }
        eight, four = (min(pair, key=lambda f: times[f]) for pair in (_FORMATS[:2], _FORMATS[2:]))
        rows.append(
            {
                "tensor": weight.name,
                "format": weight.format.name.lower(),
                "zeros": round(zeros, 4),
                "bytes": {fmt.name.lower(): n for fmt, n in n_bytes.items()},
                "us": {fmt.name.lower(): round(t, 2) for fmt, t in times.items()},
                "fastest": [eight.name.lower(), four.name.lower()],
            }
        )
    return rows


def _zeros(weight: Weight) -> float:
    if weight.format.is_bitmap:
        return zero_share(weight)
    n_kept = 0
    for begin in range(0, weight.n_rows, _ROWS):
        rows = np.arange(begin, min(begin + _ROWS, weight.n_rows))
        n_kept += int(np.count_nonzero(dequantize(weight, rows)))
    return 1 - n_kept / (weight.n_rows * weight.k)
