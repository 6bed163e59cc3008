"""Executors over one loaded model, and steps of several shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

import edgesparse
from edgesparse.executors import make_executor
from edgesparse.executors.base import Executor, KVCache, Parameters, Step
from edgesparse.executors.native import NativeExecutor, isa_names
from edgesparse.executors.portable import PortableExecutor
from edgesparse.executors.reference import ReferenceExecutor
from edgesparse.plan.plan import Plan
from tests.models import tiny

EXECUTORS = ("native", "portable", "reference")


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.uint32)


def load_tiny(name: str, **options: Any) -> edgesparse.Model:
    """Load a tiny model as its file has it; "reference" compiles and starts nothing."""
    return edgesparse.load(
        tiny.path(name), **({"executor": "reference", "head": "exact"} | options)
    )


@contextmanager
def executor_of(model: edgesparse.Model, name: str, **options: Any) -> Iterator[Executor]:
    """Put another executor on the plan and the weights of a loaded model."""
    made = make_executor(name, model.engine.plan, model.parameters, **({"threads": 2} | options))
    try:
        yield made
    finally:
        made.close()


def every_executor(plan: Plan, parameters: Parameters) -> list[Executor]:
    """Make all three executors, the native one on every instruction set with 1 and 3 threads."""
    return [
        ReferenceExecutor(plan, parameters),
        PortableExecutor(plan, parameters, threads=2),
        *(
            NativeExecutor(plan, parameters, threads=threads, isa=isa)
            for isa in isa_names()
            for threads in (1, 3)
        ),
    ]


def bits_of_each(
    made: Sequence[Executor], n_tokens: int, buffers: Mapping[str, Any], **more: Any
) -> list[np.ndarray]:
    """Run one step with these buffers on each executor; return the bits of its buffer y."""
    results = []
    for executor in made:
        for name, values in buffers.items():
            executor.buffer(name, n_tokens)[:] = values
        executor.run(step_of(executor, [0] * n_tokens, outputs=[], **more))
        results.append(bits(executor.buffer("y", n_tokens).copy()))
    return results


def step_of(
    executor: Executor,
    tokens: Sequence[int],
    *,
    positions: Sequence[int] | None = None,
    sequences: Sequence[int] | None = None,
    outputs: Sequence[int] | None = None,
    caches: list[KVCache] | None = None,
    **more: Any,
) -> Step:
    def ints(values: Sequence[int] | None, default: Sequence[int]) -> np.ndarray:
        return np.array(default if values is None else values, np.int32)

    n = len(tokens)
    wanted = ints(outputs, range(n))
    plan = executor.plan
    return Step(
        tokens=ints(tokens, ()),
        positions=ints(positions, range(n)),
        sequences=ints(sequences, [0] * n),
        outputs=wanted,
        caches=[KVCache(plan, 256)] if caches is None else caches,
        logits=np.zeros((len(wanted), plan.n_vocab), np.float32),
        **more,
    )


def run_in_chunks(executor: Executor, tokens: Sequence[int], chunk: int) -> np.ndarray:
    """Logits of every token, `chunk` tokens per step."""
    cache, rows = KVCache(executor.plan, len(tokens)), []
    for first in range(0, len(tokens), chunk):
        part = tokens[first : first + chunk]
        positions = range(first, first + len(part))
        step = step_of(executor, part, positions=positions, caches=[cache])
        executor.run(step)
        rows.append(step.logits)
    return np.concatenate(rows)
