"""Calibrate the sign predictor: the least alpha that keeps a share of the live gates, by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgesparse.errors import UsageError
from edgesparse.executors.base import Step
from edgesparse.formats.signs import SignPlanes, sign_planes
from edgesparse.formats.weight import TILE
from edgesparse.ops.predict import limits, votes
from edgesparse.sparsity.alphas import ALPHA_ONE, MAX_ALPHA, SparseInferTable
from edgesparse.sparsity.fingerprint import fingerprint
from edgesparse.sparsity.gates import gated_ops
from edgesparse.sparsity.observed import Hook, Observed
from edgesparse.sparsity.passes import require_dense, windows_of

if TYPE_CHECKING:
    from edgesparse.model import Model

__all__ = ["Votes", "alpha_for", "calibrate_alphas", "collect_votes", "outcome"]

Int16 = npt.NDArray[np.int16]


@dataclass(eq=False)
class Votes:
    """Votes and truth of one layer.

    Attributes
    ----------
    planes : SignPlanes
    against : list of int32 ndarray, shape (n_tokens, F)
        Votes against each gate, one array per window.
    live : list of bool ndarray, shape (n_tokens, F)
        Whether the gate is above 0.
    """

    planes: SignPlanes
    against: list[npt.NDArray[np.int32]]
    live: list[npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Outcome:
    """What an alpha does to a layer.

    Attributes
    ----------
    kept : float
        Share of live gates that is computed.
    dropped : float
        Share of dead gates that is not: the recall of predicting zeros.
    precision : float
        Share of the predicted zeros that are zeros.
    skipped, skipped_tiles : float
        Share of all gates, and of tiles of 8, that is not computed.
    """

    kept: float
    dropped: float
    precision: float
    skipped: float
    skipped_tiles: float


def collect_votes(
    model: Model, ids: Sequence[int], *, max_tokens: int | None = None
) -> dict[str, Votes]:
    """Run a text through the model and let the signs of every layer vote.

    Parameters
    ----------
    model : Model
        Loaded with fused=False.
    ids : sequence of int
    max_tokens : int, optional

    Raises
    ------
    UsageError
        The model has no ReLU, its plan is fused, or the text is short.
    """
    if not model.config.glu.makes_zeros:
        raise UsageError(
            "the gate of this model makes no zeros, so there is nothing to predict.",
            advice="teal, cats and chess are for such models.",
        )
    require_dense(model)
    windows = windows_of(model, ids, max_tokens=max_tokens, least=64)
    ops = gated_ops(model)
    weights = model.parameters.weights
    found = {op.name: Votes(sign_planes(weights[op.outputs[0].weight]), [], []) for op in ops}

    def voting(layer: Votes) -> Hook:
        return lambda step, rows: layer.against.append(votes(layer.planes, rows))

    def judging(layer: Votes) -> Hook:
        def hook(step: Step, rows: npt.NDArray[np.float32]) -> None:
            layer.live.append(rows > 0)

        return hook

    observed = Observed(
        model.engine.executor,
        {name: voting(layer) for name, layer in found.items()},
        {name: judging(layer) for name, layer in found.items()},
    )
    for window in windows:
        observed.run(window.step(model.engine, model.engine.new_cache(len(window.tokens))))
    return found


def alpha_for(layer: Votes, recall: float) -> int:
    """Return the least alpha, in ten-thousandths, that keeps `recall` of the live gates."""
    against = np.concatenate([a[live] for a, live in zip(layer.against, layer.live, strict=True)])
    if not against.size:
        return 0
    n = np.concatenate(
        [np.broadcast_to(layer.planes.n_weights, live.shape)[live] for live in layer.live]
    )
    ratio = np.sort(against / np.maximum(n - against, 1))
    last = float(ratio[max(0, math.ceil(recall * len(ratio)) - 1)])
    return min(MAX_ALPHA, math.ceil(last * ALPHA_ONE))


def outcome(layer: Votes, alpha: int) -> Outcome:
    """Say what `alpha` does on the text."""
    most = limits(layer.planes, alpha)
    n = n_live = n_skipped = n_wrong = n_tiles = n_all_tiles = 0
    for against, live in zip(layer.against, layer.live, strict=True):
        dead = against > most
        n += dead.size
        n_live += int(live.sum())
        n_skipped += int(dead.sum())
        n_wrong += int((dead & live).sum())
        starts = np.arange(0, dead.shape[1], TILE)
        tiles = np.logical_and.reduceat(dead, starts, axis=1)
        n_tiles += int(tiles.sum())
        n_all_tiles += tiles.size
    n_dead = n - n_live
    return Outcome(
        kept=1 - n_wrong / max(1, n_live),
        dropped=(n_skipped - n_wrong) / max(1, n_dead),
        precision=1 - n_wrong / max(1, n_skipped),
        skipped=n_skipped / max(1, n),
        skipped_tiles=n_tiles / max(1, n_all_tiles),
    )


def calibrate_alphas(
    model: Model,
    ids: Sequence[int],
    *,
    recall: float,
    max_tokens: int | None = None,
    text_sha256: str = "",
) -> SparseInferTable:
    """Choose every layer's alpha so that `recall` of its live gates are kept.

    Raises
    ------
    UsageError
        As `collect_votes`, or `recall` is not within (0, 1].
    """
    if not 0 < recall <= 1:
        raise UsageError(f"recall must be above 0 and at most 1, not {recall}.")
    layers = collect_votes(model, ids, max_tokens=max_tokens)
    alphas = {name: alpha_for(layer, recall) for name, layer in layers.items()}
    outcomes = {name: outcome(layers[name], alpha) for name, alpha in alphas.items()}
    return SparseInferTable(
        fingerprint(model.config, model.parameters.vectors),
        alphas,
        recall,
        kept={name: each.kept for name, each in outcomes.items()},
        dropped={name: each.dropped for name, each in outcomes.items()},
        skipped={name: each.skipped for name, each in outcomes.items()},
        skipped_tiles={name: each.skipped_tiles for name, each in outcomes.items()},
        text_sha256=text_sha256,
    )
