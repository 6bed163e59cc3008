"""Mixture of experts: the choice, the bytes that are read, threads and hostile numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import edgesparse
from edgesparse.errors import EdgesparseError, UsageError
from edgesparse.executors.base import Parameters
from edgesparse.executors.native import NativeExecutor, isa_names
from edgesparse.executors.portable import PortableExecutor
from edgesparse.executors.reference import ReferenceExecutor
from edgesparse.formats import Format
from edgesparse.ops.experts import combine, route
from edgesparse.plan.op import Combine, Experts, Route
from tests.executors.running import EXECUTORS, bits, executor_of, load_tiny, run_in_chunks, step_of
from tests.models import tiny
from tests.portable.packing import random_weight
from tests.portable.running import plan_of

MODELS = [name for name in tiny.NAMES if name.startswith("mixtral") or "moe" in name]


# ---- choosing and adding up ----------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False])
def test_route_is_a_softmax_and_its_largest(normalize: bool) -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(0, 3, (50, 19)).astype(np.float32)
    for n_used in (1, 4, 19):
        found = route(scores, n_used, normalize=normalize)
        exact = np.exp(scores.astype(np.float64))
        exact /= exact.sum(axis=1, keepdims=True)
        for row, p in zip(found, exact, strict=True):
            chosen = row[:n_used].astype(int)
            assert list(chosen) == sorted(np.argsort(-p)[:n_used])
            expected = p[chosen] / (p[chosen].sum() if normalize else 1)
            np.testing.assert_allclose(row[n_used:], expected, rtol=1e-5)


def test_of_equal_scores_the_lower_number_is_chosen() -> None:
    scores = np.array([[1, 2, 2, 0, 2], [0, -0.0, 0, 0, 0]], np.float32)
    assert route(scores, 2, normalize=True)[:, :2].tolist() == [[1, 2], [0, 1]]


def _small_executors(n_experts: int, n_used: int, width: int, *, normalize: bool, gate: bool):
    ops = (
        Route("route", "scores", "route", n_experts, n_used, normalize),
        Combine("combine", "rows", "route", "x", n_used, "shared", "share" if gate else None),
    )
    buffers = {"scores": n_experts, "route": 2 * n_used, "rows": n_used * width}
    buffers |= {"x": width, "shared": width, "share": 1}
    plan = plan_of(*ops, buffers=buffers, max_tokens=20)
    unused, _ = random_weight(np.random.default_rng(0), Format.F32, 8, 8)
    parameters = Parameters({"unused": unused}, {}, {})
    yield ReferenceExecutor(plan, parameters)
    yield PortableExecutor(plan, parameters, threads=3)
    for isa in isa_names():
        yield NativeExecutor(plan, parameters, threads=3, isa=isa)


@pytest.mark.parametrize(("n_experts", "n_used", "width"), [(1, 1, 3), (17, 5, 300), (64, 64, 31)])
def test_executors_choose_and_add_up_alike(n_experts: int, n_used: int, width: int) -> None:
    rng = np.random.default_rng(2)
    values = {
        "scores": np.round(rng.normal(0, 40, (20, n_experts)) * 4) / 4,  # with equal ones
        "rows": rng.normal(0, 1, (20, n_used * width)),
        "x": rng.normal(0, 1, (20, width)),
        "shared": rng.normal(0, 1, (20, width)),
        "share": rng.normal(0, 30, (20, 1)),
    }
    n_compared = 0
    for normalize, gate in itertools.product((True, False), (True, False)):
        results = []
        for executor in _small_executors(n_experts, n_used, width, normalize=normalize, gate=gate):
            for name, value in values.items():
                executor.buffer(name, 20)[:] = value
            executor.run(step_of(executor, [0] * 20))
            results.append([bits(executor.buffer(name, 20)).copy() for name in ("route", "x")])
            executor.close()
        for found in results[1:]:
            assert all(np.array_equal(a, b) for a, b in zip(found, results[0], strict=True))
            n_compared += 1
    assert n_compared == 4 * (1 + len(isa_names()))


def test_combine() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    weights = np.array([[0.5, 0.25, 2]], np.float32)
    dst = np.ones((1, 4), np.float32)
    combine(dst, rows, weights, np.full((1, 4), 8, np.float32), np.zeros(1, np.float32))
    assert dst.tolist() == [[1 + 17 + 4, 1 + 19.75 + 4, 1 + 22.5 + 4, 1 + 25.25 + 4]]


# ---- whole models --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_threads(name: str) -> None:
    """One to four threads, chunks of 1, 5 and all, every executor: the same bits."""
    found = []
    with load_tiny(name) as model:
        for other, threads in itertools.product(EXECUTORS, (1, 2, 3, 4)):
            if other == "reference" and threads > 1:
                continue
            options = {} if other == "reference" else {"threads": threads}
            with executor_of(model, other, **options) as executor:
                found += [bits(run_in_chunks(executor, tiny.PROMPT, n)) for n in (1, 5, 20)]
    assert len(found) == 27
    assert all(np.array_equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("n_tokens", [1, 11])
def test_only_chosen_experts_are_read(name: str, n_tokens: int) -> None:
    """An expert's bytes count once for all tokens of a step, and not at all if none chose it."""
    with edgesparse.load(tiny.path(name), threads=2, head="exact", sparse="off") as model:
        executor, weights = model.engine.executor, model.parameters.weights
        plan = executor.plan
        read = np.zeros(len(plan.ops), np.uint64)
        n_checked = n_left_out = 0
        step = step_of(executor, tiny.PROMPT[:n_tokens], op_bytes=read)
        for i, op in enumerate(plan.ops):
            executor.run(step, i, i + 1)
            if not isinstance(op, Experts):
                continue
            chosen = set(executor.buffer(op.route, n_tokens)[:, : op.n_used].astype(int).flat)
            n_left_out += len(op.experts) - len(chosen)
            names = [out.weight for number in chosen for out in op.experts[number]]
            expected = sum(weights[n].n_bytes for n in names)
            assert read[i] == expected
            n_checked += 1
    assert n_checked >= 2
    assert n_tokens > 1 or n_left_out > 0


def test_dead_neurons_of_chosen_experts_are_not_read() -> None:
    """Of `up` the rows of live gates, of `down` what meets an input that is not 0."""
    with edgesparse.load(tiny.path("mixtral-tq2_0.gguf"), threads=2) as model:
        executor, weights = model.engine.executor, model.parameters.weights
        ops = {op.name: i for i, op in enumerate(executor.plan.ops)}
        read = np.zeros(len(ops), np.uint64)
        executor.run(step_of(executor, [7], op_bytes=read))
        op = executor.plan.ops[ops["blk.0.experts_gate_up"]]
        gate, up = (weights[out.weight] for out in op.experts[0])
        n_live = int((executor.buffer("expert_gate", 1) > 0).sum())
        assert 0 < n_live < op.n_used * up.n_rows
        row = up.n_bytes // up.n_rows
        assert read[ops["blk.0.experts_gate_up"]] == op.n_used * gate.n_bytes + n_live * row
        down = weights[executor.plan.ops[ops["blk.0.experts_down"]].experts[0][0].weight]
        assert read[ops["blk.0.experts_down"]] < 0.6 * op.n_used * down.n_bytes


def test_formats_of_experts_in_bit_planes() -> None:
    """Any format serves experts: ternary bit planes with tables, five to a byte."""
    found = []
    for ternary in ("t2", "t5", "bst"):
        for executor in ("native", "portable"):
            with load_tiny("mixtral-tq2_0.gguf", ternary=ternary, executor=executor) as model:
                kinds = {w.format.name for w in model.parameters.weights.values()}
                assert ternary.upper() in kinds
                found.append(bits(model.logits(tiny.PROMPT)))
    assert len(found) == 6
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_a_hostile_choice_is_refused() -> None:
    """Numbers of experts lie in a buffer; those that name none must not be followed."""
    with load_tiny("mixtral-bf16", executor="native", threads=2) as model:
        executor = model.engine.executor
        at = next(i for i, op in enumerate(executor.plan.ops) if isinstance(op, Experts))
        for number in (-1.0, 6.0, 1e30, float("nan")):
            executor.buffer("route", 1)[0, 0] = number
            with pytest.raises(EdgesparseError, match="refused the step"):
                executor.run(step_of(executor, [1]), at, at + 1)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_scores_that_are_no_numbers_choose_some_expert() -> None:
    with load_tiny("mixtral-bf16") as model:
        for name in EXECUTORS:
            with executor_of(model, name) as executor:
                at = next(i for i, op in enumerate(executor.plan.ops) if isinstance(op, Route))
                executor.buffer("scores", 1)[:] = np.nan
                executor.run(step_of(executor, [1]), at, at + 1)
                chosen = executor.buffer("route", 1)[0, :2]
                assert ((chosen >= 0) & (chosen < 6)).all()
                assert chosen[0] != chosen[1]


def test_a_mixture_is_not_calibrated() -> None:
    from edgesparse.sparsity.calibrate import calibrate_thresholds

    with load_tiny("mixtral-bf16", fused=False) as model:
        for method in ("teal", "cats", "chess"):
            with pytest.raises(UsageError, match="choosing experts"):
                calibrate_thresholds(model, [1] * 200, method=method, sparsity=0.4)


def test_every_expert_is_used() -> None:
    """Over a long prompt, so that the tests above are about all of them."""
    with load_tiny("qwen3moe-bf16", executor="native", threads=2) as model:
        executor = model.engine.executor
        n = len(tiny.LONG_PROMPT)
        run_in_chunks(executor, tiny.LONG_PROMPT, n)
        chosen = executor.buffer("route", n)[:, :3].copy()
    assert set(chosen.astype(int).flat) == set(range(7))
    assert all(len(set(row)) == 3 for row in chosen)
