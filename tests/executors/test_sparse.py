"""Skipping dead neurons changes no bit: whole models and single ops, lists and dense fallbacks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

import edgesparse
from bench.make_model import make_model
from bench.model_shapes import Shape
from edgesparse.errors import UsageError
from edgesparse.executors.base import KVCache, Parameters
from edgesparse.executors.lockstep import lockstep
from edgesparse.executors.native import NativeExecutor, isa_names
from edgesparse.executors.portable import PortableExecutor
from edgesparse.executors.reference import ReferenceExecutor
from edgesparse.formats import Format
from edgesparse.plan.op import LOGITS, Embed, Experts, Linear, Output
from tests.executors.running import EXECUTORS, bits, executor_of, load_tiny, run_in_chunks, step_of
from tests.models import tiny
from tests.portable.packing import random_weight
from tests.portable.running import plan_of

F32 = np.float32
WIDE = Shape("made up for this test", 256, 768, 2, 4, 2, 64, 800, 64, 10_000.0)
"""768 neurons: several chunks of 32, and more than one packed block of outputs for `down`."""
DEAD = (None, 0.0, 0.3, 0.8, 1.0)


@pytest.fixture(scope="module", params=DEAD, ids=lambda d: f"dead-{d}")
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("sparse") / "wide.gguf"
    make_model(file, WIDE, "tq2_0", dead_gates=request.param)
    return str(file)


def test_same_bits_with_and_without(path: str) -> None:
    tokens = np.random.default_rng(3).integers(0, WIDE.n_vocab, 23).tolist()
    with edgesparse.load(path, sparse="off", executor="reference") as model:
        truth = bits(run_in_chunks(model.engine.executor, tokens, 23))
    n_cases = 0
    with edgesparse.load(path, executor="reference") as model:
        for name, threads in itertools.product(EXECUTORS, (1, 2, 3)):
            for isa in list(isa_names()) if name == "native" else [None]:
                with executor_of(model, name, threads=threads, isa=isa) as executor:
                    for chunk in (1, 2, 4, 5, 23):
                        got = bits(run_in_chunks(executor, tokens, chunk))
                        assert np.array_equal(got, truth), (name, threads, isa, chunk)
                        n_cases += 1
    assert n_cases == 3 * 5 * (2 + len(isa_names()))


def test_sequences_decoding_together(path: str) -> None:
    """Two to four tokens of different sequences go through the lists one by one."""
    results = []
    for sparse in ("off", "auto"):
        with edgesparse.load(path, sparse=sparse, threads=2) as model:
            executor = model.engine.executor
            caches = [KVCache(executor.plan, 8) for _ in range(4)]
            for position, n in enumerate((4, 3, 2)):
                step = step_of(
                    executor,
                    [5 + position, 300, 17, 42][:n],
                    positions=[position] * n,
                    sequences=list(range(n)),
                    caches=caches,
                )
                executor.run(step)
                results.append(bits(step.logits))
    assert len(results) == 6
    for off, auto in zip(results[:3], results[3:], strict=True):
        assert np.array_equal(off, auto)


def test_lockstep_of_sparse_plans(path: str) -> None:
    with edgesparse.load(path, executor="reference") as model:
        for chunk in (1, 7):
            with (
                executor_of(model, "native") as left,
                executor_of(model, "portable") as right,
            ):
                report = lockstep(left, right, list(range(14)), chunk=chunk)
                assert report.difference is None
                assert report.n_ops == len(model.engine.plan.ops) * 14 // chunk


@pytest.mark.parametrize("name", [n for n in tiny.NAMES if n.startswith(("bitnet", "mixtral-tq"))])
def test_tiny_models(name: str) -> None:
    tokens = list(range(1, 20))
    for fused in (True, False):
        logits = []
        for sparse, executor in itertools.product(("off", "auto"), EXECUTORS):
            with load_tiny(name, sparse=sparse, executor=executor, fused=fused) as model:
                skipping = [
                    op
                    for op in model.engine.plan.ops
                    if isinstance(op, (Linear, Experts)) and op.skip_zeros
                ]
                assert bool(skipping) == (sparse == "auto")
                logits.append(bits(model.logits(tokens)))
        assert len(logits) == 6
        assert all(np.array_equal(logits[0], other) for other in logits[1:])


def test_models_without_a_relu_have_nothing_to_skip() -> None:
    with load_tiny("llama-k.gguf") as model:
        assert all(not op.skip_zeros for op in model.engine.plan.ops if isinstance(op, Linear))
        assert all(w.format is not Format.T2N for w in model.parameters.weights.values())


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="sparse must be auto or off"):
        load_tiny("bitnet-tq1_0.gguf", sparse="maybe")


def test_bytes_read_follow_the_live_neurons() -> None:
    """The engine's count equals what the activations say must be read."""
    with edgesparse.load(tiny.path("bitnet-tq1_0.gguf"), threads=2) as model:
        executor, weights = model.engine.executor, model.parameters.weights
        plan = executor.plan
        read = np.zeros(len(plan.ops), np.uint64)
        executor.run(step_of(executor, [7], op_bytes=read))
        n_checked = 0
        for i, op in enumerate(plan.ops):
            if not isinstance(op, Linear):
                assert read[i] == 0
                continue
            expected = sum(weights[out.weight].n_bytes for out in op.outputs)
            if op.skip_zeros or any(out.live for out in op.outputs):
                assert 0 < read[i] < expected
                n_checked += 1
            else:
                assert read[i] == expected
        assert n_checked == 2 * plan.n_layers


# ---- one op at a time --------------------------------------------------------------------------


def _executors(parameters: Parameters, op: Linear, width: int, k: int) -> Iterator[object]:
    buffers = {"x": k, "gate": width, "up": width}
    plan = plan_of(op, buffers=buffers, max_tokens=8)
    yield ReferenceExecutor(plan, parameters)
    yield PortableExecutor(plan, parameters, threads=2)
    for isa in isa_names():
        yield NativeExecutor(plan, parameters, threads=2, isa=isa)


@pytest.mark.parametrize("fmt", [f for f in Format if not (f.is_neuron_major or f.is_aside)])
def test_live_rows_of_every_format(fmt: Format) -> None:
    """Dead rows are +0 whatever the weights' format, the share of live ones and the batch."""
    rng = np.random.default_rng(int(fmt))
    n_cases = 0
    for (n_rows, k), n_tokens, share in itertools.product(
        ((1, 1), (37, 200), (130, 129)), (1, 3, 6), (0.0, 0.3, 1.0)
    ):
        weight, _ = random_weight(rng, fmt, n_rows, k)
        bias = rng.normal(size=n_rows).astype(F32)
        parameters = Parameters({"w": weight}, {"b": bias}, {})
        op = Linear("op", "x", (Output("w", "up", bias="b", live="gate"),))
        x = rng.normal(size=(n_tokens, k)).astype(F32)
        gate = np.where(rng.random((n_tokens, n_rows)) < share, F32(1e-30), F32(-0.0))
        dense = Linear("op", "x", (Output("w", "up", bias="b"),))
        results = []
        for made in (*_executors(parameters, op, n_rows, k),):
            made.buffer("x", n_tokens)[:] = x
            made.buffer("gate", n_tokens)[:] = gate
            made.buffer("up", n_tokens)[:] = np.nan
            made.run(step_of(made, [0] * n_tokens, caches=[KVCache(made.plan, 8)], outputs=[]))
            results.append(made.buffer("up", n_tokens).copy())
            made.close()
        full = next(_executors(parameters, dense, n_rows, k))
        full.buffer("x", n_tokens)[:] = x
        full.run(step_of(full, [0] * n_tokens, caches=[KVCache(full.plan, 8)], outputs=[]))
        expected = bits(np.where(gate > 0, full.buffer("up", n_tokens), F32(0)))
        assert len(results) == 2 + len(isa_names())
        assert all(np.array_equal(bits(got), expected) for got in results)
        n_cases += 1
    assert n_cases == 27


def test_neuron_major_weights_cannot_be_an_embedding() -> None:
    weight, _ = random_weight(np.random.default_rng(0), Format.T2N, 13, 64)
    plan = plan_of(Embed("e", "w", "x"), buffers={"x": 64}, n_vocab=13)
    with pytest.raises(edgesparse.errors.EdgesparseError, match="refused the plan"):
        NativeExecutor(plan, Parameters({"w": weight}, {}, {}), threads=1)


def test_live_outputs_have_no_residual_and_are_no_logits() -> None:
    weight, _ = random_weight(np.random.default_rng(0), Format.T2, 16, 64)
    parameters = Parameters({"w": weight}, {}, {})
    buffers = {"x": 64, "gate": 16, "up": 16}
    n_refused = 0
    for output in (
        Output("w", "up", add=True, live="gate"),
        Output("w", LOGITS, live="gate"),
        Output("w", "up", live="up"),
    ):
        op = Linear("op", "x", (output,), outputs_only=output.dst == LOGITS)
        plan = plan_of(op, buffers=buffers, n_vocab=16)
        with pytest.raises(edgesparse.errors.EdgesparseError, match="refused the plan"):
            NativeExecutor(plan, parameters, threads=1)
        n_refused += 1
    assert n_refused == 3
