"""Puts the thresholds of a calibration into a plan: which linear ops ignore small inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgesparse.errors import UsageError
from edgesparse.plan.op import Linear, Op
from edgesparse.plan.plan import Plan

if TYPE_CHECKING:
    from edgesparse.sparsity.thresholds import Thresholds

__all__ = ["sparsify"]


def sparsify(plan: Plan, thresholds: Thresholds) -> tuple[Plan, dict[str, npt.NDArray[np.float32]]]:
    """Return the plan with thresholds, and the vectors of factors that it names.

    Ops with a threshold have their weights stored by inputs, so that what is ignored is not read.

    Parameters
    ----------
    plan : Plan
    thresholds : Thresholds
        Made for this plan's model (`Thresholds.check`).

    Raises
    ------
    UsageError
        The method prunes by the gate, which no executor does.
    """
    factors: dict[str, npt.NDArray[np.float32]] = {}
    ops: list[Op] = []
    for op in plan.ops:
        rule = thresholds.rule(op.name) if isinstance(op, Linear) else None
        if not isinstance(op, Linear) or rule is None or rule.threshold <= 0:
            ops.append(op)
            continue
        if rule.on_gate:
            raise UsageError(
                f"{op.name}: thresholds on the gate ({thresholds.method}) cannot be run.",
                advice="Calibrate with the method teal.",
            )
        name = None
        if rule.factors is not None:
            name = f"{op.name}.factors"
            factors[name] = np.ascontiguousarray(rule.factors, np.float32)
        share = thresholds.achieved.get(op.name, thresholds.sparsity)
        sparse = replace(op, threshold=rule.threshold, factors=name, skip_zeros=True)
        ops.append(replace(sparse, dead_share=share))
    return replace(plan, ops=tuple(ops), dense_tokens=thresholds.dense_tokens), factors
