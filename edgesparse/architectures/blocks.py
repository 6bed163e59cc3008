"""What decoder-only transformers have in common: embedding, attention, feed-forward, head."""

from __future__ import annotations

import math
from collections.abc import Container

from edgesparse.config import ModelConfig
from edgesparse.plan.builder import PlanBuilder
from edgesparse.plan.op import LOGITS, Attention, Embed, Output, RopeKV

__all__ = ["attention_block", "decoder", "feed_forward_block"]

ROPE = "rope"


def decoder(
    builder: PlanBuilder, config: ModelConfig, tensors: Container[str], *, sub_norms: bool
) -> None:
    """Append a whole pre-norm decoder.

    Parameters
    ----------
    sub_norms : bool
        BitNet: an RMSNorm in front of ``attn_output`` and of ``ffn_down``.
    """
    x = builder.buffer("x", config.width)
    builder.add(Embed("embed", "token_embd.weight", x))
    for layer in range(config.n_layers):
        attention_block(builder, config, tensors, layer, sub_norm=sub_norms)
        feed_forward_block(builder, config, tensors, layer, sub_norm=sub_norms)
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


def attention_block(
    builder: PlanBuilder,
    config: ModelConfig,
    tensors: Container[str],
    layer: int,
    *,
    sub_norm: bool,
) -> None:
    """Append norm → q, k, v → rotation and cache → attention → output projection + residual."""
    blk = f"blk.{layer}"
    q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    q, k = builder.buffer("q", q_dim), builder.buffer("k", kv_dim)
    v, mixed = builder.buffer("v", kv_dim), builder.buffer("attn", q_dim)
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
            ROPE,
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
            1.0 / math.sqrt(config.head_dim),
        )
    )
    builder.linear(
        f"{blk}.attn_output",
        mixed,
        (_output(tensors, f"{blk}.attn_output", "x", add=True),),
        norm=f"{blk}.attn_sub_norm.weight" if sub_norm else None,
        eps=config.eps,
    )


def feed_forward_block(
    builder: PlanBuilder,
    config: ModelConfig,
    tensors: Container[str],
    layer: int,
    *,
    sub_norm: bool,
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
            _output(tensors, f"{blk}.ffn_gate", gate),
            _output(tensors, f"{blk}.ffn_up", up, live=gate if sparse else None),
        ),
        norm=f"{blk}.ffn_norm.weight",
        eps=config.eps,
    )
    builder.linear(
        f"{blk}.down",
        gate,
        (_output(tensors, f"{blk}.ffn_down", "x", add=True),),
        up=up,
        glu=config.glu,
        norm=f"{blk}.ffn_sub_norm.weight" if sub_norm else None,
        eps=config.eps,
        skip_zeros=sparse,
    )
