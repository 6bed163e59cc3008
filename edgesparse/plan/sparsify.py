"""Puts the thresholds of a calibration into a plan: which linear ops ignore small inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgesparse.errors import UsageError
from edgesparse.plan.op import Glu, GluKind, Linear, Op
from edgesparse.plan.plan import Plan

if TYPE_CHECKING:
    from edgesparse.formats.weight import Weight
    from edgesparse.sparsity.thresholds import Thresholds

__all__ = ["read_in_vain", "require_silu", "sparsify"]


def sparsify(plan: Plan, thresholds: Thresholds) -> tuple[Plan, dict[str, npt.NDArray[np.float32]]]:
    """Return the plan with thresholds, and the vectors of factors that it names.

    Matrices whose inputs become zero are stored by inputs, so that what is ignored is not read.
    Thresholds on the gate of a feed-forward make outputs of its ``up`` zero, and so inputs of its
    ``down``. Where ``up`` skips the dead rows of a ReLU anyway, gate and up are stored by rows:
    ignoring their inputs would save nothing, so they keep them.

    Parameters
    ----------
    plan : Plan
    thresholds : Thresholds
        Made for this plan's model (`Thresholds.check`).

    Raises
    ------
    UsageError
        Thresholds on the gate of a feed-forward whose gate is not SiLU.
    """
    factors: dict[str, npt.NDArray[np.float32]] = {}
    rules = {op.name: thresholds.rule(op.name) for op in plan.ops}
    pruned = {
        name.removesuffix("gate_up") + "down": thresholds.achieved.get(name, thresholds.sparsity)
        for name, rule in rules.items()
        if rule is not None and rule.on_gate and rule.threshold > 0
    }
    for op in plan.ops:
        if pruned and _gate(op) is not GluKind.NONE:
            require_silu(_gate(op), thresholds.method)
    ops: list[Op] = []
    for op in plan.ops:
        rule = rules[op.name]
        if not isinstance(op, Linear):
            ops.append(op)
            continue
        if op.name in pruned:
            op = replace(op, skip_zeros=True, dead_share=pruned[op.name])
        if rule is not None and rule.threshold > 0:
            name = None
            if rule.factors is not None:
                name = f"{op.name}.factors"
                factors[name] = np.ascontiguousarray(rule.factors, np.float32)
            if rule.on_gate:
                op = _prune_up(op, rule.threshold, name)
            elif not any(out.live for out in op.outputs):
                share = thresholds.achieved.get(op.name, thresholds.sparsity)
                op = replace(op, threshold=rule.threshold, factors=name)
                op = replace(op, skip_zeros=True, dead_share=share)
        ops.append(op)
    return replace(plan, ops=tuple(ops), dense_tokens=thresholds.dense_tokens), factors


def read_in_vain(plan: Plan, weights: Mapping[str, Weight]) -> str:
    """Say which matrices are read as a whole although thresholds make inputs of theirs 0.

    Returns
    -------
    str
        One sentence; empty where every such matrix lies by its inputs.
    """
    linears = (op for op in plan.ops if isinstance(op, Linear) and op.threshold > 0)
    formats = [weights[out.weight].format for op in linears for out in op.outputs]
    found = [fmt for fmt in formats if not fmt.is_neuron_major]
    if not found:
        return ""
    names = ", ".join(sorted({fmt.name.lower() for fmt in found}))
    why = ": skipping takes longer than looking up" if any(fmt.is_sliced for fmt in found) else ""
    return (
        f"thresholds save nothing on {len(found)} matrices stored as {names}, which are read as a "
        f"whole{why}"
    )


def require_silu(kind: GluKind, method: str) -> None:
    """Refuse thresholds on the gate of a feed-forward whose gate is another.

    Raises
    ------
    UsageError
    """
    if kind is GluKind.SILU:
        return
    advice = "Thresholds of --method teal are for every model."
    if kind.makes_zeros:
        advice = "This one's gate makes zeros by itself, which are skipped exactly."
    raise UsageError(f"thresholds on the gate ({method}) need a model with SiLU.", advice=advice)


def _gate(op: Op) -> GluKind:
    if isinstance(op, Linear):
        return op.glu
    return op.kind if isinstance(op, Glu) else GluKind.NONE


def _prune_up(op: Linear, threshold: float, factors: str | None) -> Linear:
    gate, up = op.outputs
    pruned = replace(up, live=gate.dst, live_threshold=threshold, live_factors=factors)
    return replace(op, outputs=(gate, pruned))
