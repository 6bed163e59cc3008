"""Calibrate the sign predictor: the least alpha that keeps a share of the live gates, by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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

__all__ = [
    "Outcome",
    "Votes",
    "alpha_for",
    "calibrate_alphas",
    "collect_votes",
    "judge_alphas",
    "outcome",
]

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]


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


class _Tally:
    """Counts of predicted and true zeros, which add up over windows and layers."""

    def __init__(self) -> None:
        self.n = self.n_live = self.n_skipped = self.n_wrong = self.n_tiles = self.n_all_tiles = 0

    def add(self, dead: Bool, live: Bool) -> None:
        """Count gates (n_tokens, F) that are predicted to be dead, and those that are live."""
        self.n += dead.size
        self.n_live += int(live.sum())
        self.n_skipped += int(dead.sum())
        self.n_wrong += int((dead & live).sum())
        tiles = np.logical_and.reduceat(dead, np.arange(0, dead.shape[1], TILE), axis=1)
        self.n_tiles += int(tiles.sum())
        self.n_all_tiles += tiles.size

    def outcome(self) -> Outcome:
        """Turn counts into shares."""
        n_dead = self.n - self.n_live
        return Outcome(
            kept=1 - self.n_wrong / max(1, self.n_live),
            dropped=(self.n_skipped - self.n_wrong) / max(1, n_dead),
            precision=1 - self.n_wrong / max(1, self.n_skipped),
            skipped=self.n_skipped / max(1, self.n),
            skipped_tiles=self.n_tiles / max(1, self.n_all_tiles),
        )


def _planes_of(model: Model) -> dict[str, SignPlanes]:
    """Make the sign planes of every gate, by name of the op."""
    require_dense(model)  # first: what the other refusal advises is not for experts either
    if not model.config.glu.makes_zeros:
        raise UsageError(
            "the gate of this model makes no zeros, so there is nothing to predict.",
            advice="teal, cats and chess are for such models.",
        )
    weights = model.parameters.weights
    return {op.name: sign_planes(weights[op.outputs[0].weight]) for op in gated_ops(model)}


def _observe(
    model: Model,
    ids: Sequence[int],
    max_tokens: int | None,
    planes: Mapping[str, SignPlanes],
    seen: Callable[[str, Int32, Bool], None],
) -> None:
    """Run a text, and show every layer's votes and which of its gates are live."""
    windows = windows_of(model, ids, max_tokens=max_tokens, least=64)
    against: dict[str, Int32] = {}

    def voting(name: str) -> Hook:
        def hook(step: Step, rows: npt.NDArray[np.float32]) -> None:
            against[name] = votes(planes[name], rows)

        return hook

    def judging(name: str) -> Hook:
        return lambda step, rows: seen(name, against.pop(name), rows > 0)

    observed = Observed(
        model.engine.executor,
        {name: voting(name) for name in planes},
        {name: judging(name) for name in planes},
    )
    for window in windows:
        observed.run(window.step(model.engine, model.engine.new_cache(len(window.tokens))))


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
    found = {name: Votes(planes, [], []) for name, planes in _planes_of(model).items()}

    def seen(name: str, against: Int32, live: Bool) -> None:
        found[name].against.append(against)
        found[name].live.append(live)

    _observe(model, ids, max_tokens, {name: each.planes for name, each in found.items()}, seen)
    return found


def judge_alphas(
    model: Model, ids: Sequence[int], alphas: Sequence[int], *, max_tokens: int | None = None
) -> list[tuple[Outcome, dict[str, Outcome]]]:
    """Say what each alpha does on a text, over all gates together and by name of the op.

    Parameters
    ----------
    model : Model
        Loaded with fused=False.
    ids : sequence of int
    alphas : sequence of int
        In ten-thousandths.
    max_tokens : int, optional

    Raises
    ------
    UsageError
        As `collect_votes`.
    """
    planes = _planes_of(model)
    most = {name: [limits(each, alpha) for alpha in alphas] for name, each in planes.items()}
    everything = [_Tally() for _ in alphas]
    by_layer = [{name: _Tally() for name in planes} for _ in alphas]

    def seen(name: str, against: Int32, live: Bool) -> None:
        for i, limit in enumerate(most[name]):
            dead = against > limit
            everything[i].add(dead, live)
            by_layer[i][name].add(dead, live)

    _observe(model, ids, max_tokens, planes, seen)
    return [
        (whole.outcome(), {name: each.outcome() for name, each in layers.items()})
        for whole, layers in zip(everything, by_layer, strict=True)
    ]


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
    tally = _Tally()
    for against, live in zip(layer.against, layer.live, strict=True):
        tally.add(against > most, live)
    return tally.outcome()


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
