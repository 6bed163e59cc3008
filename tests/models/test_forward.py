"""Logits of every tiny model against a decoder that shares no code with the engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import edgesparse
from edgesparse.formats import dequantize
from tests.models import independent, tiny

TOLERANCE = {
    # float32 rounding; now and then a cached half, or an int8 activation, falls to the other side
    "bitnet-packed": 1e-4,
    "llama-floats.gguf": 1e-4,
    "llama-bf16": 1e-4,
    "qwen2-f16.gguf": 1e-4,
    "qwen2-bf16": 1e-4,
    "qwen3-f16.gguf": 1e-4,
    "qwen3-bf16": 1e-4,
    "gemma3-f16.gguf": 1e-4,
    "gemma3-bf16": 1e-4,
    "mixtral-bf16": 1e-4,
    "qwen2moe-bf16": 1e-4,
    "qwen3moe-bf16": 1e-4,
    # int16 activations in front of block weights: 2^-16 of a block's largest, per product
    "bitnet-tq1_0.gguf": 4e-4,
    "bitnet-tq2_0.gguf": 4e-4,
    "llama-relu.gguf": 2e-3,
    "mixtral-tq2_0.gguf": 4e-4,
    "qwen2moe-blocks.gguf": 2e-3,
    "llama-blocks.gguf": 2e-3,
    "llama-k.gguf": 4e-3,
}
"""Largest difference over the spread of the logits, with equal weights."""
K_TOLERANCE = 8e-2
"""The same with K-quants as the file has them: loading rounds steps to half and Q6_K to 8 bits."""


def distance(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape == (len(tiny.PROMPT), tiny.N_VOCAB)
    return float(np.abs(a - b).max() / b.std())


def ours(name: str) -> np.ndarray:
    with edgesparse.load(tiny.path(name), threads=2, head="exact") as model:
        return model.logits(tiny.PROMPT)


def with_loaded_weights(net: independent.Net, model: edgesparse.Model) -> independent.Net:
    """Replace matrices that loading rounds; tests of weights bound by how much."""
    loaded = {name: dequantize(w) for name, w in model.parameters.weights.items()}

    def matrix(name: str) -> tuple[np.ndarray, bool]:
        return (loaded[name], False) if name in loaded else net.matrix(name)

    return replace(net, matrix=matrix)


@pytest.mark.parametrize("name", TOLERANCE)
def test_logits(name: str) -> None:
    net = independent.load(tiny.path(name))
    expected = independent.logits(net, [tiny.PROMPT])[0]
    exact = name != "llama-k.gguf"
    with edgesparse.load(tiny.path(name), threads=2, head="exact") as model:
        found = model.logits(tiny.PROMPT)
        if not exact:
            assert distance(found, expected) < K_TOLERANCE
            net = with_loaded_weights(net, model)
            expected = independent.logits(net, [tiny.PROMPT])[0]
    assert distance(found, expected) < TOLERANCE[name]


def test_the_same_weights_in_other_types_give_the_same_bits() -> None:
    for first, second in (
        ("bitnet-tq1_0.gguf", "bitnet-tq2_0.gguf"),
        ("bitnet-i2_s.gguf", "bitnet-packed"),
    ):
        np.testing.assert_array_equal(ours(first).view(np.uint32), ours(second).view(np.uint32))


@pytest.mark.parametrize("name", TOLERANCE)
def test_the_comparison_would_notice(name: str) -> None:
    """Each rule, broken in the independent decoder, moves the logits far beyond the tolerance."""
    net = independent.load(tiny.path(name))
    broken = {
        "pairs": replace(net, neighbours=not net.neighbours),
        "theta": replace(net, theta=net.theta * 2),
        **{
            f"gate {g}": replace(net, gate=g)
            for g in ("silu", "relu2", "relu", "gelu")
            if g != net.gate
        },
        "first norm": replace(net, matrix=flat_norm(net, "blk.0.attn_norm.weight")),
    }
    if net.kv_heads > 1:
        broken["heads"] = swapped_heads(net)
    if net.divisors is not None:
        broken["stretch"] = replace(net, divisors=None)
    if "output.weight" in net.names:
        broken["head"] = replace(net, names=net.names - {"output.weight"})
    for stem in ("attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias"):
        if f"blk.1.{stem}" in net.names:
            broken[stem] = replace(net, names=net.names - {f"blk.1.{stem}"})
    for stem in ("attn_sub_norm", "ffn_sub_norm", "post_attention_norm", "post_ffw_norm"):
        if f"blk.1.{stem}.weight" in net.names:
            broken[stem] = replace(net, names=net.names - {f"blk.1.{stem}.weight"})
    if "blk.0.attn_q_norm.weight" in net.names:
        broken["q norm"] = replace(net, matrix=flat_norm(net, "blk.0.attn_q_norm.weight"))
        broken["k norm"] = replace(net, matrix=flat_norm(net, "blk.1.attn_k_norm.weight"))
    if net.window:
        broken["window"] = replace(net, window=net.window - 1)
        broken["period"] = replace(net, period=0)
        broken["local theta"] = replace(net, local_theta=None)
        broken["embedding scale"] = replace(net, embed_scale=1.0)
        broken["attention scale"] = replace(net, attention_scale=0.25)
    found = ours(name)
    assert len(broken) >= 4
    for rule, other in broken.items():
        moved = distance(found, independent.logits(other, [tiny.PROMPT])[0])
        allowed = K_TOLERANCE if name == "llama-k.gguf" else TOLERANCE[name]
        assert moved > 1.5 * allowed, rule


def swapped_heads(net: independent.Net) -> independent.Net:
    """Give the second half of the query heads the keys of the first."""

    def matrix(name: str) -> tuple[np.ndarray, bool]:
        values, ternary = net.matrix(name)
        if name.endswith("attn_k.weight"):
            values = np.roll(values, net.head_dim, axis=0)
        return values, ternary

    return replace(net, matrix=matrix)


def flat_norm(net: independent.Net, flat: str):
    def matrix(name: str) -> tuple[np.ndarray, bool]:
        values, ternary = net.matrix(name)
        return (np.ones_like(values) if name == flat else values), ternary

    return matrix


def test_every_rule_of_the_architectures_is_in_some_model() -> None:
    nets = {name: independent.load(tiny.path(name)) for name in TOLERANCE}
    features = {
        "tied": any("output.weight" not in net.names for net in nets.values()),
        "separate": any("output.weight" in net.names for net in nets.values()),
        "bias": any("blk.0.attn_q.bias" in net.names for net in nets.values()),
        "sub-norms": any("blk.0.ffn_sub_norm.weight" in net.names for net in nets.values()),
        "partial rotation": any(net.rope_dim < net.head_dim for net in nets.values()),
        "stretched": sum(net.divisors is not None for net in nets.values()) == 5,
        "head norms": any("blk.0.attn_q_norm.weight" in net.names for net in nets.values()),
        "post-norms": any("blk.0.post_ffw_norm.weight" in net.names for net in nets.values()),
        "windows": any(net.is_local(0) and not net.is_local(2) for net in nets.values()),
        "every gate": {net.gate for net in nets.values()} == {"silu", "relu2", "relu", "gelu"},
        "neighbours": {net.neighbours for net in nets.values()} == {True, False},
        "one kv head": any(net.kv_heads == 1 < net.heads for net in nets.values()),
    }
    assert all(features.values()), features
