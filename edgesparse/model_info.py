"""`ModelInfo`: facts about a loaded model, in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgesparse.budget import MemoryNeed
from edgesparse.config import ModelConfig
from edgesparse.executors.base import Parameters
from edgesparse.loading import embedding_names, head_name
from edgesparse.ops.two_stage import N_TILES
from edgesparse.plan.plan import Plan
from edgesparse.quality import describe_candidates, describe_head, describe_quality
from edgesparse.sampling.recommended import Recommended

if TYPE_CHECKING:
    from edgesparse.sparsity.thresholds import Thresholds

__all__ = ["ModelInfo", "describe", "with_quality"]


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a loaded model.

    Attributes
    ----------
    path, name, architecture : str
    file_bytes, weight_bytes : int
        Size of the files, and of the weights as they lie in memory.
    n_parameters : int
        Elements of all matrices that are used.
    formats : str
        Storage formats with their bytes, largest first.
    warnings : tuple of str
        What the reader and the tokenizer noticed.
    recommended : Recommended
        Sampling settings that the model's files name; they are the defaults of its answers.
    head : str
        How the matrix that makes the logits is stored.
    quality : str
        Which weights were rounded, or that nothing is approximated.
    memory : MemoryNeed, optional
        What the model was predicted to take before its weights were loaded.
    """

    path: str
    name: str
    architecture: str
    file_bytes: int
    weight_bytes: int
    n_parameters: int
    formats: str
    warnings: tuple[str, ...]
    recommended: Recommended = field(default_factory=Recommended)
    head: str = ""
    quality: str = ""
    memory: MemoryNeed | None = None


def describe(
    path: str,
    config: ModelConfig,
    parameters: Parameters,
    file_bytes: int,
    warnings: tuple[str, ...],
    recommended: Recommended,
) -> ModelInfo:
    """Say what was loaded, but for its memory and quality."""
    totals: dict[str, int] = {}
    for weight in parameters.weights.values():
        name = weight.format.name.lower()
        totals[name] = totals.get(name, 0) + weight.n_bytes
    ordered = sorted(totals.items(), key=lambda item: -item[1])
    return ModelInfo(
        path=path,
        name=config.name,
        architecture=config.architecture,
        file_bytes=file_bytes,
        weight_bytes=sum(totals.values()),
        n_parameters=sum(w.n_rows * w.k for w in parameters.weights.values()),
        formats=", ".join(f"{name} {n_bytes / 1e6:.1f} MB" for name, n_bytes in ordered),
        warnings=warnings,
        recommended=recommended,
    )


def with_quality(
    info: ModelInfo,
    plan: Plan,
    parameters: Parameters,
    head: str,
    thresholds: Thresholds | None,
    *,
    lossy: bool,
) -> ModelInfo:
    """Add how the head is stored and what is approximated."""
    name = head_name(plan)
    tied = name in embedding_names(plan)
    described = describe_head(parameters.weights[name], tied=tied, choice=head)
    quality = describe_quality(parameters.weights.values(), name, plan, thresholds, lossy=lossy)
    if parameters.coarse is None:
        return replace(info, head=described, quality=quality)
    n_bytes = parameters.coarse.n_bytes
    return replace(
        info,
        weight_bytes=info.weight_bytes + n_bytes,
        head=f"{described}; two-bit copy, {n_bytes / 1e6:.1f} MB, proposes {N_TILES} tiles",
        quality=describe_candidates(quality),
    )
