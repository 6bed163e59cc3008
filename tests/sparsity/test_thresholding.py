"""Calibration by thresholds: quantiles, the sparsity that is reached, greedy against uniform."""

import statistics

import numpy as np
import pytest

import edgesparse
from edgesparse.errors import UsageError
from edgesparse.ops.numerics import quantize_i8, quantize_i8_blocks
from edgesparse.plan.op import Linear
from edgesparse.sparsity import Thresholds
from edgesparse.sparsity.apply import hooks, is_small, thresholded
from edgesparse.sparsity.calibrate import calibrate_thresholds, teal_thresholds
from edgesparse.sparsity.gates import gate_histograms, gated_ops, mean_squares
from edgesparse.sparsity.histogram import Histogram
from edgesparse.sparsity.observed import Observed
from edgesparse.sparsity.passes import windows_of
from edgesparse.sparsity.statistics import collect
from edgesparse.sparsity.teal import _Block, greedy_shares, input_histograms, layer_ranges
from tests.executors.running import load_tiny
from tests.models import tiny

IDS = np.random.default_rng(1).integers(0, tiny.N_VOCAB, 400).tolist()
SILU = ("llama-floats.gguf", "llama-k.gguf")


def unfused(name: str, **options: object) -> edgesparse.Model:
    return load_tiny(name, executor="native", fused=False, **options)


def test_quantiles_of_a_stream():
    rng = np.random.default_rng(2)
    values = (rng.standard_normal(200_000) * 37).astype(np.float32)
    whole, parts = Histogram(), Histogram()
    whole.add(values)
    for piece in np.array_split(rng.permutation(values), 7):
        parts.add(piece)
    n_cases = 0
    for share in (0.01, 0.1, 0.25, 0.4, 0.5, 0.9, 0.999):
        found = whole.quantile(share)
        assert found == parts.quantile(share)
        assert found == pytest.approx(np.quantile(np.abs(values), share), rel=0.003)
        assert whole.share_below(found) == pytest.approx(share, abs=1e-6)
        n_cases += 1
    assert n_cases == 7
    normal = statistics.NormalDist()
    for share, expected in ((0.25, 0.3186), (0.4, 0.5244), (0.5, 0.6745)):
        assert normal.inv_cdf(0.5 + share / 2) == pytest.approx(expected, abs=1e-4)
        assert whole.quantile(share) / 37 == pytest.approx(expected, rel=0.02)


def test_a_histogram_of_zeros():
    empty = Histogram()
    empty.add(np.zeros(10, np.float32))
    assert (empty.quantile(0.0), empty.n) == (0.0, 10)
    assert empty.share_below(1e-6) == 1.0
    assert (empty.quantile(0.5), empty.quantile(1.0), empty.share_below(0.0)) == (0.0, 0.0, 1.0)
    some = Histogram()
    some.add(np.array([0, 0, 0, -0.0, 1, 2, 3, 4, 5, 6], np.float32))
    assert [some.quantile(share) for share in (0.1, 0.4)] == [0.0, 0.0]
    assert some.share_below(0.0) == some.share_below(0.5) == 0.4
    assert some.quantile(0.5) == pytest.approx(1, rel=0.003)
    assert Histogram().quantile(0.5) == Histogram().share_below(1.0) == 0.0


def test_zeros_that_are_there_need_no_threshold():
    """A ReLU makes more of them than are wanted: nothing is lost, and the file says how many."""
    with unfused("bitnet-tq2_0.gguf") as model:
        made = calibrate_thresholds(
            model, IDS, method="teal", sparsity=0.3, allocation="uniform", dense_tokens=16
        )
        zeros = input_histograms(model, windows_of(model, IDS, max_tokens=None, least=80), 16)
    for layer in (0, 1):
        assert made.thresholds[f"blk.{layer}.down"] == 0
        found = made.achieved[f"blk.{layer}.down"]
        assert found == zeros[f"blk.{layer}.down"].share_below(0) > 0.4
        assert made.thresholds[f"blk.{layer}.qkv"] > 0
        assert made.achieved[f"blk.{layer}.qkv"] == pytest.approx(0.3, abs=0.001)
    with load_tiny("bitnet-tq2_0.gguf", executor="native", sparsity=made) as model:
        ops = {op.name: op for op in model.engine.plan.ops if isinstance(op, Linear)}
        assert ops["blk.0.down"].threshold == 0 < ops["blk.0.qkv"].threshold


@pytest.mark.parametrize("name", SILU)
@pytest.mark.parametrize("method", ["teal", "cats", "chess"])
def test_the_wanted_share_is_ignored(name: str, method: str):
    with unfused(name) as model:
        made = calibrate_thresholds(
            model, IDS, method=method, sparsity=0.4, allocation="uniform", dense_tokens=16
        )
        made.check(made.model_fingerprint, model.engine.plan)
        counts: dict[str, list[int]] = {op: [0, 0] for op in made.thresholds}

        def counting(op):
            def hook(step, rows):
                rule = made.rule(op)
                late = step.positions >= 16
                values = rows
                if rule.on_gate:
                    values = rows / (1 + np.exp(-rows))
                counts[op][0] += int(is_small(rule, values)[late].sum())
                counts[op][1] += values[late].size

            return hook

        gates = {op: counting(op) for op in counts if made.rule(op).on_gate}
        inputs = {op: counting(op) for op in counts if not made.rule(op).on_gate}
        observed = Observed(model.engine.executor, inputs, gates)
        for window in windows_of(model, IDS, max_tokens=None, least=64):
            observed.run(window.step(model.engine, model.engine.new_cache(256)))
    assert len(counts) == model.config.n_layers * {"teal": 4, "cats": 1, "chess": 2}[method]
    for op, (n_small, n) in counts.items():
        assert n_small / n == pytest.approx(0.4, abs=0.01), op
        assert made.achieved[op] == pytest.approx(0.4, abs=0.01), op


def test_chess_with_equal_channels_is_cats():
    with unfused("llama-k.gguf") as model:
        windows = windows_of(model, IDS, max_tokens=None, least=64)
        squares = mean_squares(model, windows, 16)
        chess = calibrate_thresholds(model, IDS, method="chess", sparsity=0.5)
        cats = calibrate_thresholds(model, IDS, method="cats", sparsity=0.5)
        for op in gated_ops(model):
            factors = chess.rule(op.name).factors
            roots = np.sqrt(squares[op.name])
            ratio = factors[roots > 0] / roots[roots > 0]  # t_i sqrt(E2_i) is constant
            np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
            ones = {op.name: np.ones_like(factors)}
            same = gate_histograms(
                model,
                windows,
                16,
                ones | {o.name: np.ones_like(chess.rule(o.name).factors) for o in gated_ops(model)},
            )[op.name]
            assert same.quantile(0.5) == pytest.approx(cats.thresholds[op.name], rel=1e-6)


def test_greedy_moves_layers_less_than_uniform():
    """At equal shares of the weights, on the text of the calibration."""
    target = 0.5
    n_cases = 0
    with unfused("llama-k.gguf") as model:
        windows = windows_of(model, IDS, max_tokens=None, least=64)
        histograms = input_histograms(model, windows, 16)
        shares = greedy_shares(model, windows, histograms, [0.25, target], 16)
        begin, end = layer_ranges(model)[0]
        caches = [model.engine.new_cache(256) for _ in windows]
        steps = [w.step(model.engine, c) for w, c in zip(windows, caches, strict=True)]
        inputs = []
        for step in steps:
            model.engine.executor.run(step, 0, begin)
            inputs.append(model.engine.executor.buffer("x", len(step.tokens)).copy())
        block = _Block(model, steps, inputs, begin, end, histograms, 16)
        for wanted, found in zip((0.25, target), shares, strict=True):
            total = sum(block.sizes.values())
            reached = sum(found[name] * size for name, size in block.sizes.items()) / total
            assert reached == pytest.approx(wanted, abs=1e-6)
            uniform = block.error(dict.fromkeys(block.sizes, wanted))
            assert 0 < block.error(found) <= uniform
            n_cases += 1
    assert n_cases == 2


def test_the_first_tokens_stay_dense():
    with unfused("llama-k.gguf") as model:
        histograms = input_histograms(model, windows_of(model, IDS, max_tokens=None, least=64), 16)
        shares = dict.fromkeys(histograms, 0.5)
        made = teal_thresholds("x" * 32, 0.5, histograms, shares, dense_tokens=9)
        dense = model.logits(IDS[:40])
        with thresholded(model, made):
            sparse = model.logits(IDS[:40])
        assert np.array_equal(dense[:9], sparse[:9])
        assert not np.array_equal(dense[9:], sparse[9:])
        assert np.array_equal(model.logits(IDS[:40]), dense), "the model is as before"


def test_thresholds_of_zero_change_nothing():
    with unfused("llama-floats.gguf") as model:
        ops = [op.name for op in gated_ops(model)]
        dense = model.logits(IDS[:40])
        for method in ("teal", "cats"):
            none = Thresholds("x" * 32, method, 0.0, dict.fromkeys(ops, 0.0), dense_tokens=0)
            assert all(hooks(none, model.config.glu)[method == "cats"])
            with thresholded(model, none):
                assert np.array_equal(model.logits(IDS[:40]), dense)


def test_chunks_do_not_matter():
    with unfused("llama-k.gguf") as model:
        made = calibrate_thresholds(
            model, IDS, method="teal", sparsity=0.4, allocation="uniform", dense_tokens=5
        )
        with thresholded(model, made):
            whole = model.engine.forward(model.engine.new_cache(), IDS[:50], 0, outputs="all")
            parts = model.engine.forward(
                model.engine.new_cache(), IDS[:50], 0, outputs="all", chunk=3
            )
    assert np.array_equal(whole, parts)


def test_fused_plans_and_bad_wishes_are_refused():
    with load_tiny("llama-k.gguf") as model, pytest.raises(UsageError, match="fused"):
        calibrate_thresholds(model, IDS, method="teal", sparsity=0.4)
    with unfused("llama-k.gguf") as model:
        bad = (
            {"method": "magic", "sparsity": 0.4},
            {"method": "teal", "sparsity": 0.0},
            {"method": "teal", "sparsity": 0.95},
            {"method": "teal", "sparsity": float("nan")},
            {"method": "teal", "sparsity": 0.4, "allocation": "best"},
            {"method": "teal", "sparsity": 0.4, "dense_tokens": -1},
            {"method": "teal", "sparsity": 0.4, "max_tokens": 30},
        )
        for wish in bad:
            with pytest.raises(UsageError):
                calibrate_thresholds(model, IDS, **wish)
        assert len(bad) == 7


def per_token(rows):
    return quantize_i8(rows)[0]


def in_blocks(rows):
    return quantize_i8_blocks(rows)[0].reshape(len(rows), -1)[:, : rows.shape[1]]


SLICED = {f"blk.{layer}.{op}" for layer in (0, 1) for op in ("qkv", "gate_up", "down")}


@pytest.mark.parametrize(
    ("name", "weights", "fed_in_blocks"),
    [
        ("bitnet-tq2_0.gguf", "auto", set()),
        ("llama-blocks.gguf", "auto", set()),
        ("llama-blocks.gguf", "slices", SLICED),
    ],
)
def test_statistics_are_what_the_reference_computes(name, weights, fed_in_blocks):
    """An input is rounded as its op's weights want it: in blocks for bit slices, else by token."""
    with (
        unfused(name, weights=weights) as model,
        load_tiny(name, fused=False, weights=weights) as other,
    ):
        found = collect(model, IDS, max_tokens=64)
        window = windows_of(other, IDS, max_tokens=64, least=16)[0]
        step = window.step(other.engine, other.engine.new_cache(64))
        executor, n_cases = other.engine.executor, 0
        for i, op in enumerate(other.engine.plan.ops):
            if op.name.startswith("blk.") and op.name.split(".")[2] in found[0].inputs:
                rows = executor.buffer(op.src, 64) if hasattr(op, "outputs") else None
                layer = found[int(op.name.split(".")[1])]
                here = layer.inputs[op.name.split(".")[2]]
                if rows is not None:
                    quantized = in_blocks if op.name in fed_in_blocks else per_token
                    assert here.n_zero == int((quantized(rows) == 0).sum())
                    assert here.magnitudes.n == rows.size
                    n_cases += 1
            executor.run(step, i, i + 1)
            if op.name.endswith("gate_up"):
                assert layer.n_dead == int((executor.buffer("gate", 64) <= 0).sum())
                assert layer.inputs["gate_up"].magnitudes.n > 0
        assert n_cases == 8
        for layer in found if name.startswith("bitnet") else ():
            assert layer.inputs["down"].zero_share >= layer.dead_share > 0.2
