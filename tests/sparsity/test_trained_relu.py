"""A dense ReLU model that has learned something: its zeros, their prediction, its thresholds."""

from __future__ import annotations

import re
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

import edgesparse
from edgesparse.cli.program import run
from edgesparse.errors import UsageError
from edgesparse.perplexity import perplexity
from edgesparse.sparsity import load_calibration
from edgesparse.sparsity.alpha_table import compare_alphas
from edgesparse.sparsity.predictor import predictor_cost
from edgesparse.sparsity.statistics import collect
from tests.executors.running import bits
from tests.models.rewrite import rewrite

MODEL = Path(__file__).parents[2] / "models" / "docs-relu" / "docs-relu.gguf"
N_CTX, N_WINDOWS = 256, 8


@pytest.fixture(scope="module")
def text() -> str:
    """Give the language reference, which the model has not seen."""
    return "\n\n".join(topics[name] for name in sorted(topics))[:40_000]


def scored(path: Path, text: str, **options: object) -> float:
    with edgesparse.load(path, threads=2, **options) as model:
        return perplexity(model, model.tokenize(text), N_CTX, max_windows=N_WINDOWS).perplexity


def with_activation(folder: Path, name: str, **changes: object) -> Path:
    metadata = {"llama.hidden_activation": name, **changes}
    return rewrite(MODEL, folder / f"{name}.gguf", metadata=metadata)


def test_it_has_learned_something(text: str) -> None:
    """It hesitates between a twentieth of its 2,048 tokens or fewer."""
    assert 10 < scored(MODEL, text) < 2048 / 20


def test_skipping_its_zeros_changes_no_bit(text: str) -> None:
    with edgesparse.load(MODEL, threads=1, fused=False) as model:
        ids = model.tokenize(text)[:300]
        shares = [layer.dead_share for layer in collect(model, ids)]
    assert len(shares) == 4
    assert min(shares) > 0.4
    found, read = [], []
    for sparse in ("off", "auto"):
        with edgesparse.load(MODEL, threads=2, sparse=sparse) as model:
            cache, n_ops = model.engine.new_cache(40), len(model.engine.plan.ops)
            op_bytes = np.zeros(n_ops, np.uint64)
            rows = [
                model.engine.forward(cache, [token], i, op_bytes=op_bytes)
                for i, token in enumerate(ids[:40])
            ]
            found.append(bits(np.concatenate(rows)))
            read.append(int(op_bytes.sum()))
    assert np.array_equal(*found)
    assert read[1] < 0.9 * read[0]


def test_the_predictor_trades_quality_for_bytes(text: str) -> None:
    with edgesparse.load(MODEL, threads=1, fused=False) as model:
        table = compare_alphas(
            model, model.tokenize(text)[:2048], [0.9, 1.0, 1.2], n_judged=512, n_ctx=N_CTX
        )
    rows, dense = table.rows, table.dense_perplexity
    precisions = [row.outcome.precision for row in rows]
    assert precisions == sorted(precisions)
    assert precisions[-1] > 0.95
    recalls = [row.outcome.dropped for row in rows]
    assert recalls == sorted(recalls, reverse=True)
    prices = [row.perplexity / dense for row in rows]
    assert prices == sorted(prices, reverse=True)
    assert prices[0] > 1.05
    assert prices[-1] == pytest.approx(1, abs=0.01)


def test_calibrating_and_loading_judge_alike(text: str, tmp_path: Path, capsys) -> None:
    """Gates lie in tiles, and row by row once they are predicted: padded to whole lines, here."""
    source, out = tmp_path / "text.txt", tmp_path / "p.json"
    source.write_text(text)
    base = ["calibrate", str(MODEL), "-f", str(source), "-o", str(out), "--tokens", "512"]
    verdicts = {0.99: "which does not pay", 0.8: "which pays"}
    for recall, words in verdicts.items():
        assert run([*base, "--method", "sparseinfer", "--recall", str(recall)]) == 0
        said = next(line for line in capsys.readouterr().out.splitlines() if "of signs" in line)
        assert words in said
        bytes_ = re.findall(r"[\d.]+ MB", said)
        if recall == 0.99:
            with pytest.raises(UsageError, match="of signs") as refused:
                edgesparse.load(MODEL, predict=out)
            assert re.findall(r"[\d.]+ MB", refused.value.message) == bytes_
    with edgesparse.load(MODEL, fused=False) as tiled, edgesparse.load(MODEL, predict=out) as model:
        table = load_calibration(out)
        plan, weights = model.engine.plan, model.parameters.weights
        cost = predictor_cost(plan, weights, table)
        before = predictor_cost(tiled.engine.plan, tiled.parameters.weights, table, reloaded=True)
        assert cost == before
        gates = [f"blk.{i}.ffn_gate.weight" for i in range(4)]
        assert cost.gate_bytes == sum(tiled.parameters.weights[name].n_bytes for name in gates)
        rows = [
            weights[name].n_bytes * (1 - table.skipped[f"blk.{i}.gate_up"])
            for i, name in enumerate(gates)
        ]
        assert cost.saved_bytes == pytest.approx(cost.gate_bytes - sum(rows))
        assert sum(weights[name].n_bytes for name in gates) > 1.3 * cost.gate_bytes


def dead_share(path: Path, text: str) -> float:
    with edgesparse.load(path, threads=1, fused=False) as model:
        layers = collect(model, model.tokenize(text)[:300])
    return float(np.mean([layer.dead_share for layer in layers]))


def test_thresholds_of_the_gate(text: str, tmp_path: Path) -> None:
    """Small gates are worth little: FATReLU drops them, the shifted ReLU takes from all others."""
    plain, dead, prices = scored(MODEL, text), dead_share(MODEL, text), {}
    for kind in ("fatrelu", "shiftrelu"):
        for threshold in (0.01, 1.0):
            changed = {"llama.hidden_activation_param": threshold}
            path = with_activation(tmp_path, kind, **changed)
            prices[kind, threshold] = scored(path, text) / plain
            assert (dead_share(path, text) > dead + 0.15) == (threshold == 1)
    assert prices["fatrelu", 0.01] == pytest.approx(1, abs=0.01)
    assert prices["shiftrelu", 0.01] == pytest.approx(1, abs=0.01)
    assert 1.02 < prices["fatrelu", 1.0] < 1.15 < prices["shiftrelu", 1.0]
