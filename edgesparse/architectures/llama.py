"""Llama (Touvron et al., 2023), dense or ternary (Falcon-E, Llama3-8B-1.58, TriLM); Mixtral."""

from __future__ import annotations

from collections.abc import Container

from edgesparse.architectures.blocks import decoder
from edgesparse.config import ModelConfig
from edgesparse.plan.builder import PlanBuilder

__all__ = ["build"]


def build(builder: PlanBuilder, config: ModelConfig, tensors: Container[str]) -> None:
    """Append the ops of a Llama decoder."""
    decoder(builder, config, tensors)
