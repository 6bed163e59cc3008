"""What an architecture file promises: names of tensors in, a list of ops out, and no C."""

from __future__ import annotations

import dataclasses

import pytest

from edgesparse.architectures import ARCHITECTURES, build_plan
from edgesparse.config import ModelConfig, RopeScaling
from edgesparse.errors import UnsupportedArchitecture
from edgesparse.loading import vector_names, weight_names
from edgesparse.plan.op import LOGITS, Attention, GluKind, Linear, RopeKV, RopeStyle
from edgesparse.plan.plan import Plan
from tests.executors.running import load_tiny
from tests.models import tiny

CONFIG = ModelConfig(
    architecture="llama",
    name="test",
    n_layers=3,
    width=64,
    feed_forward=96,
    n_heads=4,
    n_kv_heads=2,
    head_dim=16,
    n_vocab=50,
    n_ctx=128,
    eps=1e-5,
    glu=GluKind.SILU,
    rope_dim=16,
    rope_theta=1e4,
    rope_style=RopeStyle.NORM,
    rope_scaling=RopeScaling(),
)


def plan_of(tensors: set[str] = frozenset(), **changes: object) -> Plan:
    config = dataclasses.replace(CONFIG, **changes)
    return build_plan(config, tensors, n_ctx=64, max_tokens=8)


def test_a_plan_needs_exactly_the_tensors_of_its_file() -> None:
    for name in tiny.NAMES:
        with load_tiny(name) as model:
            plan, parameters = model.engine.plan, model.parameters
        assert set(weight_names(plan)) == set(parameters.weights)
        assert set(vector_names(plan)) == set(parameters.vectors)


def test_optional_tensors() -> None:
    plain = plan_of()
    assert weight_names(plain)[0] == "token_embd.weight"
    assert "output.weight" not in weight_names(plain)
    assert "output.weight" in weight_names(plan_of({"output.weight"}))
    assert not [name for name in vector_names(plain) if name.endswith("bias")]
    with_bias = vector_names(plan_of({"blk.1.attn_k.bias", "blk.2.ffn_down.bias"}))
    biases = {name: n for name, n in with_bias.items() if name.endswith("bias")}
    assert biases == {"blk.1.attn_k.bias": 32, "blk.2.ffn_down.bias": 64}


def test_sub_norms_are_bitnets() -> None:
    def sub_norms(plan: Plan) -> set[str]:
        return {n for n in vector_names(plan) if "sub_norm" in n}

    assert sub_norms(plan_of()) == set()
    for name in ("bitnet", "bitnet-25", "bitnet-b1.58"):
        found = sub_norms(plan_of(architecture=name))
        assert len(found) == 2 * 3
        assert "blk.2.ffn_sub_norm.weight" in found


def test_sizes_and_rules_reach_the_ops() -> None:
    plan = plan_of(glu=GluKind.RELU2, rope_dim=8, n_kv_heads=1)
    assert dict(plan.buffers) == {
        **{"x": 64, "q": 64, "k": 16, "v": 16, "attn": 64},
        **{"gate": 96, "up": 96},
    }
    ropes = [op for op in plan.ops if isinstance(op, RopeKV)]
    assert [(op.layer, op.rope_dim, op.style) for op in ropes] == [
        (layer, 8, RopeStyle.NORM) for layer in range(3)
    ]
    assert all(op.scale == 0.25 for op in plan.ops if isinstance(op, Attention))
    gated = [op for op in plan.ops if isinstance(op, Linear) and op.glu is not GluKind.NONE]
    assert [op.glu for op in gated] == [GluKind.RELU2] * 3
    assert plan.kv_dim == 16
    head = plan.ops[-1]
    assert isinstance(head, Linear)
    assert head.outputs_only
    assert head.outputs[0].dst == LOGITS


def test_unknown_families_are_refused_by_name() -> None:
    refused = 0
    for name in ("mamba", "gpt2", "llama4", "", "LLAMA"):
        with pytest.raises(UnsupportedArchitecture) as caught:
            plan_of(architecture=name)
        assert caught.value.kind == "unsupported"
        assert caught.value.exit_code == 3
        assert all(known in str(caught.value) for known in ARCHITECTURES)
        refused += 1
    assert refused == 5
