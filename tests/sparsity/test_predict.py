"""The sign predictor: its closed forms, its equivalences, and the same bits in every executor."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

import edgesparse
from bench.make_model import make_model
from edgesparse.errors import UsageError
from edgesparse.executors import make_executor
from edgesparse.executors.native import isa_names
from edgesparse.formats import Format
from edgesparse.formats.signs import SignPlanes, pack_signs, sign_planes
from edgesparse.ops.predict import limits, predicted_dead, votes
from edgesparse.plan.op import Linear
from edgesparse.sparsity.alphas import SparseInferTable
from edgesparse.sparsity.predictor import add_predictor, predictor_cost
from tests.executors.running import bits, executor_of, load_tiny, run_in_chunks
from tests.executors.test_sparse import WIDE
from tests.models import tiny
from tests.portable.packing import random_weight

N = 2560


def planes_of(values: np.ndarray, *, masked: bool) -> SignPlanes:
    signs = pack_signs(np.signbit(values))
    n = np.full(len(values), values.shape[1], np.int32)
    if masked:
        signs = np.concatenate([pack_signs(values < 0), pack_signs(values != 0)], axis=1)
        n = np.count_nonzero(values, axis=1).astype(np.int32)
    return SignPlanes("w", *values.shape, masked, signs, n)


def agreement(w: np.ndarray, x: np.ndarray, *, masked: bool) -> float:
    """Share of products whose sign the votes tell, ties counting as positive."""
    dead = predicted_dead(planes_of(w, masked=masked), x, 10_000)
    return float((dead == (x @ w.T < 0)).mean())


def test_agreement_on_gaussian_data():
    rng = np.random.default_rng(11)
    x = rng.standard_normal((300, N)).astype(np.float32)
    w = rng.standard_normal((400, N)).astype(np.float32)
    expected = 1 - math.acos(2 / math.pi) / math.pi
    assert expected == pytest.approx(0.7197, abs=1e-4)
    assert agreement(w, x, masked=False) == pytest.approx(expected, abs=0.01)
    ternary = rng.choice(np.array([-1, 0, 1], np.float32), (400, N), p=(0.29, 0.42, 0.29))
    masked = 1 - math.acos(math.sqrt(2 / math.pi)) / math.pi
    assert masked == pytest.approx(0.7940, abs=1e-4)
    assert agreement(ternary, x, masked=True) == pytest.approx(masked, abs=0.01)
    blind = 1 - math.acos(math.sqrt(2 * 0.58 / math.pi)) / math.pi
    assert agreement(ternary, x, masked=False) == pytest.approx(blind, abs=0.01)


def test_the_limit_is_the_rule():
    rng = np.random.default_rng(5)
    n_cases = 0
    for _ in range(2000):
        n = int(rng.integers(1, 5000))
        alpha = int(rng.integers(0, 30_000))
        planes = SignPlanes("w", 1, n, False, np.zeros((1, 1), np.uint8), np.array([n], np.int32))
        limit = int(limits(planes, alpha)[0])
        for against in {0, limit, min(n, limit + 1), n, int(rng.integers(0, n + 1))}:
            skip = 10_000 * against > alpha * (n - against)
            assert skip == (against > limit), (n, alpha, against)
            n_cases += 1
    assert n_cases > 6000


def test_more_alpha_never_skips_more():
    rng = np.random.default_rng(6)
    planes = planes_of(rng.standard_normal((64, 300)), masked=False)
    h = rng.standard_normal((8, 300)).astype(np.float32)
    shares = [predicted_dead(planes, h, alpha).mean() for alpha in range(8_000, 12_000, 100)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.9
    assert shares[-1] < 0.2


@pytest.mark.parametrize("fmt", [f for f in Format if not (f.is_neuron_major or f.is_aside)])
def test_planes_of_every_format(fmt):
    from edgesparse.formats.dequantize import dequantize

    rng = np.random.default_rng(int(fmt))
    weight, _ = random_weight(rng, fmt, 37, 333)
    planes = sign_planes(weight)
    values = dequantize(weight)
    h = rng.standard_normal((3, 333)).astype(np.float32)
    h[0, :5] = 0.0, -0.0, 1e-40, -1e-40, 0.0
    differ = np.signbit(values)[None] != (h < 0)[:, None]
    if fmt.is_ternary:
        differ &= (values != 0)[None]
    np.testing.assert_array_equal(votes(planes, h), differ.sum(axis=2))
    np.testing.assert_array_equal(
        planes.n_weights, np.count_nonzero(values, axis=1) if fmt.is_ternary else 333
    )


def table_of(model: edgesparse.Model, alpha: int) -> SparseInferTable:
    layers = range(model.config.n_layers)
    return SparseInferTable("x" * 32, {f"blk.{i}.gate_up": alpha for i in layers}, 0.9)


TOKENS = np.random.default_rng(3).integers(0, 300, 23).tolist()


def test_same_bits_in_every_executor(tmp_path):
    """Ternary rows go through lists, tiled formats through tiles, many tokens through masks."""
    make_model(tmp_path / "wide.gguf", WIDE, "tq2_0", dead_gates=0.8)
    files = (tmp_path / "wide.gguf", tiny.path("llama-relu.gguf"))
    n_cases = 0
    for kind, alpha in itertools.product(files, (9_000, 10_200)):
        with edgesparse.load(kind, executor="reference") as model:
            dense = bits(run_in_chunks(model.engine.executor, TOKENS, 23))
            plan, parameters = add_predictor(
                model.engine.plan, model.parameters, table_of(model, alpha), force=True
            )
            truth = None
            for name, threads in itertools.product(("reference", "portable", "native"), (1, 3)):
                for isa in list(isa_names()) if name == "native" else [None]:
                    made = make_executor(name, plan, parameters, threads=threads, isa=isa)
                    for chunk in (1, 3, 23):
                        got = bits(run_in_chunks(made, TOKENS, chunk))
                        truth = got if truth is None else truth
                        assert np.array_equal(got, truth), (kind, alpha, name, threads, isa, chunk)
                        n_cases += 1
                    made.close()
            assert not np.array_equal(truth, dense), "nothing was predicted"
    assert n_cases == 4 * 3 * 2 * (2 + len(isa_names()))


def test_an_alpha_that_skips_nothing_changes_nothing():
    with load_tiny("bitnet-tq2_0.gguf") as model:
        plan, parameters = add_predictor(
            model.engine.plan, model.parameters, table_of(model, 1_000_000), force=True
        )
        expected = bits(run_in_chunks(model.engine.executor, TOKENS, 5))
        for name in ("native", "portable", "reference"):
            made = make_executor(name, plan, parameters, threads=2)
            assert np.array_equal(bits(run_in_chunks(made, TOKENS, 5)), expected)
            made.close()


def test_packed_ternary_is_refused_unless_forced():
    with load_tiny("bitnet-tq2_0.gguf") as model:
        table = replace(
            table_of(model, 10_000),
            skipped={f"blk.{i}.gate_up": 0.9 for i in range(2)},
            skipped_tiles={f"blk.{i}.gate_up": 0.9 for i in range(2)},
        )
        cost = predictor_cost(model.engine.plan, model.parameters.weights, table)
        assert not cost.pays
        with pytest.raises(UsageError, match="--predict-force"):
            add_predictor(model.engine.plan, model.parameters, table)
        plan, _ = add_predictor(model.engine.plan, model.parameters, table, force=True)
        gates = [op for op in plan.ops if isinstance(op, Linear) and op.outputs[0].signs]
        assert len(gates) == 2


def test_models_without_a_relu_are_refused():
    with load_tiny("llama-k.gguf") as model, pytest.raises(UsageError, match="no gate"):
        add_predictor(model.engine.plan, model.parameters, table_of(model, 10_000), force=True)


def test_bytes_read_are_counted():
    with load_tiny("bitnet-tq2_0.gguf", executor="native") as model:
        plan, parameters = add_predictor(
            model.engine.plan, model.parameters, table_of(model, 10_000), force=True
        )
        with executor_of(replace_plan(model, plan, parameters), "native") as executor:
            from edgesparse.executors.base import KVCache
            from tests.executors.running import step_of

            op_bytes = np.zeros(len(plan.ops), np.uint64)
            step = step_of(executor, [7], caches=[KVCache(plan, 8)], op_bytes=op_bytes)
            executor.run(step)
            index = next(i for i, op in enumerate(plan.ops) if op.name == "blk.0.gate_up")
            gate, up = (executor.buffer(n, 1)[0] for n in ("gate", "up"))
            # The buffers hold the last layer; its counts are what they say.
            index = next(i for i, op in enumerate(plan.ops) if op.name == "blk.1.gate_up")
            w = parameters.weights["blk.1.ffn_gate.weight"]
            row = w.n_bytes // w.n_rows
            signs = parameters.signs["blk.1.ffn_gate.weight"].n_bytes
            kept = int(op_bytes[index] - signs) // row - int((gate > 0).sum())
            assert int((gate != 0).sum()) <= kept < w.n_rows
            assert up[gate <= 0].max() == 0


def replace_plan(model, plan, parameters):
    from types import SimpleNamespace

    return SimpleNamespace(engine=SimpleNamespace(plan=plan), parameters=parameters)
