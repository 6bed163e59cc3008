"""What a loaded model gives up, in words: the quality that stands beside every speed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgesparse.formats.weight import Weight
from edgesparse.plan.cache_type import CacheType
from edgesparse.plan.op import Linear
from edgesparse.plan.plan import Plan
from edgesparse.plan.sparse_rows import GROUP

if TYPE_CHECKING:
    from edgesparse.sparsity.thresholds import Thresholds

__all__ = ["EXACT", "describe_candidates", "describe_head", "describe_quality", "without_advice"]

EXACT = "exact, no approximation is on"
_ADVICE = "; 'edgesparse perplexity' says "


def describe_quality(
    weights: Iterable[Weight],
    head: str,
    plan: Plan,
    thresholds: Thresholds | None = None,
    *,
    lossy: bool = False,
) -> str:
    """Say what was rounded to what, weights and cache, or that nothing is approximated.

    Parameters
    ----------
    weights : iterable of Weight
        All that the model uses.
    head : str
        Name of the one that makes the logits, which is named on its own.
    plan : Plan
        For the types of the cache.
    thresholds : Thresholds, optional
        By which small activations are ignored.
    lossy : bool
        Whether products with bit slices look up in rounded tables.
    """
    groups: dict[str, int] = {}
    n_looked_up = 0
    for weight in weights:
        n_looked_up += weight.slices is not None and not weight.format.is_column
        if weight.is_rounded:
            kind = "head" if weight.name == head else "others"
            key = f"{kind} {weight.source} rounded to {weight.format.name.lower()}"
            groups[key] = groups.get(key, 0) + 1
    parts = [
        key if key.startswith("head") else f"{count} {key.removeprefix('others ')}"
        for key, count in groups.items()
    ]
    types = (plan.cache_type_k, plan.cache_type_v)
    if any(kind is not CacheType.F16 for kind in types):
        parts.append(f"keys and values as {' and '.join(kind.name.lower() for kind in types)}")
    if plan.sparse_rows is not None:
        rows = plan.sparse_rows
        parts.append(
            f"{1 - rows.n_kept / rows.head_dim:.0%} of keys and values dropped beyond the latest "
            f"{rows.window} to {rows.window + GROUP - 1} positions"
        )
    if thresholds is not None:
        parts.append(
            f"{100 * thresholds.sparsity:.3g}% of activations ignored by {thresholds.method} "
            f"thresholds in generated tokens from position {thresholds.dense_tokens} on"
        )
    if lossy and n_looked_up:
        parts.append(f"{n_looked_up} products looked up in rounded tables")
    predicted = sum(
        1 for op in plan.ops if isinstance(op, Linear) and any(out.signs for out in op.outputs)
    )
    if predicted:
        parts.append(f"dead gates of {predicted} layers predicted from signs")
    if not parts:
        return EXACT
    return f"lossy: {', '.join(parts)}{_ADVICE}what that costs"


def without_advice(quality: str) -> str:
    """Take away where to find the price, for where it stands."""
    return quality.partition(_ADVICE)[0]


def describe_candidates(quality: str) -> str:
    """Add to what `describe_quality` says that a two-stage head proposes the candidates."""
    candidates = "greedy and top-k sampling choose among candidates of a two-bit head"
    if quality == EXACT:
        return f"lossy: {candidates}{_ADVICE}how often they miss"
    return quality.replace("lossy: ", f"lossy: {candidates}, ", 1)


def describe_head(weight: Weight, *, tied: bool, choice: str) -> str:
    """Say how the matrix that makes the logits is stored, and at whose wish.

    Parameters
    ----------
    weight : Weight
        The head.
    tied : bool
        Whether it is the embedding, too.
    choice : str
        The wish that led to it: one of `edgesparse.choices.HEADS`.
    """
    name = f"{weight.name}{', also the embedding' if tied else ''}"
    stored = f"{weight.format.name.lower()}, {weight.n_bytes / 1e6:.1f} MB"
    if not weight.is_rounded:
        return f"{name}: {stored}, as in the file ({weight.source})"
    return f"{name}: {stored}, {weight.source} rounded (--head {choice})"
