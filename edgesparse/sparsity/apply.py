"""Run a loaded model with thresholds or predicted gates for a while, to see what they cost.

Thresholds are applied as arithmetic: small activations become 0 between two ops. That saves no
time, as nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgesparse.executors import make_executor
from edgesparse.executors.base import Step
from edgesparse.ops.glu import glu
from edgesparse.plan.op import GluKind
from edgesparse.sparsity.alphas import SparseInferTable
from edgesparse.sparsity.observed import Hook, Observed
from edgesparse.sparsity.predictor import add_predictor
from edgesparse.sparsity.thresholds import Rule, Thresholds

if TYPE_CHECKING:
    from edgesparse.model import Model

__all__ = ["activated", "hooks", "is_small", "predicted", "thresholded"]

Float32 = npt.NDArray[np.float32]


def activated(kind: GluKind, gate: Float32) -> Float32:
    """Return act(gate), elementwise."""
    return glu(kind, gate, np.ones_like(gate))


def is_small(rule: Rule, x: Float32) -> npt.NDArray[np.bool_]:
    """Tell which elements of (n_tokens, k) values the rule ignores."""
    magnitude = np.abs(x) if rule.factors is None else np.abs(x) * rule.factors
    return np.asarray(magnitude < np.float32(rule.threshold))


def hooks(thresholds: Thresholds, kind: GluKind) -> tuple[dict[str, Hook], dict[str, Hook]]:
    """Return what `Observed` is to call before and after linear ops."""
    before: dict[str, Hook] = {}
    after: dict[str, Hook] = {}
    for name in thresholds.thresholds:
        rule = thresholds.rule(name)
        # As in `sparsify`: a ReLU's up skips rows, and keeps its inputs.
        keeps = rule is not None and not rule.on_gate and name.endswith(".gate_up")
        if rule is not None and not (keeps and kind.makes_zeros):
            (after if rule.on_gate else before)[name] = _hook(
                rule, thresholds.dense_tokens, kind if rule.on_gate else None
            )
    return before, after


def _hook(rule: Rule, dense_tokens: int, kind: GluKind | None) -> Hook:
    def hook(step: Step, rows: Float32) -> None:
        values = rows if kind is None else activated(kind, rows)
        small = is_small(rule, values)
        # The activations in question map 0 to 0, so a gate of 0 is a dead neuron.
        rows[small & (step.positions >= dense_tokens)[:, None]] = 0

    return hook


@contextmanager
def thresholded(model: Model, thresholds: Thresholds) -> Iterator[Model]:
    """Make a model, loaded with fused=False, ignore small activations for the time being.

    Raises
    ------
    UsageError
        The model's plan is fused.
    """
    executor = model.engine.executor
    model.engine.executor = Observed(executor, *hooks(thresholds, model.config.glu))
    try:
        yield model
    finally:
        model.engine.executor = executor


@contextmanager
def predicted(model: Model, table: SparseInferTable) -> Iterator[Model]:
    """Let a model predict its gates for the time being, whether that pays or not.

    Raises
    ------
    UsageError
        There are no gates to predict (`add_predictor`).
    """
    engine, before = model.engine, model.engine.executor
    plan, parameters = add_predictor(engine.plan, model.parameters, table, force=True)
    engine.executor = make_executor(
        engine.executor_name, plan, parameters, threads=engine.n_threads
    )
    try:
        yield model
    finally:
        engine.executor.close()
        engine.executor = before
