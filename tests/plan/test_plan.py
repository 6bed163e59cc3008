"""Plans are frozen, hashable, short, and cost what their weights weigh."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import pytest

import edgesparse
from edgesparse.cli import main
from edgesparse.plan.cost import bytes_per_token, plan_costs
from edgesparse.plan.op import (
    Add,
    Attention,
    Combine,
    Embed,
    Experts,
    Glu,
    Linear,
    Norm,
    RopeKV,
    Route,
)
from edgesparse.plan.printer import plan_rows, plan_summary, plan_table
from tests.executors.running import load_tiny
from tests.models import tiny


@pytest.mark.parametrize("name", tiny.NAMES)
def test_frozen_hashable_and_equal_when_built_again(name: str) -> None:
    with load_tiny(name) as first, load_tiny(name) as second, load_tiny(name, n_ctx=17) as other:
        plan = first.engine.plan
        assert plan == second.engine.plan
        assert hash(plan) == hash(second.engine.plan)
        assert plan != other.engine.plan
        assert len({plan, second.engine.plan, other.engine.plan}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.n_ctx = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.ops[0].name = "other"


@pytest.mark.parametrize("name", tiny.NAMES)
def test_six_phases_a_layer(name: str) -> None:
    with load_tiny(name) as model:
        plan, n_layers = model.engine.plan, model.config.n_layers
    kinds = Counter(type(op) for op in plan.ops)
    post = Counter()
    if name.startswith("gemma3"):  # a norm stands between a product and its addition
        post = Counter({Norm: 2 * n_layers, Add: 2 * n_layers})
    layers = {Embed: 1, Linear: 1 + 4 * n_layers, RopeKV: n_layers, Attention: n_layers}
    if Route in kinds:  # gate and up, down: of the router and its experts
        n = kinds[Route]
        layers |= {Route: n, Experts: 2 * n, Combine: n}
        layers[Linear] -= 0 if "blk.0.shared_down" in {op.name for op in plan.ops} else n
        assert 1 <= n <= n_layers
    else:
        assert len(plan.ops) == 2 + 6 * n_layers + post.total()
    assert kinds == Counter(layers) + post
    assert len({op.name for op in plan.ops}) == len(plan.ops)


def test_an_unfused_plan_has_each_step_on_its_own() -> None:
    with load_tiny("bitnet-tq1_0.gguf", fused=False) as model:
        plan, n_layers = model.engine.plan, model.config.n_layers
    kinds = Counter(type(op) for op in plan.ops)
    assert kinds[Norm] == 1 + 4 * n_layers
    assert kinds[Glu] == n_layers
    assert kinds[Add] == 2 * n_layers
    linears = [op for op in plan.ops if isinstance(op, Linear)]
    assert all(op.norm is None and op.src2 is None for op in linears)
    assert not any(out.add for op in linears for out in op.outputs)


@pytest.mark.parametrize("name", tiny.NAMES)
def test_cost(name: str) -> None:
    """A token reads every matrix once, one row of the embedding, and the cache so far."""
    with load_tiny(name) as model:
        plan, parameters, config = model.engine.plan, model.parameters, model.config
    used = dict.fromkeys(parameters.weights, 1.0)
    if config.experts is not None:  # of the experts' bytes, on average
        share = config.experts.n_used / config.experts.n_experts
        used = {key: share if key.count(".") == 4 else 1.0 for key in used}
    sizes = {key: used[key] * weight.n_bytes for key, weight in parameters.weights.items()}
    embedding = parameters.weights["token_embd.weight"]
    row = embedding.n_bytes // embedding.n_rows
    read = sum(sizes.values()) - (embedding.n_bytes if "output.weight" in sizes else 0) + row
    rows = 2 * plan.kv_dim * 2  # of keys and values, in a layer
    windows = [config.window if config.is_local(i) else 1000 for i in range(config.n_layers)]
    for p in (0, 1, 100):
        seen = sum(min(p + 1, window) for window in windows)
        # its own row is stored, and read again
        expected = read + rows * (config.n_layers + seen)
        assert bytes_per_token(plan, parameters, p) == pytest.approx(expected, abs=2 * seen)
    costs = plan_costs(plan, parameters, 0)
    matrices = {n: used[n] * w.n_rows * w.k for n, w in parameters.weights.items()}
    embedding_size = matrices.pop("token_embd.weight")
    matrices.setdefault("output.weight", embedding_size)  # a tied head
    products = sum(c.multiply_adds for c in costs if isinstance(c.op, (Linear, Experts)))
    assert products == round(sum(matrices.values()))


def test_table_and_rows() -> None:
    with load_tiny("bitnet-tq1_0.gguf") as model:
        plan = model.engine.plan
        costs = plan_costs(plan, model.parameters, 9)
    rows = plan_rows(costs, 10.0)
    assert [row["op"] for row in rows] == [op.name for op in plan.ops]
    assert rows[1]["formats"] == ["t2"]
    assert rows[1]["prologue"] == ["norm"]
    assert rows[6]["prologue"] == ["relu2", "norm"]
    for row, cost in zip(rows, costs, strict=True):
        assert row["least_us"] == pytest.approx(cost.n_bytes / 10e9 * 1e6, abs=1e-3)
    summary = plan_summary(plan, costs, 9, 10.0)
    assert summary["ops"] == summary["barriers"] == 14
    assert summary["phases_per_layer"] == 6.0
    assert summary["bytes_per_token"] == sum(cost.n_bytes for cost in costs)
    ceiling = 10e9 / sum(cost.n_bytes for cost in costs)
    assert summary["ceiling_tokens_per_s"] == pytest.approx(ceiling, rel=1e-3)
    assert "ceiling_tokens_per_s" not in plan_summary(plan, costs, 9, None)
    short, full = (plan_table(plan, costs, 9, 10.0, all_layers=flag) for flag in (False, True))
    assert "blk.0.qkv" in short
    assert "blk.1.qkv" not in short
    assert "blk.1.qkv" in full
    assert all(op.name in full for op in plan.ops)


def test_verbs_plan_and_verify(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tiny.path("llama-blocks.gguf"))
    assert main(["plan", path, "--no-measure", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["summary"]["ops"] == len(shown["ops"]) == 14
    for executor, against in (("native", "reference"), ("portable", "native")):
        argv = ["verify", path, "--executor", executor, "--against", against, "--json"]
        assert main(argv) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["difference"] is None
        assert report["n_ops"] > 14
        assert report["n_values"] > 10_000


def test_unknown_executor_is_a_usage_error() -> None:
    with pytest.raises(edgesparse.errors.UsageError, match="turbo"):
        load_tiny("llama-k.gguf", executor="turbo")
