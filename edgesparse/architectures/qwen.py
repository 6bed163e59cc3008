"""Qwen2 (Yang et al., 2024: biases on q, k, v) and Qwen3 (2025: a norm over each head instead).

Both with a feed-forward or a mixture of experts (Qwen1.5-MoE, Qwen2-57B-A14B, Qwen3-30B-A3B).
"""

from __future__ import annotations

from collections.abc import Container

from edgesparse.architectures.blocks import ExtraNorms, decoder
from edgesparse.config import ModelConfig
from edgesparse.plan.builder import PlanBuilder

__all__ = ["build"]


def build(builder: PlanBuilder, config: ModelConfig, tensors: Container[str]) -> None:
    """Append the ops of a Qwen2 or Qwen3 decoder."""
    decoder(builder, config, tensors, ExtraNorms(head=config.architecture.startswith("qwen3")))
