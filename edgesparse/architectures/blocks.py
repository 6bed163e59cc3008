"""What decoder-only transformers have in common: embedding, attention, feed-forward, head."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass, replace

from edgesparse.config import ExpertConfig, ModelConfig
from edgesparse.plan.builder import PlanBuilder
from edgesparse.plan.op import (
    LOGITS,
    Add,
    Attention,
    Combine,
    Embed,
    Experts,
    Norm,
    Output,
    RopeKV,
    Route,
)

__all__ = ["ROPE", "ROPE_LOCAL", "ExtraNorms", "decoder"]

ROPE = "rope"
"""Rotary table of the layers that see everything."""
ROPE_LOCAL = "rope.local"
"""Rotary table of the layers with a window, where their base is another."""


@dataclass(frozen=True)
class ExtraNorms:
    """RMSNorms beside the two in front of attention and feed-forward.

    Attributes
    ----------
    sub : bool
        BitNet: in front of ``attn_output`` and of ``ffn_down``.
    head : bool
        Qwen3, Gemma 3: over each head of q and k, before the rotation.
    post : bool
        Gemma 3: behind ``attn_output`` and ``ffn_down``, before the residual addition.
    """

    sub: bool = False
    head: bool = False
    post: bool = False


def decoder(
    builder: PlanBuilder,
    config: ModelConfig,
    tensors: Container[str],
    norms: ExtraNorms = ExtraNorms(),
    *,
    embed_scale: float = 1.0,
) -> None:
    """Append a whole pre-norm decoder.

    Parameters
    ----------
    norms : ExtraNorms
        What the family adds.
    embed_scale : float
        Factor on the embedding's output.
    """
    x = builder.buffer("x", config.width)
    builder.add(Embed("embed", "token_embd.weight", x, embed_scale))
    for layer in range(config.n_layers):
        _attention_block(builder, config, tensors, layer, norms)
        if config.experts is not None and f"blk.{layer}.ffn_gate_inp.weight" in tensors:
            _experts_block(builder, config, config.experts, tensors, layer)
        else:
            _feed_forward_block(builder, config, tensors, layer, norms)
    head = "output.weight" if "output.weight" in tensors else "token_embd.weight"
    builder.linear(
        "head",
        x,
        (Output(head, LOGITS),),
        norm="output_norm.weight",
        eps=config.eps,
        outputs_only=True,
    )


def _output(
    tensors: Container[str], stem: str, dst: str, *, add: bool = False, live: str | None = None
) -> Output:
    bias = f"{stem}.bias"
    return Output(f"{stem}.weight", dst, add, bias if bias in tensors else None, live)


def _cut(config: ModelConfig, gate: Output) -> Output:
    """Give a gate the thresholds of the model's activation."""
    return replace(gate, shift=config.gate_shift, cutoff=config.gate_cutoff)


def _attention_block(
    builder: PlanBuilder,
    config: ModelConfig,
    tensors: Container[str],
    layer: int,
    norms: ExtraNorms,
) -> None:
    """Append norm → q, k, v → rotation and cache → attention → output projection + residual."""
    blk = f"blk.{layer}"
    q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    q, k = builder.buffer("q", q_dim), builder.buffer("k", kv_dim)
    v, mixed = builder.buffer("v", kv_dim), builder.buffer("attn", q_dim)
    local = config.is_local(layer)
    builder.linear(
        f"{blk}.qkv",
        "x",
        (
            _output(tensors, f"{blk}.attn_q", q),
            _output(tensors, f"{blk}.attn_k", k),
            _output(tensors, f"{blk}.attn_v", v),
        ),
        norm=f"{blk}.attn_norm.weight",
        eps=config.eps,
    )
    builder.add(
        RopeKV(
            f"{blk}.rope",
            layer,
            q,
            k,
            v,
            config.n_heads,
            config.n_kv_heads,
            config.head_dim,
            config.rope_dim,
            config.rope_style,
            ROPE_LOCAL if local and config.rope_theta_local is not None else ROPE,
            norm_q=f"{blk}.attn_q_norm.weight" if norms.head else None,
            norm_k=f"{blk}.attn_k_norm.weight" if norms.head else None,
            eps=config.eps if norms.head else 0.0,
        )
    )
    builder.add(
        Attention(
            f"{blk}.attn",
            layer,
            q,
            mixed,
            config.n_heads,
            config.n_kv_heads,
            config.head_dim,
            config.attention_scale or 1.0 / math.sqrt(config.head_dim),
            config.window if local else 0,
        )
    )
    dst = builder.buffer("delta", config.width) if norms.post else "x"
    builder.linear(
        f"{blk}.attn_output",
        mixed,
        (_output(tensors, f"{blk}.attn_output", dst, add=not norms.post),),
        norm=f"{blk}.attn_sub_norm.weight" if norms.sub else None,
        eps=config.eps,
    )
    if norms.post:
        _add_normed(builder, config, f"{blk}.post_attention_norm")


def _feed_forward_block(
    builder: PlanBuilder,
    config: ModelConfig,
    tensors: Container[str],
    layer: int,
    norms: ExtraNorms,
) -> None:
    """Append norm → gate, up → gated product → down projection + residual.

    Where the activation makes zeros, `up` waits for the gate and computes live neurons only, and
    `down` skips the inputs that are zero.
    """
    blk = f"blk.{layer}"
    sparse = builder.sparse and config.glu.makes_zeros
    gate = builder.buffer("gate", config.feed_forward)
    up = builder.buffer("up", config.feed_forward)
    builder.linear(
        f"{blk}.gate_up",
        "x",
        (
            _cut(config, _output(tensors, f"{blk}.ffn_gate", gate)),
            _output(tensors, f"{blk}.ffn_up", up, live=gate if sparse else None),
        ),
        norm=f"{blk}.ffn_norm.weight",
        eps=config.eps,
    )
    dst = builder.buffer("delta", config.width) if norms.post else "x"
    builder.linear(
        f"{blk}.down",
        gate,
        (_output(tensors, f"{blk}.ffn_down", dst, add=not norms.post),),
        up=up,
        glu=config.glu,
        norm=f"{blk}.ffn_sub_norm.weight" if norms.sub else None,
        eps=config.eps,
        skip_zeros=sparse,
    )
    if norms.post:
        _add_normed(builder, config, f"{blk}.post_ffw_norm")


def _experts_block(
    builder: PlanBuilder,
    config: ModelConfig,
    experts: ExpertConfig,
    tensors: Container[str],
    layer: int,
) -> None:
    """Append norm → router → the chosen experts' feed-forwards, a shared one → weighted sum.

    The shared expert's gate and up are products of the router's input and go with it.
    """
    blk, n_used = f"blk.{layer}", experts.n_used
    norm, sparse = f"{blk}.ffn_norm.weight", builder.sparse and config.glu.makes_zeros
    scores = builder.buffer("scores", experts.n_experts)
    route = builder.buffer("route", 2 * n_used)
    gate = builder.buffer("expert_gate", n_used * experts.feed_forward)
    up = builder.buffer("expert_up", n_used * experts.feed_forward)
    down = builder.buffer("expert_down", n_used * config.width)
    outputs = [_output(tensors, f"{blk}.ffn_gate_inp", scores)]
    shared = share = None
    if f"{blk}.ffn_up_shexp.weight" in tensors:
        shared_gate = builder.buffer("shared_gate", experts.shared_feed_forward)
        shared_up = builder.buffer("shared_up", experts.shared_feed_forward)
        shared = builder.buffer("shared", config.width)
        if f"{blk}.ffn_gate_inp_shexp.weight" in tensors:
            share = builder.buffer("share", 1)
            outputs.append(_output(tensors, f"{blk}.ffn_gate_inp_shexp", share))
        live = shared_gate if sparse else None
        outputs.append(_cut(config, _output(tensors, f"{blk}.ffn_gate_shexp", shared_gate)))
        outputs.append(_output(tensors, f"{blk}.ffn_up_shexp", shared_up, live=live))
    builder.linear(f"{blk}.router", "x", tuple(outputs), norm=norm, eps=config.eps)
    builder.add(Route(f"{blk}.route", scores, route, experts.n_experts, n_used, experts.normalize))
    numbers = range(experts.n_experts)
    live = gate if sparse else None
    builder.experts(
        Experts(
            f"{blk}.experts_gate_up",
            "x",
            route,
            tuple(
                (
                    _cut(config, Output(f"{blk}.ffn_gate.{e}.weight", gate)),
                    Output(f"{blk}.ffn_up.{e}.weight", up, live=live),
                )
                for e in numbers
            ),
            n_used,
            norm=norm,
            eps=config.eps,
        )
    )
    builder.experts(
        Experts(
            f"{blk}.experts_down",
            gate,
            route,
            tuple((Output(f"{blk}.ffn_down.{e}.weight", down),) for e in numbers),
            n_used,
            per_slot=True,
            src2=up,
            glu=config.glu,
            skip_zeros=sparse,
        )
    )
    if shared is not None:
        builder.linear(
            f"{blk}.shared_down",
            shared_gate,
            (_output(tensors, f"{blk}.ffn_down_shexp", shared),),
            up=shared_up,
            glu=config.glu,
            skip_zeros=sparse,
        )
    builder.add(Combine(f"{blk}.combine", down, route, "x", n_used, shared, share))


def _add_normed(builder: PlanBuilder, config: ModelConfig, stem: str) -> None:
    builder.add(Norm(stem, "delta", "delta", f"{stem}.weight", config.eps))
    builder.add(Add(f"{stem}.add", "delta", "x"))
