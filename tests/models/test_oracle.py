"""The default model against its oracle, an independent fp32 program.

What to ask for follows from `noise_floor.json`: honest evaluations of the same rule lie 0.01 nats
(median) and 0.05 to 0.06 nats (95th percentile) apart and disagree on the top token at one to two
positions in a hundred, all of them near ties.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

import edgesparse
from edgesparse.executors import make_executor
from edgesparse.executors.base import Executor, KVCache, Step
from tests.models import noise_floor as floor

MEASURED = json.loads(floor.TABLE.read_text())
CLEAR_MARGIN = 0.3
"""Nats by which the oracle leads where everybody must agree; no pair flipped more than 0.2."""
TEACHER_FORCED_STEP = 128


@pytest.fixture(scope="module")
def model() -> Iterator[edgesparse.Model]:
    with edgesparse.load(threads=2, head="exact") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def native_logits(model: edgesparse.Model) -> list[np.ndarray]:
    return [model.logits(floor.ids_of(case)) for case in floor.cases()]


def worst(key: str) -> float:
    return max(row[key] for row in MEASURED["pairs"].values())


def test_the_measured_floor_is_complete() -> None:
    assert MEASURED["positions"] == sum(len(floor.ids_of(case)) for case in floor.cases()) == 648
    assert len(MEASURED["pairs"]) == 6
    assert worst("widest_flipped_margin") < CLEAR_MARGIN
    assert 0 < worst("median") < 0.015


def test_distance_to_the_oracle(native_logits: list[np.ndarray]) -> None:
    cases = floor.cases()
    ours = [floor.summary(*pair) for pair in zip(cases, native_logits, strict=True)]
    oracle = [floor.oracle_summary(case) for case in cases]
    lead = np.concatenate([floor.margins(case) for case in cases])
    found = floor.distances(ours, oracle, lead)
    print(found)
    assert found["agreement"] >= 0.97
    assert found["median"] <= min(0.02, 1.5 * worst("median")), found
    assert found["p95"] <= min(0.08, 1.5 * worst("p95")), found
    assert found["max"] <= 0.35, found
    assert found["widest_flipped_margin"] < CLEAR_MARGIN, found
    assert (lead > CLEAR_MARGIN).sum() > 450  # most positions are clear


def test_greedy_text(model: edgesparse.Model) -> None:
    """Equal ids until the first near tie of the oracle."""
    compared = 0
    for case in floor.cases():
        start = len(case["prompt_ids"]) - 1
        close = np.flatnonzero(floor.margins(case)[start:] < CLEAR_MARGIN)
        expected = case["greedy_ids"][: int(close[0]) if close.size else None]
        if not expected:
            continue
        options = {"temperature": 0.0, "repeat_penalty": 1.0, "loop_guard": False}
        found = model.generate(case["prompt_ids"], max_tokens=len(expected), **options).ids
        assert list(found) == expected, case["text"]
        compared += len(expected)
    assert compared >= 20


def run_steps(executor: Executor, ids: list[int], last: int) -> np.ndarray:
    """Logits of the last `last` tokens, in steps of at most `TEACHER_FORCED_STEP`."""
    cache, n = KVCache(executor.plan, len(ids)), len(ids)
    rows = []
    for first in range(0, n, TEACHER_FORCED_STEP):
        part = np.asarray(ids[first : first + TEACHER_FORCED_STEP], np.int32)
        positions = np.arange(first, first + len(part), dtype=np.int32)
        outputs = np.flatnonzero(positions >= n - last).astype(np.int32)
        logits = np.empty((len(outputs), executor.plan.n_vocab), np.float32)
        sequences = np.zeros(len(part), np.int32)
        executor.run(Step(part, positions, sequences, outputs, [cache], logits))
        rows.append(logits)
    return np.concatenate(rows)


def test_portable_gives_the_same_bits(
    model: edgesparse.Model, native_logits: list[np.ndarray]
) -> None:
    executor = make_executor("portable", model.engine.plan, model.parameters, threads=2)
    for case, expected in zip(floor.cases(), native_logits, strict=True):
        found = run_steps(executor, floor.ids_of(case), len(expected))
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))
    executor.close()


def test_reference_gives_the_same_bits(
    model: edgesparse.Model, native_logits: list[np.ndarray]
) -> None:
    """Two cases, a chat and a raw prompt; numpy takes seconds for each."""
    executor = make_executor("reference", model.engine.plan, model.parameters, threads=1)
    for index in (0, 5):
        expected = native_logits[index]
        found = run_steps(executor, floor.ids_of(floor.cases()[index]), len(expected))
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))
