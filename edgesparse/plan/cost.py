"""What a plan costs: the bytes that one token must move, and the time that takes at best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgesparse.executors.base import Parameters
from edgesparse.formats.weight import Weight, storage_codes
from edgesparse.plan.op import Attention, Embed, Experts, Linear, Op, RopeKV, linears_of
from edgesparse.plan.plan import Plan

__all__ = ["OpCost", "bytes_per_token", "op_bytes", "plan_costs"]


@dataclass(frozen=True)
class OpCost:
    """One op's share.

    Attributes
    ----------
    op : Op
    n_bytes : int
        Weight and cache bytes that decoding one token moves.
    multiply_adds : int
        Multiplications with weights or cache entries for one token.
    formats : tuple of str
        Storage formats of its weights.
    """

    op: Op
    n_bytes: int
    multiply_adds: int
    formats: tuple[str, ...]


def op_bytes(op: Op, parameters: Parameters, plan: Plan, position: int) -> int:
    """Bytes of weights and cache that `op` moves to decode the token at `position`.

    Activations are left out: they stay in the cache of the core. Where a calibration's thresholds
    make inputs zero, the columns that it expects to be live count; of experts, as many as a token
    uses.
    """
    weights = parameters.weights
    match op:
        case Embed():
            weight = weights[op.weight]
            return weight.n_bytes // weight.n_rows
        case Linear():
            signs = (parameters.signs[out.signs].n_bytes for out in op.outputs if out.signs)
            sides = (weights[out.side].n_bytes for out in op.outputs if out.side)
            bases = (_bytes_read(weights[out.weight], op.dead_share) for out in op.outputs)
            return sum(bases) + sum(signs) + sum(sides)
        case Experts():
            everything = sum(op_bytes(one, parameters, plan, position) for one in linears_of(op))
            return everything * op.n_used // len(op.experts)
        case RopeKV():
            return plan.kv_bytes
        case Attention():
            first = max(0, position + 1 - op.window) if op.window else 0
            return plan.attention_bytes(first, position + 1)
        case _:
            return 0


def _bytes_read(weight: Weight, dead_share: float) -> int:
    """Bytes of a matrix that one token reads when so many inputs are zero."""
    if not weight.format.is_column:
        return weight.n_bytes
    codes = storage_codes(weight.format, weight.n_rows, weight.k)
    return weight.n_bytes - round(codes * dead_share)


def _multiply_adds(op: Op, parameters: Parameters, position: int) -> int:
    if isinstance(op, (Linear, Experts)):
        weights = [parameters.weights[out.weight] for out in op.outputs]
        n_used = op.n_used if isinstance(op, Experts) else 1
        return n_used * sum(w.n_rows * w.k for w in weights)
    if isinstance(op, Attention):
        return 2 * op.n_heads * op.head_dim * (position + 1)
    return 0


def plan_costs(plan: Plan, parameters: Parameters, position: int) -> list[OpCost]:
    """Cost every op for decoding the token at `position`."""
    costs = []
    for op in plan.ops:
        names = [out.weight for one in linears_of(op) for out in one.outputs]
        formats = dict.fromkeys(parameters.weights[n].format.name.lower() for n in names)
        if isinstance(op, Linear) and any(out.signs for out in op.outputs):
            formats["signs"] = None
        if isinstance(op, Linear) and any(out.side for out in op.outputs):
            formats["coo"] = None
        costs.append(
            OpCost(
                op,
                op_bytes(op, parameters, plan, position),
                _multiply_adds(op, parameters, position),
                tuple(formats),
            )
        )
    return costs


def bytes_per_token(
    plan: Plan, parameters: Parameters, position: int, read: Sequence[float] | None = None
) -> int:
    """Bytes that decoding the token at `position` must move through the memory bus.

    Parameters
    ----------
    plan, parameters, position
        As for `op_bytes`.
    read : sequence of float, optional
        Bytes that each linear op has been seen to read per token (`Step.op_bytes`), where dead
        neurons are skipped and experts chosen; without it every neuron counts.
    """
    total = 0.0
    for i, op in enumerate(plan.ops):
        if read is not None and isinstance(op, (Linear, Experts)):
            total += read[i]
        else:
            total += op_bytes(op, parameters, plan, position)
    return round(total)
