"""Lockstep: two executors run the same ops on the same inputs, compared bit by bit after each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgesparse.executors.base import Executor, KVCache, Step
from edgesparse.plan.op import LOGITS, Experts, Linear, Op, RopeKV
from edgesparse.plan.plan import Plan

__all__ = ["Difference", "Report", "lockstep"]


@dataclass(frozen=True)
class Difference:
    """The first place where two executors disagree.

    Attributes
    ----------
    op : str
        Name of the op.
    index : int
        Its place in the plan.
    where : str
        Buffer, ``logits`` or ``cache``.
    token, element : int
        First differing element.
    left, right : float
        What each executor computed.
    n_different : int
        Elements that differ in this op's result.
    """

    op: str
    index: int
    where: str
    token: int
    element: int
    left: float
    right: float
    n_different: int


@dataclass(frozen=True)
class Report:
    """Outcome of a lockstep run: how much was compared, and the first difference if any."""

    n_ops: int
    n_values: int
    difference: Difference | None


def lockstep(left: Executor, right: Executor, tokens: Sequence[int], *, chunk: int) -> Report:
    """Run `tokens` through both executors in steps of `chunk`, all logits wanted.

    Parameters
    ----------
    left, right : Executor
        Executors of the same plan.
    tokens : sequence of int
    chunk : int
        Tokens per step, at most the plan's max_tokens.

    Returns
    -------
    Report
        Stops at the first op whose results are not the same bits.
    """
    plan = left.plan
    caches = [KVCache(plan, len(tokens)) for _ in range(2)]
    n_ops = n_values = 0
    for first in range(0, len(tokens), chunk):
        ids = np.asarray(tokens[first : first + chunk], np.int32)
        steps = [_step(plan, ids, first, cache) for cache in caches]
        for index, op in enumerate(plan.ops):
            for executor, step in zip((left, right), steps, strict=True):
                executor.run(step, index, index + 1)
            n_ops += 1
            for where in _results(op):
                a = _result(left, where, steps[0], op, first, len(ids))
                b = _result(right, where, steps[1], op, first, len(ids))
                n_values += a.size
                found = _compare(a, b, op, index, where)
                if found is not None:
                    return Report(n_ops, n_values, found)
    return Report(n_ops, n_values, None)


def _step(plan: Plan, ids: npt.NDArray[np.int32], first: int, cache: KVCache) -> Step:
    n = len(ids)
    return Step(
        tokens=ids,
        positions=np.arange(first, first + n, dtype=np.int32),
        sequences=np.zeros(n, np.int32),
        outputs=np.arange(n, dtype=np.int32),
        caches=[cache],
        logits=np.zeros((n, plan.n_vocab), np.float32),
        sparse_from=plan.dense_tokens,
    )


def _results(op: Op) -> tuple[str, ...]:
    """Name what an op writes."""
    if isinstance(op, (Linear, Experts)):
        return tuple(out.dst for out in op.outputs)
    if isinstance(op, RopeKV):
        return (op.q, op.k, "cache")
    return (op.dst,)


def _result(
    executor: Executor, where: str, step: Step, op: Op, first: int, n_tokens: int
) -> npt.NDArray[np.float32]:
    if where == LOGITS:
        return step.logits
    if where == "cache" and isinstance(op, RopeKV):
        cache = step.caches[0]
        planes = [
            rows.kind.widen(rows.read(op.layer, first, first + n_tokens), op.head_dim)
            for rows in (cache.keys, cache.values)
        ]
        return np.stack(planes).transpose(2, 0, 1, 3).reshape(n_tokens, -1)
    return executor.buffer(where, n_tokens)


def _compare(
    a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], op: Op, index: int, where: str
) -> Difference | None:
    same = np.ascontiguousarray(a).view(np.uint32) == np.ascontiguousarray(b).view(np.uint32)
    if same.all():
        return None
    token, element = (int(i) for i in np.argwhere(~same)[0])
    return Difference(
        op=op.name,
        index=index,
        where=where,
        token=token,
        element=element,
        left=float(a[token, element]),
        right=float(b[token, element]),
        n_different=int((~same).sum()),
    )
