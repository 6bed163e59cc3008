"""What skipping saves: bytes, and time with and without it, taking turns."""

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
from edgesparse.plan.plan import Plan

if TYPE_CHECKING:
    from edgesparse.model import Model

__all__ = ["Saving", "feed_forward", "measure_saving"]

_PROMPT = 256
_FEED_FORWARD = ("gate_up", "down")


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
    dense_ffn_s, sparse_ffn_s : tuple of float
        Likewise, of the feed-forwards' ops alone.
    n_tokens : int
        Tokens of a round.
    """

    dense_bytes: npt.NDArray[np.float64]
    sparse_bytes: npt.NDArray[np.float64]
    dense_total: int
    sparse_total: int
    dense_s: tuple[float, ...]
    sparse_s: tuple[float, ...]
    dense_ffn_s: tuple[float, ...]
    sparse_ffn_s: tuple[float, ...]
    n_tokens: int

    @property
    def predicted(self) -> float:
        """Speed-up if time were bytes."""
        return self.dense_total / self.sparse_total

    @property
    def measured(self) -> float:
        """Speed-up in the median of the rounds' ratios."""
        return _median_ratio(self.dense_s, self.sparse_s)

    @property
    def measured_ffn(self) -> float:
        """Speed-up of the feed-forwards alone, likewise."""
        return _median_ratio(self.dense_ffn_s, self.sparse_ffn_s)


def measure_saving(
    dense: Model, sparse: Model, ids: Sequence[int], *, n_tokens: int = 32, rounds: int = 5
) -> Saving:
    """Feed tokens of a text one by one to both models in turn.

    They come after a prompt of 256 tokens of the same text, or a half of it: early tokens have more
    zeros than later ones.

    Parameters
    ----------
    dense, sparse : Model
        The same model on the native executor, loaded with sparse="off" and without thresholds, and
        with sparse="auto" or with thresholds.
    ids : sequence of int
    n_tokens, rounds : int
    """
    ids = ids[: min(_PROMPT + n_tokens, dense.engine.n_ctx)]
    start = min(_PROMPT, len(ids) // 2)
    ids = ids[: start + n_tokens]
    n_tokens = len(ids) - start
    runs = [_Decoder(model, ids, start) for model in (dense, sparse)]
    for run in runs:
        run.once()  # pages are touched, counters filled
    reads = [run.reads() for run in runs]
    times: list[list[float]] = [[], []]
    ffn: list[list[float]] = [[], []]
    for i in range(rounds):
        for j in (0, 1) if i % 2 == 0 else (1, 0):
            op_ns = np.zeros(len(runs[j].plan.ops), np.uint64)
            times[j].append(runs[j].once(op_ns=op_ns) / n_tokens)
            ffn[j].append(float(op_ns[feed_forward(runs[j].plan)].sum()) / 1e9 / n_tokens)
    position = start + n_tokens // 2
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
        dense_ffn_s=tuple(ffn[0]),
        sparse_ffn_s=tuple(ffn[1]),
        n_tokens=n_tokens,
    )


def feed_forward(plan: Plan) -> npt.NDArray[np.bool_]:
    """Tell which ops of a plan belong to a feed-forward: gate, up and down, norms and all."""
    names = [op.name.rpartition(".")[2].removeprefix("experts_") for op in plan.ops]
    return np.array([name in _FEED_FORWARD for name in names])


def _median_ratio(dense: Sequence[float], sparse: Sequence[float]) -> float:
    return statistics.median(d / s for d, s in zip(dense, sparse, strict=True))


class _Decoder:
    def __init__(self, model: Model, ids: Sequence[int], start: int) -> None:
        self._engine, self._ids, self._start = model.engine, ids[start:], start
        self._cache = model.engine.new_cache(len(ids))
        if start:
            model.engine.forward(self._cache, ids[:start], 0, outputs="none")

    @property
    def plan(self) -> Plan:
        return self._engine.plan

    def once(
        self,
        op_bytes: npt.NDArray[np.uint64] | None = None,
        op_ns: npt.NDArray[np.uint64] | None = None,
    ) -> float:
        begin = time.perf_counter()
        for position, token in enumerate(self._ids, self._start):
            self._engine.forward(
                *(self._cache, [token], position),
                thresholds=True,
                op_bytes=op_bytes,
                op_ns=op_ns,
            )
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
