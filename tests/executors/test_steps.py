"""Bad steps, cancelling, closing: the same typed errors from every executor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import edgesparse
from edgesparse.errors import Cancelled, ContextOverflow, UsageError
from edgesparse.executors.base import CancelFlag, Executor, KVCache
from tests.executors.running import EXECUTORS, bits, executor_of, load_tiny, step_of
from tests.models import tiny

N = tiny.N_VOCAB


@pytest.fixture(scope="module")
def model() -> Iterator[edgesparse.Model]:
    with load_tiny("bitnet-i2_s.gguf") as loaded:
        yield loaded


@pytest.fixture(params=EXECUTORS)
def executor(model: edgesparse.Model, request: pytest.FixtureRequest) -> Iterator[Executor]:
    with executor_of(model, request.param) as made:
        yield made


BAD: list[dict[str, Any]] = [
    {"tokens": [1, N]},
    {"tokens": [-1, 1]},
    {"tokens": [1, 2**31 - 1]},
    {"tokens": []},
    {"tokens": [1] * 513},
    {"tokens": [1, 2], "positions": [0, 256]},
    {"tokens": [1, 2], "positions": [-1, 0]},
    {"tokens": [1, 2], "positions": [0]},
    {"tokens": [1, 2], "sequences": [0, 1]},
    {"tokens": [1, 2], "sequences": [0, -1]},
    {"tokens": [1, 2], "sequences": [0]},
    {"tokens": [1, 2], "outputs": [2]},
    {"tokens": [1, 2], "outputs": [-1]},
    {"tokens": [1, 2], "caches": []},
]


def test_bad_steps(executor: Executor) -> None:
    refused = 0
    for fields in BAD:
        step = step_of(executor, **fields)
        with pytest.raises(UsageError):
            executor.run(step)
        refused += 1
    small = step_of(executor, [1, 2], caches=[KVCache(executor.plan, 1)])
    wide = step_of(executor, [1, 2])
    wide.logits = np.zeros((2, N + 1), np.float32)
    for step in (small, wide):
        with pytest.raises(UsageError):
            executor.run(step)
    for begin, end in ((-1, 1), (2, 1), (0, len(executor.plan.ops) + 1)):
        with pytest.raises(UsageError):
            executor.run(step_of(executor, [1]), begin, end)
    assert refused == 14
    executor.run(step_of(executor, [1, 2]))  # and it still works


def test_no_outputs_and_ascending_outputs(executor: Executor) -> None:
    whole = step_of(executor, tiny.PROMPT)
    executor.run(whole)
    some = step_of(executor, tiny.PROMPT, outputs=[3, 11, 19])
    executor.run(some)
    np.testing.assert_array_equal(bits(some.logits), bits(whole.logits[[3, 11, 19]]))
    none = step_of(executor, tiny.PROMPT, outputs=[])
    executor.run(none)
    np.testing.assert_array_equal(none.caches[0].raw, whole.caches[0].raw)


def test_a_set_flag_stops_before_the_first_op(executor: Executor) -> None:
    flag = CancelFlag()
    flag.set()
    step = step_of(executor, tiny.PROMPT, cancel=flag)
    with pytest.raises(Cancelled) as caught:
        executor.run(step)
    assert caught.value.exit_code == 130
    assert not step.logits.any()
    executor.run(step_of(executor, tiny.PROMPT))


def test_times_add_up_per_op(executor: Executor) -> None:
    op_ns = np.zeros(len(executor.plan.ops), np.uint64)
    executor.run(step_of(executor, tiny.PROMPT, op_ns=op_ns))
    assert (op_ns > 0).all()
    before = op_ns.copy()
    executor.run(step_of(executor, tiny.PROMPT, op_ns=op_ns), 1, 3)
    assert (op_ns > before).nonzero()[0].tolist() == [1, 2]


@pytest.mark.parametrize("name", EXECUTORS)
def test_a_closed_executor_says_so(model: edgesparse.Model, name: str) -> None:
    with executor_of(model, name) as executor:
        step = step_of(executor, [1])
        executor.close()
        executor.close()
        with pytest.raises(UsageError, match="closed"):
            executor.run(step)
        with pytest.raises(UsageError, match="closed"):
            executor.buffer("x", 1)


def test_bad_prompts(model: edgesparse.Model) -> None:
    for ids in ([], [N], [-1]):
        with pytest.raises(UsageError):
            model.logits(ids)
    with pytest.raises(ContextOverflow):
        model.logits([1] * 257)
    assert model.logits([1] * 256).shape == (256, N)
