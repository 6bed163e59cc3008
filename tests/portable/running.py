"""One op on its own: a plan around it, an executor, a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.executors.base import KVCache, Parameters, Step
from edgesparse.executors.portable import PortableExecutor
from edgesparse.plan.op import Op
from edgesparse.plan.plan import Plan

Array = npt.NDArray[Any]


def plan_of(*ops: Op, buffers: dict[str, int], **fields: int) -> Plan:
    shape = {"n_layers": 1, "n_kv_heads": 1, "head_dim": 2, "n_vocab": 1, "n_ctx": 64}
    shape |= {"max_tokens": 8} | fields
    return Plan("test", ops, tuple(buffers.items()), **shape)


def step_of(
    plan: Plan,
    tokens: list[int],
    *,
    positions: list[int] | None = None,
    sequences: list[int] | None = None,
    outputs: list[int] | None = None,
    caches: list[KVCache] | None = None,
) -> Step:
    def ints(values: list[int] | None, default: list[int]) -> npt.NDArray[np.int32]:
        return np.array(default if values is None else values, np.int32)

    n = len(tokens)
    wanted = ints(outputs, [])
    return Step(
        tokens=ints(tokens, []),
        positions=ints(positions, list(range(n))),
        sequences=ints(sequences, [0] * n),
        outputs=wanted,
        caches=[KVCache(plan, 64)] if caches is None else caches,
        logits=np.full((len(wanted), plan.n_vocab), np.nan, np.float32),
    )


def run_op(
    op: Op,
    inputs: dict[str, Array],
    parameters: Parameters,
    *,
    n_tokens: int,
    threads: int = 1,
    outputs: list[int] | None = None,
    n_vocab: int = 1,
) -> tuple[dict[str, Array], Array]:
    """Fill the buffers, run the op; return copies of all buffers and the logits."""
    plan = plan_of(op, buffers={name: a.shape[1] for name, a in inputs.items()}, n_vocab=n_vocab)
    executor = PortableExecutor(plan, parameters, threads=threads)
    for name, array in inputs.items():
        executor.buffer(name, n_tokens)[:] = array
    step = step_of(plan, [0] * n_tokens, outputs=outputs)
    executor.run(step)
    result = {name: executor.buffer(name, n_tokens).copy() for name in inputs}
    executor.close()
    return result, step.logits


def same_bits(actual: Array, expected: Array) -> None:
    assert actual.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))
