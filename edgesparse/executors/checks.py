"""Checks of a step that every Python executor makes before it touches memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.errors import UsageError
from edgesparse.executors.base import KVCache, Step
from edgesparse.plan.plan import Plan
from edgesparse.plan.sparse_rows import SparseRows

__all__ = ["check_step"]


def check_step(plan: Plan, step: Step, begin: int, end: int) -> None:
    """Raise `UsageError` when an index of `step` or the op range is out of bounds."""
    n = len(step.tokens)
    if not 0 <= begin <= end <= len(plan.ops):
        raise UsageError(f"Ops [{begin}, {end}) are not within the plan's {len(plan.ops)}.")
    if not 1 <= n <= plan.max_tokens:
        raise UsageError(f"A step holds 1 to {plan.max_tokens} tokens, not {n}.")
    if len(step.positions) != n or len(step.sequences) != n:
        raise UsageError("A step's tokens, positions and sequences differ in length.")
    _check_range("token", step.tokens, plan.n_vocab)
    _check_range("sequence", step.sequences, len(step.caches))
    _check_range("output", step.outputs, n)
    for index, cache in enumerate(step.caches):
        limit = min(plan.n_ctx, cache.capacity)
        _check_cache(plan, cache)
        positions = step.positions[step.sequences == index]
        _check_range("position", positions, limit)
        if plan.sparse_rows is not None:
            _check_span(plan.sparse_rows, positions)
    if step.logits.shape != (len(step.outputs), plan.n_vocab):
        raise UsageError(
            f"Logits must have shape {(len(step.outputs), plan.n_vocab)}, not {step.logits.shape}."
        )


def _check_cache(plan: Plan, cache: KVCache) -> None:
    if not cache.fits(plan):
        rows_of = (cache.keys, cache.values)
        held = [f"{len(rows.data)} bytes of {rows.kind.name.lower()}" for rows in rows_of]
        types = (plan.cache_type_k, plan.cache_type_v)
        kinds = [(plan.sparse_rows or kind).name.lower() for kind in types]
        raise UsageError(
            f"A cache holds {' and '.join(held)} for {cache.capacity} positions; this plan needs "
            f"{' and '.join(kinds)}, {plan.n_layers * plan.kv_bytes} bytes per position.",
            advice="Make it with the engine's new_cache.",
        )


def _check_span(rows: SparseRows, positions: npt.NDArray[np.int32]) -> None:
    """Refuse tokens so far apart that one's row would replace what another reads."""
    if not len(positions):
        return
    low, high = int(positions.min()), int(positions.max())
    if high - rows.n_sparse(low) >= rows.n_recent:
        raise UsageError(
            f"Positions {low} and {high} of one sequence are too far apart for a step: "
            f"{rows.n_recent} rows of a pruned cache are held whole."
        )


def _check_range(what: str, values: npt.NDArray[np.int32], limit: int) -> None:
    bad = values[(values < 0) | (values >= limit)]
    if bad.size:
        raise UsageError(f"A step's {what} {int(bad[0])} is not in [0, {limit}).")
