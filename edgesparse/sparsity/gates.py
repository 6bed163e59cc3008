"""CATS (Lee et al., 2024) and CHESS (He et al., 2024): neurons pruned by their activated gate.

CATS compares |act(g)| with one threshold per layer. CHESS weighs every channel i with the mean
square of its up projection, E2_i: the score of a gate is act(g)^2 E2_i, and a layer's threshold T
is the wanted quantile of the scores; a channel counts as dead where |act(g)| < sqrt(T / E2_i), in
this file's terms |act(g)| * sqrt(E2_i / T) < 1. A channel whose up is always 0 is always dead.

CHESS also thresholds the inputs of the q and of the output projection, each by one quantile. Here q
shares its input with k and v, which CHESS leaves alone, so only the output projection is.
T is the quantile over the whole text; the paper averages those of its pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgesparse.executors.base import Step
from edgesparse.plan.op import Linear
from edgesparse.sparsity.apply import activated
from edgesparse.sparsity.histogram import Histogram
from edgesparse.sparsity.observed import Hook, Observed
from edgesparse.sparsity.passes import Window

if TYPE_CHECKING:
    from edgesparse.model import Model

__all__ = ["chess_factors", "gate_histograms", "gated_ops", "mean_squares"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def gated_ops(model: Model) -> list[Linear]:
    """Return the ops that compute a gate and what it is multiplied with, in this order."""
    ops = model.engine.plan.ops
    return [op for op in ops if isinstance(op, Linear) and op.name.endswith(".gate_up")]


def mean_squares(model: Model, windows: Sequence[Window], dense_tokens: int) -> dict[str, Float64]:
    """Return the mean square of every channel's up projection, by name of the op: (F,) float64."""
    ops = gated_ops(model)
    weights = model.parameters.weights
    sums = {op.name: np.zeros(weights[op.outputs[1].weight].n_rows, np.float64) for op in ops}
    n = 0

    def counting(op: Linear) -> Hook:
        def hook(step: Step, rows: Float32) -> None:
            up = model.engine.executor.buffer(op.outputs[1].dst, len(step.tokens))
            late = up[step.positions >= dense_tokens]
            sums[op.name] += np.square(late, dtype=np.float64).sum(axis=0)

        return hook

    observed = Observed(model.engine.executor, after={op.name: counting(op) for op in ops})
    for window in windows:
        observed.run(window.step(model.engine, model.engine.new_cache(len(window.tokens))))
        n += max(0, len(window.tokens) - dense_tokens)
    return {name: each / max(1, n) for name, each in sums.items()}


def gate_histograms(
    model: Model,
    windows: Sequence[Window],
    dense_tokens: int,
    factors: dict[str, Float32] | None = None,
) -> dict[str, Histogram]:
    """Count |act(g)|, times a factor per channel if there are any, by name of the op."""
    found = {op.name: Histogram() for op in gated_ops(model)}

    def counting(name: str) -> Hook:
        def hook(step: Step, rows: Float32) -> None:
            values = activated(model.config.glu, rows[step.positions >= dense_tokens])
            found[name].add(values if factors is None else values * factors[name])

        return hook

    observed = Observed(model.engine.executor, after={name: counting(name) for name in found})
    for window in windows:
        observed.run(window.step(model.engine, model.engine.new_cache(len(window.tokens))))
    return found


def chess_factors(roots: Float32, histogram: Histogram, share: float) -> Float32:
    """Return sqrt(E2_i / T) for every channel.

    Parameters
    ----------
    roots : float32 ndarray, shape (F,)
        sqrt(E2_i).
    histogram : Histogram
        Of |act(g)| * sqrt(E2_i).
    share : float
        Of the scores that are to be dead.
    """
    root = histogram.quantile(share)
    # Nothing to be dead: factors so large that only an activation of 0 is.
    return np.asarray(roots / np.float32(max(root, 1e-20)), np.float32)
