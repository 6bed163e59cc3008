"""The table of ``edgesparse plan``: ops, phases, bytes and the roofline."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgesparse.plan.cost import OpCost
from edgesparse.plan.op import Experts, Linear
from edgesparse.plan.plan import Plan

__all__ = ["plan_rows", "plan_summary", "plan_table"]

_LAYER = re.compile(r"^blk\.(\d+)\.")


def plan_rows(costs: Sequence[OpCost], bandwidth: float | None) -> list[dict[str, object]]:
    """One dict per op; `bandwidth` in GB/s gives the time at best, in microseconds."""
    rows: list[dict[str, object]] = []
    for cost in costs:
        row: dict[str, object] = {
            "op": cost.op.name,
            "kind": type(cost.op).__name__.lower(),
            "formats": list(cost.formats),
            "bytes": cost.n_bytes,
            "multiply_adds": cost.multiply_adds,
        }
        if isinstance(cost.op, (Linear, Experts)):
            row["prologue"] = [
                word
                for word in (
                    cost.op.glu.name.lower(),
                    "norm" if cost.op.norm else "",
                    "threshold" if isinstance(cost.op, Linear) and cost.op.threshold else "",
                )
                if word not in ("", "none")
            ]
        if bandwidth:
            row["least_us"] = round(cost.n_bytes / bandwidth / 1e3, 3)
        rows.append(row)
    return rows


def plan_summary(
    plan: Plan, costs: Sequence[OpCost], position: int, bandwidth: float | None
) -> dict[str, object]:
    """Totals: phases between barriers, bytes per token, and the ceiling they set."""
    n_bytes = sum(cost.n_bytes for cost in costs)
    in_layers = sum(1 for op in plan.ops if _LAYER.match(op.name))
    summary: dict[str, object] = {
        "architecture": plan.architecture,
        "ops": len(plan.ops),
        "barriers": plan.n_phases,
        "phases_per_layer": in_layers / plan.n_layers,
        "position": position,
        "bytes_per_token": n_bytes,
        "multiply_adds": sum(cost.multiply_adds for cost in costs),
        "activation_bytes_per_token": 4 * sum(width for _, width in plan.buffers),
        "cache_type_k": plan.cache_type_k.name.lower(),
        "cache_type_v": plan.cache_type_v.name.lower(),
        **({} if plan.sparse_rows is None else {"kv_sparsity": plan.sparse_rows.sparsity}),
        "cache_bytes_per_position": plan.n_layers * plan.kv_bytes,
        "cache_bytes_at_most": plan.cache_bytes(plan.n_ctx),
    }
    if bandwidth:
        summary["read_bandwidth_gb_per_s"] = round(bandwidth, 2)
        summary["ceiling_tokens_per_s"] = round(bandwidth * 1e9 / n_bytes, 1)
    return summary


def plan_table(
    plan: Plan,
    costs: Sequence[OpCost],
    position: int,
    bandwidth: float | None,
    *,
    all_layers: bool = False,
) -> str:
    """Format the plan for a terminal; equal layers are shown once unless `all_layers`."""
    lines = [f"{'op':<22}{'kind':<11}{'formats':<10}{'prologue':<12}{'bytes':>12}{'least µs':>10}"]
    hidden = set() if all_layers else _like_the_first(plan)
    for row in plan_rows(costs, bandwidth):
        layer = _LAYER.match(str(row["op"]))
        if layer and int(layer[1]) in hidden:
            continue
        formats, prologue = row["formats"], row.get("prologue", [])
        least = row.get("least_us", "")
        lines.append(
            f"{row['op']!s:<22}{row['kind']!s:<11}{_join(formats):<10}{_join(prologue):<12}"
            f"{row['bytes']:>12,}{least!s:>10}"
        )
    if len(hidden) == plan.n_layers - 1 > 0:
        lines.append(f"(layers 1 to {plan.n_layers - 1} are like layer 0; --all shows them)")
    elif hidden:
        lines.append(f"({len(hidden)} more layers are like layer 0; --all shows them)")
    summary = plan_summary(plan, costs, position, bandwidth)
    lines.append("")
    lines += [f"{key.replace('_', ' '):<28}{_number(value)}" for key, value in summary.items()]
    return "\n".join(lines)


def _like_the_first(plan: Plan) -> set[int]:
    """Return the layers that consist of the same ops as the first."""
    ops: dict[int, list[str]] = {}
    for op in plan.ops:
        match = _LAYER.match(op.name)
        if match:
            ops.setdefault(int(match[1]), []).append(op.name[match.end() :])
    return {layer for layer, names in ops.items() if layer > 0 and names == ops.get(0)}


def _join(words: object) -> str:
    return "+".join(str(word) for word in words) if isinstance(words, list) else ""


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)
