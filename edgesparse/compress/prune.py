"""`prune_model`: from a checkpoint to pruned matrices, layer by layer, kept in a `Work` folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgesparse.cancel import CancelToken
from edgesparse.checkpoint import TERNARY_TYPES, Checkpoint
from edgesparse.checkpoint.names import is_projection
from edgesparse.compress.layers import Matrix, Progress, compress_layers
from edgesparse.compress.magnitude import magnitude_mask
from edgesparse.compress.owl import outlier_share, owl_sparsities
from edgesparse.compress.patterns import Pattern
from edgesparse.compress.sparsegpt import sparsegpt
from edgesparse.compress.store import Rounder, Store
from edgesparse.compress.wanda import wanda_mask, wanda_scores
from edgesparse.compress.work import Work
from edgesparse.config import ModelConfig
from edgesparse.errors import UsageError
from edgesparse.plan.plan import Plan

__all__ = ["METHODS", "MatrixReport", "PruneOptions", "check_prunable", "prune_model"]

METHODS = ("magnitude", "wanda", "sparsegpt")

Float32 = npt.NDArray[np.float32]
Windows = Sequence[npt.NDArray[np.int32]]
StageProgress = Callable[[str, float, int], None]
"""progress(stage, layers done, layers), a share of the present layer included."""


@dataclass(frozen=True)
class PruneOptions:
    """What is done to every matrix.

    Attributes
    ----------
    method : {"magnitude", "wanda", "sparsegpt"}
    pattern : Pattern
    store : Store
    owl : bool
        Whether layers differ in sparsity (unstructured patterns only).
    """

    method: str
    pattern: Pattern
    store: Store
    owl: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}.")
        if self.owl and (self.pattern.is_structured or self.pattern.sparsity == 0):
            raise UsageError(
                "OWL spreads a share of zeros over the layers; an N:M pattern is the same in all.",
                advice="Give --sparsity, or leave out --owl.",
            )

    @property
    def needs_text(self) -> bool:
        """Whether inputs of the matrices decide."""
        return self.method != "magnitude" or self.owl


@dataclass(frozen=True)
class MatrixReport:
    """What became of one matrix.

    Attributes
    ----------
    name : str
    layer : int
    shape : (int, int)
    n_zeros : int
        Weights that are exactly 0 as stored.
    error : float
        Share of its outputs' power over the text that is lost, rounding included; without a text,
        of the power of its weights.
    """

    name: str
    layer: int
    shape: tuple[int, int]
    n_zeros: int
    error: float


def check_prunable(checkpoint: Checkpoint, options: PruneOptions) -> list[str]:
    """Name the matrices to prune.

    Raises
    ------
    UsageError
        The model was trained with ternary weights, is a mixture of experts or has outliers, or a
        matrix does not fit the pattern or the store.
    """
    names = [name for name in checkpoint.tensors if is_projection(name)]
    infos = [checkpoint.info(name) for name in names]
    ternary = [info for info in infos if info.type in TERNARY_TYPES or info.ternarize]
    if ternary or checkpoint.get_str("general.architecture").startswith("bitnet"):
        raise UsageError(
            f"{checkpoint.path}: its weights were trained to be ternary, about 40 % of them 0 "
            "already; pruning takes from the rest what training put there.",
            advice="Prune a model with full-precision or quantised weights.",
        )
    if any(info.has_outliers for info in checkpoint.tensors.values()):
        raise UsageError(
            f"{checkpoint.path} is quantised already, with outliers.",
            advice="Prune the model that it was made of.",
        )
    if not names or any(len(name.split(".")) == 5 for name in names):
        raise UsageError(
            f"{checkpoint.path}: only models with the seven matrices of a dense layer are pruned."
        )
    for info in infos:
        options.pattern.check(info.n_cols, info.name)
        options.store.check(info.n_cols, info.name)
    return names


def prune_model(
    checkpoint: Checkpoint,
    config: ModelConfig,
    plan: Plan,
    windows: Windows,
    options: PruneOptions,
    work: Work,
    *,
    progress: StageProgress | None = None,
    cancel: CancelToken | None = None,
) -> list[MatrixReport]:
    """Prune every matrix of every layer into `work`.

    Parameters
    ----------
    checkpoint, config : Checkpoint, ModelConfig
    plan : Plan
        Of the same model.
    windows : sequence of int32 ndarray
        The text, each window a sequence of its own; unused where `options.needs_text` is false.
    options : PruneOptions
    work : Work
        Gets ``data`` (the stored bytes) and what the report says, under the name of each matrix.
    progress : callable, optional
        Stages are ``score`` (OWL only) and ``prune``.
    cancel : CancelToken, optional

    Returns
    -------
    list of MatrixReport

    Raises
    ------
    Cancelled
        What is finished stays in `work`.
    UsageError
        See `check_prunable`.
    """
    check_prunable(checkpoint, options)
    text = windows if options.needs_text else ()

    def stage(name: str) -> Progress | None:
        return None if progress is None else lambda done, of: progress(name, done, of)

    shares = [options.pattern.sparsity] * config.n_layers
    if options.owl:
        shares = _owl_shares(checkpoint, config, plan, text, options, work, stage("score"), cancel)
    reports: list[MatrixReport] = []

    def change(matrix: Matrix) -> Float32:
        kept = work.get(matrix.name)
        if kept is None:
            pattern = options.pattern if not options.owl else Pattern(shares[matrix.layer])
            kept = _prune(matrix, pattern, options)
            work.put(matrix.name, kept)
        stored = options.store.decode(kept["data"], matrix.weight.shape)
        reports.append(
            MatrixReport(
                matrix.name,
                matrix.layer,
                (matrix.weight.shape[0], matrix.weight.shape[1]),
                int((stored == 0).sum()),
                float(kept["error"]),
            )
        )
        return stored

    compress_layers(
        checkpoint,
        config,
        plan,
        text,
        change,
        with_hessian=options.needs_text,
        is_done=work.has,
        progress=stage("prune"),
        cancel=cancel,
    )
    return reports


def _prune(
    matrix: Matrix, pattern: Pattern, options: PruneOptions
) -> dict[str, npt.NDArray[np.generic]]:
    weight, store = matrix.weight, options.store
    steps: Float32 | None = None
    if options.method == "sparsegpt":
        rounder = None if store.is_float else Rounder(store, weight.shape)
        pruned = sparsegpt(weight, matrix.hessian, pattern, rounding=rounder).weight
        steps = None if rounder is None else rounder.steps
    else:
        if options.method == "wanda":
            mask = wanda_mask(weight, matrix.norms, pattern)
        else:
            mask = magnitude_mask(weight, pattern)
        pruned = np.where(mask, np.float32(0), weight)
    data, stored = store.encode(pruned, steps)
    return {"data": data, "error": np.array(matrix.lost(stored))}


def _owl_shares(
    checkpoint: Checkpoint,
    config: ModelConfig,
    plan: Plan,
    windows: Windows,
    options: PruneOptions,
    work: Work,
    progress: Progress | None,
    cancel: CancelToken | None,
) -> list[float]:
    """Decide how sparse each layer becomes, from the scores of the dense model."""
    kept = work.get("owl")
    if kept is not None:
        return [float(share) for share in kept["shares"]]
    scores: dict[int, list[Float32]] = {}
    outliers: list[float] = []

    def look(matrix: Matrix) -> Float32:
        if matrix.layer not in scores:
            outliers.extend(outlier_share(scores.pop(layer)) for layer in list(scores))
            scores[matrix.layer] = []
        scores[matrix.layer].append(wanda_scores(matrix.weight, matrix.norms))
        return matrix.weight

    compress_layers(checkpoint, config, plan, windows, look, progress=progress, cancel=cancel)
    outliers.extend(outlier_share(scores.pop(layer)) for layer in list(scores))
    shares = owl_sparsities(outliers, options.pattern.sparsity)
    work.put("owl", {"shares": np.asarray(shares)})
    return shares
