"""Model families: one file each turns a configuration and the tensors' names into an op list.

A new family is a new file here with a ``build`` function and a line in `ARCHITECTURES`; it needs no
C as long as it is made of the existing ops. ``blocks.py`` holds what decoders have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container
from typing import TypeAlias

from edgesparse.architectures import bitnet, gemma3, llama, qwen
from edgesparse.architectures.blocks import ROPE, ROPE_LOCAL
from edgesparse.config import ModelConfig
from edgesparse.errors import UnsupportedArchitecture
from edgesparse.plan.builder import PlanBuilder
from edgesparse.plan.cache_type import CacheType
from edgesparse.plan.outliers import with_outliers
from edgesparse.plan.plan import Plan

__all__ = ["ARCHITECTURES", "ROPE_LOCAL_TABLE", "ROPE_TABLE", "build_plan", "check_family"]

Build: TypeAlias = Callable[[PlanBuilder, ModelConfig, Container[str]], None]

ROPE_TABLE = ROPE
"""Name of the rotary table that plans refer to."""

ROPE_LOCAL_TABLE = ROPE_LOCAL
"""Name of the one for layers with a window, where their frequencies are others."""

ARCHITECTURES: dict[str, Build] = {
    "bitnet": bitnet.build,
    "bitnet-25": bitnet.build,
    "bitnet-b1.58": bitnet.build,
    "gemma3": gemma3.build,
    "llama": llama.build,
    "qwen2": qwen.build,
    "qwen2moe": qwen.build,
    "qwen3": qwen.build,
    "qwen3moe": qwen.build,
}


def check_family(architecture: str, path: str = "") -> None:
    """Refuse a family that cannot be run, before anything else of its metadata is asked for.

    Raises
    ------
    UnsupportedArchitecture
    """
    if architecture not in ARCHITECTURES:
        raise UnsupportedArchitecture(
            "unsupported",
            "general.architecture",
            f"{architecture[:64]!r} is not a family that this version runs",
            path=path,
            advice=f"It runs {', '.join(sorted(ARCHITECTURES))}.",
        )


def build_plan(
    config: ModelConfig,
    tensors: Collection[str],
    *,
    n_ctx: int,
    max_tokens: int,
    cache_type_k: CacheType = CacheType.F16,
    cache_type_v: CacheType = CacheType.F16,
    fused: bool = True,
    sparse: bool = True,
    path: str = "",
) -> Plan:
    """Write the plan of a model.

    Parameters
    ----------
    config : ModelConfig
    tensors : collection of str
        Names of the tensors in the file; optional ones (biases, a separate head) are used if there.
    n_ctx : int
        Positions of the rotary table.
    max_tokens : int
        Tokens in one step, at most.
    cache_type_k, cache_type_v : CacheType
        Storage of keys and of values.
    fused, sparse : bool
        See `PlanBuilder`.
    path : str
        File, for messages.

    Raises
    ------
    UnsupportedArchitecture
    ModelFormatError
        See `with_outliers`.
    """
    check_family(config.architecture, path)
    builder = PlanBuilder(fused=fused, sparse=sparse)
    ARCHITECTURES[config.architecture](builder, config, tensors)
    plan = builder.finish(
        architecture=config.architecture,
        n_layers=config.n_layers,
        n_kv_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        n_vocab=config.n_vocab,
        n_ctx=n_ctx,
        max_tokens=max_tokens,
        cache_type_k=cache_type_k,
        cache_type_v=cache_type_v,
    )
    return with_outliers(plan, tensors, path)
