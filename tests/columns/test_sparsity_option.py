"""Loading with a calibration: what is stored, when it applies, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from edgesparse.errors import EdgesparseError, UsageError
from edgesparse.executors.base import Parameters
from edgesparse.executors.lockstep import lockstep
from edgesparse.executors.native import NativeExecutor, isa_names
from edgesparse.executors.portable import PortableExecutor
from edgesparse.executors.reference import ReferenceExecutor
from edgesparse.formats import Format
from edgesparse.plan.cost import op_bytes
from edgesparse.plan.op import Linear, Output
from edgesparse.sparsity import Thresholds, fingerprint
from tests.executors.running import EXECUTORS, bits, executor_of, load_tiny, step_of
from tests.portable.packing import random_weight
from tests.portable.running import plan_of

MODEL = "llama-k.gguf"


def thresholds_for(name: str, **changes: object) -> Thresholds:
    with load_tiny(name) as model:
        ops = [op.name for op in model.engine.plan.ops if isinstance(op, Linear)]
        fields = {
            "model_fingerprint": fingerprint(model.config, model.parameters.vectors),
            "method": "teal",
            "sparsity": 0.4,
            "thresholds": {op: 0.3 if op.endswith("qkv") else 0.02 for op in ops if op != "head"},
            "dense_tokens": 4,
        }
    return Thresholds(**(fields | changes))  # type: ignore[arg-type]


def test_generated_tokens_ignore_small_inputs_and_prompts_do_not() -> None:
    tokens = [5, 9, 2, 7, 1, 3, 8, 4]
    found = {}
    with load_tiny(MODEL) as plain:
        dense = bits(plain.logits(tokens))
    for name in EXECUTORS:
        with load_tiny(MODEL, sparsity=thresholds_for(MODEL), executor=name, threads=2) as model:
            assert "teal thresholds" in model.info.quality
            stored = {w.format.is_column for w in model.parameters.weights.values()}
            assert stored == {False, True}
            assert np.array_equal(bits(model.logits(tokens)), dense)
            engine, cache = model.engine, model.engine.new_cache(16)
            rows = [
                engine.forward(cache, tokens[i : i + 1], i, thresholds=True)
                for i in range(len(tokens))
            ]
            found[name] = bits(np.concatenate(rows))
            chunked = engine.forward(
                engine.new_cache(16), tokens, 0, outputs="all", thresholds=True, chunk=3
            )
            assert np.array_equal(bits(chunked), found[name])
    assert all(np.array_equal(found["reference"], other) for other in found.values())
    assert np.array_equal(found["reference"][:4], dense[:4])
    assert not np.array_equal(found["reference"][4:], dense[4:])


def test_lockstep_compares_with_thresholds() -> None:
    with (
        load_tiny(MODEL, sparsity=thresholds_for(MODEL)) as model,
        executor_of(model, "native") as left,
        executor_of(model, "portable") as right,
    ):
        assert lockstep(left, right, [3, 1, 4, 1, 5, 9, 2, 6], chunk=1).difference is None


def test_a_relu_keeps_the_inputs_of_gate_and_up() -> None:
    """Its up waits for the gate and is stored by rows; the other ops ignore small inputs."""
    found = []
    name = "bitnet-tq1_0.gguf"
    for executor in EXECUTORS:
        with load_tiny(name, sparsity=thresholds_for(name), executor=executor) as model:
            plan, engine, cache = model.engine.plan, model.engine, model.engine.new_cache(16)
            ops = {op.name: op for op in plan.ops if isinstance(op, Linear)}
            assert not ops["blk.0.gate_up"].threshold
            assert ops["blk.0.qkv"].threshold > 0
            assert ops["blk.0.attn_output"].threshold > 0
            rows = [
                engine.forward(cache, [token], i, thresholds=True)
                for i, token in enumerate([5, 9, 2, 7, 1, 3, 8, 4])
            ]
            found.append(bits(np.concatenate(rows)))
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_costs_follow_what_the_calibration_expects() -> None:
    with load_tiny(MODEL) as dense, load_tiny(MODEL, sparsity=thresholds_for(MODEL)) as model:
        sparse, plain = (
            {
                op.name: op_bytes(op, m.parameters, m.engine.plan, 0)
                for op in m.engine.plan.ops
                if isinstance(op, Linear)
            }
            for m in (model, dense)
        )
        assert sparse["head"] == plain["head"]
        weights = model.parameters.weights
        n_checked = 0
        for op in model.engine.plan.ops:
            if isinstance(op, Linear) and op.threshold:
                full = sum(weights[out.weight].n_bytes for out in op.outputs)
                assert 0.6 * full <= sparse[op.name] < 0.7 * full
                n_checked += 1
        assert n_checked == 4 * model.engine.plan.n_layers


def test_a_file_works_as_well_and_a_foreign_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "teal.json"
    thresholds_for(MODEL).save(file)
    with load_tiny(MODEL, sparsity=file) as model:
        assert any(op.threshold for op in model.engine.plan.ops if isinstance(op, Linear))
    with pytest.raises(EdgesparseError, match="model"):
        load_tiny("bitnet-tq1_0.gguf", sparsity=file)


def test_a_number_alone_calibrates_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = []
    for number, just_now in ((0.4, True), ("0.4", False), (0.25, True)):
        with load_tiny(MODEL, sparsity=number, executor="native", threads=2) as model:
            ops = [op for op in model.engine.plan.ops if isinstance(op, Linear) and op.threshold]
            assert len(ops) == 4 * model.engine.plan.n_layers
            assert all(abs(op.dead_share - float(number)) < 0.02 for op in ops)
            assert model.engine.plan.dense_tokens == 16
            (note,) = model.info.warnings
            assert ("just now" in note) == just_now
            assert "ignored by teal thresholds" in model.info.quality
            found.append([op.threshold for op in ops])
    assert found[0] == found[1]
    assert all(a > b for a, b in zip(found[0], found[2], strict=True))
    assert len(list(tmp_path.rglob("sparsity-*.json"))) == 2
    for file in tmp_path.rglob("sparsity-*.json"):
        file.write_text("{")  # a broken cache counts as none
    with load_tiny(MODEL, sparsity=0.4, executor="native", threads=2) as model:
        assert "just now" in model.info.warnings[0]


@pytest.mark.parametrize(
    "number", [0, -1, 1, 1.5, 40, float("nan"), float("inf"), True, "nan", "-0.4"]
)
def test_numbers_that_are_no_share_are_refused(number: float | str) -> None:
    with pytest.raises(UsageError, match=r"above 0 and at most 0\.9"):
        load_tiny(MODEL, sparsity=number)


def test_a_mixture_of_experts_is_refused() -> None:
    with pytest.raises(UsageError, match="choosing experts"):
        load_tiny("mixtral-bf16", sparsity=0.4)


def test_sparsity_and_predict_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        load_tiny(MODEL, sparsity=0.4, predict=tmp_path / "none.json")


# ---- thresholds on the gate (CATS, CHESS) ------------------------------------------------------


@pytest.mark.parametrize("method", ["cats", "chess"])
def test_small_gates_drop_their_neurons(method: str) -> None:
    with load_tiny(MODEL) as model:
        width = model.config.feed_forward
    entry: object = 0.05
    if method == "chess":
        entry = np.random.default_rng(1).uniform(5, 40, width).astype(np.float32)
    gated = thresholds_for(MODEL, method=method, thresholds={"blk.0.gate_up": entry})
    tokens = [5, 9, 2, 7, 1, 3, 8, 4]
    found = []
    with load_tiny(MODEL) as plain:
        dense = bits(plain.logits(tokens))
    for name in EXECUTORS:
        with load_tiny(MODEL, sparsity=gated, executor=name, threads=2) as model:
            formats = {n: w.format for n, w in model.parameters.weights.items()}
            assert formats["blk.0.ffn_down.weight"].is_column
            assert not formats["blk.0.ffn_up.weight"].is_column
            engine = model.engine
            for chunk in (1, 3, 8):
                logits = engine.forward(
                    engine.new_cache(16), tokens, 0, outputs="all", thresholds=True, chunk=chunk
                )
                found.append(bits(logits))
    assert len(found) == 9
    assert all(np.array_equal(found[0], other) for other in found)
    assert np.array_equal(found[0][:4], dense[:4])
    assert not np.array_equal(found[0][4:], dense[4:])


@pytest.mark.parametrize("fmt", [Format.Q8, Format.Q4M, Format.F16, Format.T2])
def test_rows_below_a_gate_threshold_are_zero(fmt: Format) -> None:
    """One token and several; from no dead row to all, so tiles are skipped or not."""
    rng = np.random.default_rng(int(fmt))
    weight, _ = random_weight(rng, fmt, 130, 64)
    factors = rng.uniform(0.5, 2, 130).astype(np.float32)
    n_cases = 0
    for threshold, name in itertools.product((0.01, 0.3, 2.0, 1e6), (None, "f")):
        out = Output("w", "y", live="gate", live_threshold=threshold, live_factors=name)
        plan = plan_of(Linear("op", "x", (out,)), buffers={"x": 64, "gate": 130, "y": 130})
        plain = plan_of(Linear("op", "x", (Output("w", "y"),)), buffers=dict(plan.buffers))
        parameters = Parameters({"w": weight}, {"f": factors}, {})
        truth = ReferenceExecutor(plain, parameters)
        made = [ReferenceExecutor(plan, parameters), PortableExecutor(plan, parameters, threads=2)]
        made += [NativeExecutor(plan, parameters, threads=2, isa=isa) for isa in isa_names()]
        x = rng.normal(size=(5, 64)).astype(np.float32)
        gate = rng.normal(size=(5, 130)).astype(np.float32) * np.float32(4)
        gate[:, :64] = -90  # silu is about 0: whole tiles die
        silu = gate / (1 + np.exp(-gate.astype(np.float64)))
        size = np.abs(silu) * (1 if name is None else factors)
        assert np.abs(size - threshold).min() > 1e-6  # no row is on the border
        for tokens, sparse_from in (([0], 0), ([3], 0), ([3], 9), ([0, 1, 2, 3, 4], 2)):
            n = len(tokens)
            positions = np.array(tokens)
            truth.buffer("x", n)[:] = x[tokens]
            truth.run(step_of(truth, [0] * n, outputs=[]))
            dead = (size[tokens] < threshold) & (positions >= sparse_from)[:, None]
            expected = bits(np.where(dead, np.float32(0), truth.buffer("y", n)))
            for executor in made:
                executor.buffer("x", n)[:] = x[tokens]
                executor.buffer("gate", n)[:] = gate[tokens]
                executor.buffer("y", n)[:] = np.nan
                step = step_of(
                    executor, [0] * n, positions=tokens, outputs=[], sparse_from=sparse_from
                )
                executor.run(step)
                assert np.array_equal(bits(executor.buffer("y", n)), expected)
                n_cases += 1
        for executor in (*made, truth):
            executor.close()
    assert n_cases == 8 * 4 * (2 + len(isa_names()))


def test_a_relu_needs_no_threshold_on_its_gate() -> None:
    name = "bitnet-tq1_0.gguf"
    gated = thresholds_for(
        name, method="cats", thresholds={f"blk.{i}.gate_up": 0.1 for i in (0, 1)}
    )
    with pytest.raises(UsageError, match="need a model with SiLU"):
        load_tiny(name, sparsity=gated)


def test_what_is_read_in_vain_is_said() -> None:
    """Single bits and floats do not lie by their inputs: thresholds cost quality there, no more."""
    n_cases = 0
    for name, weights, words in (
        ("llama-blocks.gguf", "auto", ""),
        ("llama-blocks.gguf", "slices", ""),
        ("llama-floats.gguf", "auto", "stored as bf16, f16, f32, which are read as a whole"),
        ("bitnet-tq2_0.gguf", "auto", ""),
    ):
        with load_tiny(name, sparsity=thresholds_for(name), weights=weights) as model:
            said = [text for text in model.info.warnings if "save nothing" in text]
            assert len(said) == bool(words), (name, weights, said)
            assert not words or words in said[0]
        n_cases += 1
    assert n_cases == 4
