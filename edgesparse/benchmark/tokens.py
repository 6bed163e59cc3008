"""Tokens per second beside the ceiling that the machine's memory sets.

Rows follow llama.cpp's llama-bench: ``pp512`` reads a prompt of 512 tokens, ``tg128`` generates 128
tokens one by one from an empty context, ``pp512+tg128`` does one after the other. Each row also
says how many bytes a token moves and what the same number of threads reads per second from a
working set of the same size, measured just before and after the row: a decode speed means nothing
without that ceiling.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgesparse.engine import Engine
from edgesparse.errors import UsageError
from edgesparse.machine import read_bandwidth

__all__ = ["Row", "measure", "working_set_bandwidth"]

_SEED = 1
_MIN_PIECE = 1 << 20


@dataclass(frozen=True)
class Row:
    """One measured row.

    Attributes
    ----------
    n_prompt, n_gen, n_depth : int
        Tokens read, tokens generated, tokens already in the cache.
    n_threads : int
    samples_ns : tuple of int
        Duration of each repetition.
    bytes_per_token : int
        Weights and cache that decoding one token moves (at half of the generated length). Where
        dead neurons are skipped, the mean of what the timed tokens really read.
    read_bandwidth_gb_per_s : float
        Best of the readings around the row.
    """

    n_prompt: int
    n_gen: int
    n_depth: int
    n_threads: int
    samples_ns: tuple[int, ...]
    bytes_per_token: int
    read_bandwidth_gb_per_s: float

    @property
    def name(self) -> str:
        """``pp512``, ``tg128`` or ``pp512+tg128``, with ``@ d1024`` behind for a depth."""
        parts = (("pp", self.n_prompt), ("tg", self.n_gen))
        test = "+".join(f"{kind}{n}" for kind, n in parts if n)
        return f"{test} @ d{self.n_depth}" if self.n_depth else test

    @property
    def n_tokens(self) -> int:
        """Tokens per repetition."""
        return self.n_prompt + self.n_gen

    @property
    def decodes(self) -> bool:
        """Whether nothing but decoding was timed, so that bytes per token bound the speed."""
        return self.n_prompt == 0

    @property
    def samples_ts(self) -> tuple[float, ...]:
        """Tokens per second of each repetition."""
        return tuple(1e9 * self.n_tokens / ns for ns in self.samples_ns)

    @property
    def median_ts(self) -> float:
        """Median of the repetitions, tokens per second."""
        return statistics.median(self.samples_ts)

    @property
    def avg_ts(self) -> float:
        """Mean of the repetitions, tokens per second."""
        return statistics.fmean(self.samples_ts)

    @property
    def stddev_ts(self) -> float:
        """Standard deviation of the repetitions, tokens per second."""
        return statistics.stdev(self.samples_ts) if len(self.samples_ts) > 1 else 0.0

    @property
    def gb_per_s(self) -> float:
        """10⁹ bytes moved per second while decoding; 0 with a prompt, which reuses each weight."""
        return self.median_ts * self.bytes_per_token / 1e9 if self.decodes else 0.0

    @property
    def ceiling_ts(self) -> float:
        """Tokens per second if nothing but the memory took time; 0 with a prompt."""
        return self.read_bandwidth_gb_per_s * 1e9 / self.bytes_per_token if self.decodes else 0.0


def working_set_bandwidth(n_threads: int, n_bytes: int) -> float:
    """Measure the read bandwidth over a working set of `n_bytes`, GB/s, all threads together.

    The size matters: a model that fits a large last-level cache is not bound by main memory, and
    a ceiling taken there would be too low.
    """
    piece = max(_MIN_PIECE, n_bytes // n_threads)
    return read_bandwidth(n_threads, bytes_per_thread=piece, repeats=5).gb_per_s


def measure(
    engine: Engine,
    n_bytes: Callable[[int, Sequence[float] | None], int],
    *,
    n_prompt: int = 0,
    n_gen: int = 0,
    n_depth: int = 0,
    repetitions: int = 5,
    warmup: bool = True,
) -> Row:
    """Time one row.

    Parameters
    ----------
    engine : Engine
    n_bytes : callable
        Position, and bytes that each linear op was seen to read, where that is known → bytes that
        decoding there moves.
    n_prompt, n_gen : int
        At least one of them positive.
    n_depth : int
        Tokens to put into the cache first, not timed.
    repetitions : int
    warmup : bool
        Run once before timing.

    Raises
    ------
    UsageError
        The tokens do not fit into the context, or the counts make no sense.
    """
    if min(n_prompt, n_gen, n_depth) < 0 or n_prompt + n_gen < 1 or repetitions < 1:
        raise UsageError("A row reads a prompt or generates, at least once, at a depth ≥ 0.")
    n_tokens = n_prompt + n_gen
    if n_depth + n_tokens > engine.n_ctx:
        raise UsageError(
            f"{n_depth + n_tokens} tokens do not fit into a context of {engine.n_ctx}.",
            advice="Use a smaller row or a larger --ctx.",
        )
    position = n_depth + (n_prompt + n_gen // 2 if n_gen else n_prompt // 2)
    per_token = n_bytes(position, None)
    before = working_set_bandwidth(engine.n_threads, per_token)
    tokens = np.random.default_rng(_SEED).integers(0, engine.n_vocab, n_depth + n_tokens)
    ids = tokens.astype(np.int32)
    cache = engine.new_cache(n_depth + n_tokens)
    read = np.zeros(len(engine.plan.ops), np.uint64)
    if n_depth:
        engine.forward(cache, ids[:n_depth], 0, outputs="none")

    def once() -> int:
        start = time.perf_counter_ns()
        first = n_depth + n_prompt
        if n_prompt:
            engine.forward(cache, ids[n_depth:first], n_depth, chunk=engine.max_tokens)
        for i in range(first, first + n_gen):
            engine.forward(cache, ids[i : i + 1], i, op_bytes=read, thresholds=True, exact=False)
        return time.perf_counter_ns() - start

    if warmup:
        once()
    read[:] = 0
    samples = tuple(once() for _ in range(repetitions))
    if read.any():
        per_token = n_bytes(position, (read / (n_gen * repetitions)).tolist())
    after = working_set_bandwidth(engine.n_threads, per_token)
    return Row(n_prompt, n_gen, n_depth, engine.n_threads, samples, per_token, max(before, after))
