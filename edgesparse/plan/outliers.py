"""Puts side matrices of outliers into a plan: beside the matrices of its linear ops."""

from __future__ import annotations

from collections.abc import Collection, Container
from dataclasses import replace

from edgesparse.checkpoint.outliers import OUTLIERS, outliers_name
from edgesparse.checkpoint.source import shown
from edgesparse.errors import ModelFormatError
from edgesparse.plan.op import Embed, Linear, Output
from edgesparse.plan.plan import Plan

__all__ = ["has_outliers", "with_outliers"]


def with_outliers(plan: Plan, tensors: Collection[str], path: str = "") -> Plan:
    """Return the plan with the side matrices among `tensors`; the same one if there are none.

    Raises
    ------
    ModelFormatError
        ``layout``: a side matrix of experts, of an embedding or of an unknown matrix.
    """
    _refuse_others(plan, tensors, path)
    ops = tuple(
        replace(op, outputs=tuple(_with_side(output, tensors) for output in op.outputs))
        if isinstance(op, Linear)
        else op
        for op in plan.ops
    )
    return plan if ops == plan.ops else replace(plan, ops=ops)


def _with_side(output: Output, tensors: Container[str]) -> Output:
    name = outliers_name(output.weight)
    return replace(output, side=name) if name in tensors else output


def _refuse_others(plan: Plan, tensors: Collection[str], path: str) -> None:
    """Refuse side matrices that no linear op would add: their model would be another one."""
    linears = (op for op in plan.ops if isinstance(op, Linear))
    added = {outliers_name(output.weight) for op in linears for output in op.outputs}
    added -= {outliers_name(op.weight) for op in plan.ops if isinstance(op, Embed)}
    others = sorted(name for name in tensors if name.endswith(OUTLIERS) and name not in added)
    if others:
        raise ModelFormatError(
            "layout",
            shown(others[0]),
            "outliers of experts, of an embedding or of an unknown matrix, which nothing would add"
            + (f" ({len(others)} such tensors)" if len(others) > 1 else ""),
            path=path,
            advice="Quantise the model without --outliers.",
        )


def has_outliers(plan: Plan) -> bool:
    """Tell whether a plan has side matrices."""
    linears = (op for op in plan.ops if isinstance(op, Linear))
    return any(output.side is not None for op in linears for output in op.outputs)
