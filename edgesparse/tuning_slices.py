"""What ``edgesparse tune`` measures for bit slices: from how many tokens on multiplying pays."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from edgesparse.benchmark.micro import linear_micro, time_ops
from edgesparse.executors.native import NativeExecutor
from edgesparse.formats.weight import Format
from edgesparse.lookup import NEVER
from edgesparse.tuning import MARGIN, Value

__all__ = ["first_mad", "measure_slices"]

TOKENS = (1, 4, 16, 64)
SHAPES = {"": (1024, 2048), " long": (256, 8192)}
_COPIES = 4
_ROUNDS = 3


def measure_slices(topic: str) -> Callable[[str, int, float], Mapping[str, float]]:
    """Return the measurement of a topic: (isa, threads, budget) → seconds by kernel and tokens."""
    name, long, _ = topic.partition(" long")
    fmt, (n_rows, k) = Format[name.upper()], SHAPES[long]

    def measure(isa: str, threads: int, budget_s: float) -> Mapping[str, float]:
        each = budget_s / (_ROUNDS * len(TOKENS) * 2)
        seconds = {}
        for n_tokens in TOKENS:
            micro = linear_micro(fmt, n_rows, k, n_tokens=n_tokens, n_copies=_COPIES)
            executors = {
                kernel: NativeExecutor(
                    micro.plan, micro.parameters, threads=threads, isa=isa, kernel=kernel
                )
                for kernel in ("lut", "mad")
            }
            samples: dict[str, list[float]] = {kernel: [] for kernel in executors}
            try:
                for executor in executors.values():
                    micro.prepare(executor)
                for _ in range(_ROUNDS):
                    for kernel, executor in executors.items():
                        found = time_ops(executor, micro, each)
                        samples[kernel].append(statistics.median(found))
            finally:
                for executor in executors.values():
                    executor.close()
            for kernel, medians in samples.items():
                seconds[f"{kernel} {n_tokens}"] = 1e-9 * min(medians)
        return seconds

    return measure


def first_mad(seconds: Mapping[str, float], default: Value) -> Value:
    """Choose the fewest of the measured tokens from which on multiplying is clearly faster."""
    del default  # every number of tokens was measured
    first = NEVER
    for n_tokens in reversed(TOKENS):
        if seconds[f"mad {n_tokens}"] >= (1 - MARGIN) * seconds[f"lut {n_tokens}"]:
            break
        first = n_tokens
    return float(first)
