"""What ``edgesparse tune`` measures for formats by columns: the share of zeros that pays."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

import numpy as np

from edgesparse.benchmark.micro import Micro, linear_micro, time_ops
from edgesparse.column_share import NEVER, format_of, is_small
from edgesparse.executors.native import NativeExecutor
from edgesparse.formats.weight import NEURON_MAJOR, Slices, storage_bytes
from edgesparse.tuning import Value

__all__ = ["least_share", "measure_columns"]

_ROWS, _COLUMNS = 576, 1536
"""A small matrix whose last line is half empty: what pays here pays on larger ones."""
_GROUP = 128
_ZEROS = 0.5
_ROUNDS = 5
_WORKING_SETS = {False: 96 << 20, True: 24 << 20}
"""Bytes of the copies, of models that come from memory and of small ones."""


def measure_columns(topic: str) -> Callable[[str, int, float], Mapping[str, float]]:
    """Return the measurement of a topic: (isa, threads, budget) → seconds by storage and zeros."""
    rows = format_of(topic)

    def measure(isa: str, threads: int, budget_s: float) -> Mapping[str, float]:
        made: dict[str, tuple[Micro, NativeExecutor]] = {}
        micros = {}
        for fmt in (rows, NEURON_MAJOR[rows]):
            slices = Slices(_GROUP) if fmt.is_sliced else None
            n_bytes = storage_bytes(fmt, _ROWS, _COLUMNS, slices)
            n_copies = -(-_WORKING_SETS[is_small(topic)] // n_bytes)
            micros[fmt] = linear_micro(
                fmt, _ROWS, _COLUMNS, n_tokens=1, n_copies=n_copies, slices=slices
            )
        try:
            for name, fmt, zeros in (
                ("rows", rows, 0.0),
                ("columns", NEURON_MAJOR[rows], 0.0),
                ("half", NEURON_MAJOR[rows], _ZEROS),
            ):
                micro = micros[fmt]
                executor = NativeExecutor(micro.plan, micro.parameters, threads=threads, isa=isa)
                made[name] = micro, executor
                micro.prepare(executor)
                x = executor.buffer("x", 1)
                x[np.random.default_rng(1).random(x.shape) < zeros] = 0
            samples: dict[str, list[float]] = {name: [] for name in made}
            for _ in range(_ROUNDS):
                for name, (micro, executor) in made.items():
                    found = time_ops(executor, micro, budget_s / (_ROUNDS * len(made)))
                    samples[name].append(statistics.median(found))
            return {name: 1e-9 * min(medians) for name, medians in samples.items()}
        finally:
            for _, executor in made.values():
                executor.close()

    return measure


def least_share(seconds: Mapping[str, float], default: Value) -> Value:
    """Find the share of zeros where skipping takes as long as reading all, between two measured."""
    del default  # all that it depends on was measured
    rows, columns, half = (seconds[name] for name in ("rows", "columns", "half"))
    if columns <= rows:
        return 0.0
    if half >= columns:
        return NEVER
    return round(min(NEVER, _ZEROS * (columns - rows) / (columns - half)), 3)
