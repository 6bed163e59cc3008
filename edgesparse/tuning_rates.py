"""What ``edgesparse tune`` measures for matrices with zeros: reading, and kernels in cache."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from edgesparse.benchmark.kernels import memory_bytes
from edgesparse.benchmark.micro import linear_micro, time_ops
from edgesparse.benchmark.tokens import working_set_bandwidth
from edgesparse.executors.native import NativeExecutor
from edgesparse.formats.weight import Format
from edgesparse.tuning import Value

__all__ = ["measure_rate", "rate_of"]

_ROWS, _COLUMNS = 512, 2048
_ZEROS = {"csr": 0.95}
"""Shares of zeros where a format is of interest, if not 70 %; 2:4 is half."""
_READ = "read"


def measure_rate(topic: str) -> Callable[[str, int, float], Mapping[str, float]]:
    """Return the measurement of a topic: (isa, threads, budget) → seconds for 10⁹ of its units."""

    def read(isa: str, threads: int, budget_s: float) -> Mapping[str, float]:
        del isa, budget_s  # reading is the same on each
        return {_READ: 1.0 / working_set_bandwidth(threads, memory_bytes())}

    def product(isa: str, threads: int, budget_s: float) -> Mapping[str, float]:
        fmt = Format[topic.upper()]
        micro = linear_micro(
            fmt, _ROWS, _COLUMNS, n_tokens=1, n_copies=1, zeros=_ZEROS.get(topic, 0.7)
        )
        executor = NativeExecutor(micro.plan, micro.parameters, threads=threads, isa=isa)
        try:
            micro.prepare(executor)
            ns = statistics.median(time_ops(executor, micro, min(0.25, budget_s)))
        finally:
            executor.close()
        return {topic: ns / (_ROWS * _COLUMNS)}

    return read if topic == _READ else product


def rate_of(seconds: Mapping[str, float], default: Value) -> Value:
    """Turn seconds for 10⁹ into 10⁹ a second."""
    del default  # there is one candidate
    return round(1.0 / next(iter(seconds.values())), 3)
