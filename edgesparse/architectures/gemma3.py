"""Gemma 3, text (Gemma Team, 2025): four norms a layer, GELU gates, windows in most layers."""

from __future__ import annotations

import math
from collections.abc import Container

from edgesparse.architectures.blocks import ExtraNorms, decoder
from edgesparse.config import ModelConfig
from edgesparse.plan.builder import PlanBuilder

__all__ = ["build"]


def build(builder: PlanBuilder, config: ModelConfig, tensors: Container[str]) -> None:
    """Append the ops of a Gemma 3 decoder."""
    norms = ExtraNorms(head=True, post=True)
    decoder(builder, config, tensors, norms, embed_scale=math.sqrt(config.width))
