"""Thresholds of an activation, on one op: the same bits everywhere, hostile numbers refused."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from edgesparse.errors import EdgesparseError
from edgesparse.executors.base import KVCache, Parameters
from edgesparse.executors.native import NativeExecutor, isa_names
from edgesparse.executors.portable import PortableExecutor
from edgesparse.executors.reference import ReferenceExecutor
from edgesparse.formats import Format
from edgesparse.formats.signs import sign_planes
from edgesparse.ops.linear import cut
from edgesparse.plan.op import LOGITS, Linear, Output
from tests.executors.running import bits, step_of
from tests.portable.packing import random_weight
from tests.portable.running import plan_of

F32 = np.float32
WIDTH, K = 130, 129
CUTS = ((0.0, 0.7), (0.4, 0.0), (0.3, 0.5))


def test_the_rule() -> None:
    """What equals the cutoff stays; NaN stays; zeros below it are +0."""
    t = F32(0.01)
    y = np.array([t, np.nextafter(t, F32(0)), -0.0, -3, 5, np.nan, np.inf, -np.inf], F32)
    expected = np.array([t, 0, 0, 0, 5, np.nan, np.inf, 0], F32)
    assert np.array_equal(bits(cut(y, 0.0, 0.01)), bits(expected))
    shifted = cut(np.array([2, 0.5, -1], F32), 0.5, 0.0)
    assert np.array_equal(bits(shifted), bits(np.array([1.5, 0, 0], F32)))


def results_of(op: Linear, parameters: Parameters, x: np.ndarray) -> list[dict[str, np.ndarray]]:
    """What gate and up hold, by executor: the reference, numba, C on every instruction set."""
    buffers = {"x": K, "gate": WIDTH, "up": WIDTH}
    plan = plan_of(op, buffers=buffers, max_tokens=8)
    executors = [ReferenceExecutor(plan, parameters), PortableExecutor(plan, parameters, threads=2)]
    for isa, threads in itertools.product(isa_names(), (1, 2)):
        executors.append(NativeExecutor(plan, parameters, threads=threads, isa=isa))
    found, n = [], len(x)
    for executor in executors:
        executor.buffer("x", n)[:] = x
        for name in ("gate", "up"):
            executor.buffer(name, n)[:] = np.nan
        executor.run(step_of(executor, [0] * n, caches=[KVCache(plan, 8)], outputs=[]))
        found.append({name: executor.buffer(name, n).copy() for name in ("gate", "up")})
        executor.close()
    assert len(found) == 2 + 2 * len(isa_names())
    return found


@pytest.mark.parametrize("fmt", [f for f in Format if not (f.is_neuron_major or f.is_aside)])
def test_gate_and_up_of_every_format(fmt: Format) -> None:
    """The gate is cut, and `up` skips what is not above 0 then; with a bias, and predicted."""
    rng = np.random.default_rng(int(fmt))
    gate, _ = random_weight(rng, fmt, WIDTH, K)
    up, _ = random_weight(rng, fmt, WIDTH, K)
    bias = rng.normal(size=WIDTH).astype(F32)
    parameters = Parameters({"g": gate, "u": up}, {"b": bias}, {})
    plain = Linear("op", "x", (Output("g", "gate", bias="b"), Output("u", "up")))
    n_cases, n_cut = 0, 0
    for (shift, cutoff), n_tokens in itertools.product(CUTS, (1, 3, 6)):
        x = rng.normal(size=(n_tokens, K)).astype(F32)
        dense = results_of(plain, parameters, x)[0]
        scale = F32(np.abs(dense["gate"]).mean())
        shift, cutoff = float(F32(shift) * scale), float(F32(cutoff) * scale)
        first = replace(plain.outputs[0], shift=shift, cutoff=cutoff)
        skipping = replace(plain, outputs=(first, replace(plain.outputs[1], live="gate")))
        expected = dense["gate"] - F32(shift)
        expected[expected < F32(cutoff)] = 0
        for found in results_of(skipping, parameters, x):
            assert np.array_equal(bits(found["gate"]), bits(expected))
            up_expected = np.where(expected > 0, dense["up"], F32(0))
            assert np.array_equal(bits(found["up"]), bits(up_expected))
            n_cases += 1
        n_cut += int((dense["gate"] > 0).sum() - (expected > 0).sum())
    assert n_cases == 9 * (2 + 2 * len(isa_names()))
    assert n_cut > 50


@pytest.mark.parametrize("fmt", [Format.T2, Format.Q8, Format.Q8R, Format.F16])
def test_behind_a_prediction(fmt: Format) -> None:
    rng = np.random.default_rng(3)
    weight, _ = random_weight(rng, fmt, WIDTH, K)
    parameters = Parameters({"g": weight}, {}, {}, signs={"g": sign_planes(weight)})
    predicted = Linear("op", "x", (Output("g", "gate", signs="g"),))
    for n_tokens in (1, 3, 6):
        x = rng.normal(size=(n_tokens, K)).astype(F32)
        plain = results_of(predicted, parameters, x)[0]["gate"]
        cutoff = float(F32(np.abs(plain).mean()))
        op = replace(predicted, outputs=(replace(predicted.outputs[0], cutoff=cutoff),))
        expected = bits(np.where(plain < F32(cutoff), F32(0), plain))
        for found in results_of(op, parameters, x):
            assert np.array_equal(bits(found["gate"]), expected)


BAD = (float("nan"), float("inf"), -0.5)


@pytest.mark.parametrize("field", ["shift", "cutoff"])
@pytest.mark.parametrize("value", BAD, ids=str)
def test_the_engine_refuses_bad_numbers(field: str, value: float) -> None:
    weight, _ = random_weight(np.random.default_rng(0), Format.T2, 16, 64)
    op = Linear("op", "x", (Output("w", "gate", **{field: value}),))
    plan = plan_of(op, buffers={"x": 64, "gate": 16})
    with pytest.raises(EdgesparseError, match="refused the plan"):
        NativeExecutor(plan, Parameters({"w": weight}, {}, {}), threads=1)


@pytest.mark.parametrize("field", ["shift", "cutoff"])
def test_what_is_added_and_logits_are_not_cut(field: str) -> None:
    weight, _ = random_weight(np.random.default_rng(0), Format.T2, 16, 64)
    parameters = Parameters({"w": weight}, {}, {})
    for output in (
        Output("w", "gate", add=True, **{field: 0.5}),
        Output("w", LOGITS, **{field: 0.5}),
    ):
        op = Linear("op", "x", (output,), outputs_only=output.dst == LOGITS)
        plan = plan_of(op, buffers={"x": 64, "gate": 16}, n_vocab=16)
        with pytest.raises(EdgesparseError, match="refused the plan"):
            NativeExecutor(plan, parameters, threads=1)
        with pytest.raises(EdgesparseError, match="not cut"):
            PortableExecutor(plan, parameters, threads=1)
