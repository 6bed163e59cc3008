"""What ``edgesparse tune`` measures: one entry per topic of `edgesparse.tuning`.

A topic measures its candidates for one instruction set and number of threads, taking turns, and
gives seconds for each; `fastest` picks one, or the topic decides otherwise (a crossover share is a
number found between two measurements). Whatever is chosen computes the same bits.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgesparse.benchmark.kernels import memory_bytes
from edgesparse.benchmark.micro import Micro, products, random_weights, time_ops
from edgesparse.column_share import COLUMN_TOPICS
from edgesparse.executors.native import NativeExecutor
from edgesparse.formats.sparse_cost import RATE_TOPICS
from edgesparse.formats.weight import Format, storage_bytes
from edgesparse.lookup import SLICE_TOPICS
from edgesparse.tuning import MARGIN, Answer, Value, default_of
from edgesparse.tuning_columns import least_share, measure_columns
from edgesparse.tuning_rates import measure_rate, rate_of
from edgesparse.tuning_slices import first_mad, measure_slices

__all__ = ["TOPICS", "Topic", "fastest", "n_questions", "tune"]

_TERNARY_SHAPES = ((6912, 2560), (2560, 6912))
_TERNARY_TOKENS = (1, 64)
_ROUNDS = 5

Seconds = Mapping[str, float]


@dataclass(frozen=True)
class Topic:
    """One question.

    Attributes
    ----------
    name : str
        Key in `edgesparse.tuning.DEFAULTS` and in the cache.
    question : str
        For people.
    measure : callable
        (isa, threads, seconds to spend) → seconds of each candidate.
    decide : callable
        (candidates' seconds, default) → the value to keep.
    """

    name: str
    question: str
    measure: Callable[[str, int, float], Seconds]
    decide: Callable[[Seconds, Value], Value]


def fastest(seconds: Seconds, default: Value) -> Value:
    """Choose the fastest candidate, the default unless another one wins by `MARGIN`."""
    best = min(seconds, key=lambda name: seconds[name])
    usual = seconds.get(str(default), float("inf"))
    return best if seconds[best] < (1 - MARGIN) * usual else default


def _measure_ternary(isa: str, threads: int, budget_s: float) -> dict[str, float]:
    """Time products over two shapes in each format: one token, and one of a prompt; seconds.

    Both count alike, as in a conversation with prompts as long as the answers: planes (bst) may be
    the fastest for single tokens and the slowest for many. Weights come from memory.
    """
    names = ("t2", "t5", "bst")
    each = budget_s / (_ROUNDS * len(_TERNARY_SHAPES) * len(names) * len(_TERNARY_TOKENS))
    seconds = dict.fromkeys(names, 0.0)
    for n_rows, k in _TERNARY_SHAPES:
        runs: list[tuple[str, int, Micro, NativeExecutor]] = []
        try:
            for name in names:
                fmt = Format[name.upper()]
                n_copies = -(-memory_bytes() // storage_bytes(fmt, n_rows, k))
                weights = random_weights(fmt, n_rows, k, n_copies)
                for n_tokens in _TERNARY_TOKENS:
                    micro = products(weights, n_tokens)
                    executor = NativeExecutor(
                        micro.plan, micro.parameters, threads=threads, isa=isa
                    )
                    runs.append((name, n_tokens, micro, executor))
                    micro.prepare(executor)
            samples: dict[tuple[str, int], list[float]] = {run[:2]: [] for run in runs}
            for _ in range(_ROUNDS):
                for name, n_tokens, micro, executor in runs:
                    found = time_ops(executor, micro, each)
                    samples[name, n_tokens].append(statistics.median(found) / n_tokens)
        finally:
            for run in runs:
                run[3].close()
        for (name, _), medians in samples.items():
            # The calmest round: what else runs on the machine only ever adds time.
            seconds[name] += 1e-9 * min(medians)
    return seconds


TOPICS = (
    Topic("ternary", "storage of ternary weights: t2, t5 or bst", _measure_ternary, fastest),
    *(
        Topic(name, f"tokens from which on {name} is multiplied", measure_slices(name), first_mad)
        for name in SLICE_TOPICS
    ),
    *(
        Topic(name, f"zeros from which on {name} skips", measure_columns(name), least_share)
        for name in COLUMN_TOPICS
    ),
    *(
        Topic(
            name,
            "10⁹ bytes read a second" if name == "read" else f"10⁹ weights a second of {name}",
            measure_rate(name),
            rate_of,
        )
        for name in RATE_TOPICS
    ),
)


def n_questions(isas: Sequence[str], threads: Sequence[int]) -> int:
    """Count what `tune` gives."""
    return len(TOPICS) * len(isas) * len(threads)


def tune(isas: Sequence[str], threads: Sequence[int], budget_s: float) -> Iterator[Answer]:
    """Measure every topic for every instruction set and number of threads.

    Parameters
    ----------
    isas : sequence of str
    threads : sequence of int
    budget_s : float
        Seconds for one topic on one instruction set with one number of threads.
    """
    for topic in TOPICS:
        for isa in isas:
            for n in threads:
                seconds = topic.measure(isa, n, budget_s)
                value = topic.decide(seconds, default_of(topic.name, isa)[0])
                yield Answer(topic.name, isa, n, value, seconds, n)
