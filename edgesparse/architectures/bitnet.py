"""BitNet b1.58 (Ma et al., 2024; 2B4T report, 2025): sub-norms and, in 2B4T, squared ReLU."""

from __future__ import annotations

from collections.abc import Container

from edgesparse.architectures.blocks import ExtraNorms, decoder
from edgesparse.config import ModelConfig
from edgesparse.plan.builder import PlanBuilder

__all__ = ["build"]


def build(builder: PlanBuilder, config: ModelConfig, tensors: Container[str]) -> None:
    """Append the ops of a BitNet decoder."""
    decoder(builder, config, tensors, ExtraNorms(sub=True))
