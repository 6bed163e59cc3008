"""Puts side matrices of outliers into a plan: one more linear op, adding to the same buffers."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from dataclasses import replace

from edgesparse.checkpoint.outliers import OUTLIERS, outliers_name
from edgesparse.checkpoint.source import shown
from edgesparse.errors import ModelFormatError
from edgesparse.plan.op import Embed, Linear, Op, Output
from edgesparse.plan.plan import Plan

__all__ = ["has_outliers", "with_outliers"]

_SUFFIX = ".outliers"


def with_outliers(plan: Plan, tensors: Collection[str], path: str = "") -> Plan:
    """Return the plan with the side matrices among `tensors`; the same one if there are none.

    The op of a side matrix follows that of its base and has the same input. Bias and gate stay with
    the base: a dead output is multiplied with 0 whatever is added to it. Outputs that wait for a
    gate become an op of their own, behind what is added to the gate.

    Raises
    ------
    ModelFormatError
        ``layout``: a side matrix of experts, of an embedding or of an unknown matrix.
    """
    _refuse_others(plan, tensors, path)
    ops: list[Op] = []
    for op in plan.ops:
        if not isinstance(op, Linear) or not _sides(op.outputs, tensors):
            ops.append(op)
            continue
        free = tuple(output for output in op.outputs if output.live is None)
        waiting = tuple(output for output in op.outputs if output.live is not None)
        for name, outputs in ((op.name, free), (f"{op.name}.live" if free else op.name, waiting)):
            if outputs:
                ops.append(replace(op, name=name, outputs=outputs))
            if sides := _sides(outputs, tensors):
                ops.append(replace(op, name=name + _SUFFIX, outputs=sides, skip_zeros=False))
    return plan if len(ops) == len(plan.ops) else replace(plan, ops=tuple(ops))


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


def _sides(outputs: Sequence[Output], tensors: Container[str]) -> tuple[Output, ...]:
    """Give the outputs of side matrices that stand beside those of `outputs`."""
    names = ((outliers_name(output.weight), output) for output in outputs)
    return tuple(
        Output(name, output.dst, add=True)
        for name, output in names
        if name != output.weight and name in tensors
    )


def has_outliers(plan: Plan) -> bool:
    """Tell whether a plan has side matrices."""
    return any(op.name.endswith(_SUFFIX) for op in plan.ops)
