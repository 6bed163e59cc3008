"""Splits linear ops whose matrices are stored with their columns in different orders.

An op gathers its input once, before it is quantised. Matrices that share an order, as the q, k and
v of a file quantised with act-order mostly do, stay in one op.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgesparse.formats.weight import Weight
from edgesparse.plan.op import Linear, Op, Output
from edgesparse.plan.plan import Plan

__all__ = ["split_by_order"]


def split_by_order(plan: Plan, weights: Mapping[str, Weight]) -> Plan:
    """Return the plan with one linear op for every order of columns.

    Results keep their bits: each op prepares the same input. Outputs follow one another as before,
    so that what waits for a gate finds it.
    """
    ops: list[Op] = []
    for op in plan.ops:
        runs = _runs(op, weights) if isinstance(op, Linear) else []
        if len(runs) < 2 or not isinstance(op, Linear):
            ops.append(op)
            continue
        for i, outputs in enumerate(runs):
            name = op.name if i == 0 else f"{op.name}.{i}"
            ops.append(replace(op, name=name, outputs=tuple(outputs)))
    return plan if len(ops) == len(plan.ops) else replace(plan, ops=tuple(ops))


def _runs(op: Linear, weights: Mapping[str, Weight]) -> list[list[Output]]:
    """Group the outputs by the orders of their matrices; those that wait for others come last."""
    runs: dict[tuple[int, bool], list[Output]] = {}
    for out in op.outputs:
        key = (id(weights[out.weight].order), out.live is not None)
        runs.setdefault(key, []).append(out)
    if len({order for order, _ in runs}) == 1:
        return [list(op.outputs)]
    return [runs[key] for key in sorted(runs, key=lambda key: key[1])]
