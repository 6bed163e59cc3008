"""What skipping exact zeros saves: bytes, and time with and without it, taking turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgesparse.plan.cost import bytes_per_token
from edgesparse.plan.op import Experts, Linear

if TYPE_CHECKING:
    from edgesparse.model import Model

__all__ = ["Saving", "measure_saving"]


@dataclass(frozen=True, eq=False)
class Saving:
    """Decoding with and without skipping.

    Attributes
    ----------
    dense_bytes, sparse_bytes : float64 ndarray, shape (n_layers,)
        Bytes of weights that a token's linear ops read, by layer.
    dense_total, sparse_total : int
        Bytes of a whole token, head and cache included.
    dense_s, sparse_s : tuple of float
        Seconds per token of every round.
    n_tokens : int
        Tokens of a round.
    """

    dense_bytes: npt.NDArray[np.float64]
    sparse_bytes: npt.NDArray[np.float64]
    dense_total: int
    sparse_total: int
    dense_s: tuple[float, ...]
    sparse_s: tuple[float, ...]
    n_tokens: int

    @property
    def predicted(self) -> float:
        """Speed-up if time were bytes."""
        return self.dense_total / self.sparse_total

    @property
    def measured(self) -> float:
        """Speed-up in the median of the rounds' ratios."""
        return statistics.median(d / s for d, s in zip(self.dense_s, self.sparse_s, strict=True))


def measure_saving(
    dense: Model, sparse: Model, ids: Sequence[int], *, n_tokens: int = 32, rounds: int = 5
) -> Saving:
    """Feed the tokens of a text one by one to both models in turn.

    Parameters
    ----------
    dense, sparse : Model
        The same model, loaded with sparse="off" and "auto" on the native executor.
    ids : sequence of int
    n_tokens, rounds : int
    """
    n_tokens = min(n_tokens, len(ids), dense.engine.n_ctx)
    runs = [_Decoder(model, ids[:n_tokens]) for model in (dense, sparse)]
    for run in runs:
        run.once()  # pages are touched, counters filled
    reads = [run.reads() for run in runs]
    times: list[list[float]] = [[], []]
    for i in range(rounds):
        for j in (0, 1) if i % 2 == 0 else (1, 0):
            times[j].append(runs[j].once() / n_tokens)
    position = n_tokens // 2
    totals = [
        bytes_per_token(m.engine.plan, m.parameters, position, read=read.tolist())
        for m, read in zip((dense, sparse), reads, strict=True)
    ]
    return Saving(
        _by_layer(dense, reads[0]),
        _by_layer(sparse, reads[1]),
        totals[0],
        totals[1],
        dense_s=tuple(times[0]),
        sparse_s=tuple(times[1]),
        n_tokens=n_tokens,
    )


class _Decoder:
    def __init__(self, model: Model, ids: Sequence[int]) -> None:
        self._engine, self._ids = model.engine, ids
        self._cache = model.engine.new_cache(len(ids))

    def once(self, op_bytes: npt.NDArray[np.uint64] | None = None) -> float:
        begin = time.perf_counter()
        for position, token in enumerate(self._ids):
            self._engine.forward(self._cache, [token], position, op_bytes=op_bytes)
        return time.perf_counter() - begin

    def reads(self) -> npt.NDArray[np.float64]:
        """Bytes that every op reads per token, in the mean."""
        op_bytes = np.zeros(len(self._engine.plan.ops), np.uint64)
        self.once(op_bytes)
        return op_bytes / len(self._ids)


def _by_layer(model: Model, read: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    found = np.zeros(model.engine.plan.n_layers)
    for op, n_bytes in zip(model.engine.plan.ops, read, strict=True):
        if isinstance(op, (Linear, Experts)) and op.name.startswith("blk."):
            found[int(op.name.split(".")[1])] += n_bytes
    return found
