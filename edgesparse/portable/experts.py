"""Mixture of experts (numba twins of ``ops/experts.py``).

An expert is a linear op over the tokens that have chosen it: they are gathered, multiplied as any
tokens are, and put where each token has a row for every expert that it uses.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgesparse.executors.base import Step
from edgesparse.plan.op import Combine, Experts, Route
from edgesparse.portable import linear
from edgesparse.portable.bind import Bindings, Float32, Runner, require
from edgesparse.portable.jit import njit
from edgesparse.portable.numerics import ONE, ZERO, exp, fold16

__all__ = ["bind", "bind_combine", "bind_route"]

MOST_ROWS = 2**31 - 1


@njit
def route_tokens(
    dst: Float32, scores: Float32, n_experts: int, normalize: bool, begin: int, end: int
) -> None:
    """Choose the experts of tokens [begin, end)."""
    n_used = dst.shape[1] // 2
    powers = np.empty(n_experts, np.float32)
    is_chosen = np.empty(n_experts, np.bool_)
    lanes = np.empty(16, np.float32)
    for t in range(begin, end):
        largest = scores[t, 0]
        for e in range(1, n_experts):
            largest = max(largest, scores[t, e])
        lanes[:] = ZERO
        for e in range(n_experts):
            powers[e] = exp(scores[t, e] - largest)
            lanes[e % 16] += powers[e]
            is_chosen[e] = False
        total = fold16(lanes)
        for _ in range(n_used):
            best = -1
            for e in range(n_experts):
                if not is_chosen[e] and (best < 0 or scores[t, e] > scores[t, best]):
                    best = e
            is_chosen[best] = True
        if normalize:
            total = ZERO
            for e in range(n_experts):
                if is_chosen[e]:
                    total += powers[e]
        j = 0
        for e in range(n_experts):
            if is_chosen[e]:
                dst[t, j] = np.float32(e)
                dst[t, n_used + j] = powers[e] / total
                j += 1


@njit
def combine_tokens(
    dst: Float32,
    rows: Float32,
    route: Float32,
    shared: Float32,
    gate: Float32,
    begin: int,
    end: int,
) -> None:
    """Add up the experts of tokens [begin, end)."""
    width = dst.shape[1]
    n_used = route.shape[1] // 2
    for t in range(begin, end):
        weight = ONE
        if gate.shape[1] > 0:
            weight = ONE / (ONE + exp(-gate[t, 0]))
        for i in range(width):
            total = ZERO
            for j in range(n_used):
                total += rows[t, j * width + i] * route[t, n_used + j]
            if shared.shape[1] > 0:
                part = shared[t, i]
                if gate.shape[1] > 0:
                    part = weight * part
                total += part
            dst[t, i] += total


def bind_route(op: Route, bindings: Bindings) -> Runner:
    """Return the op as a function of the step."""
    dst, scores = bindings.buffers[op.dst], bindings.buffers[op.src]
    require(1 <= op.n_used <= op.n_experts, op.name, "it uses more experts than there are")
    require(scores.shape[1] >= op.n_experts, op.name, "its scores are too few")
    require(dst.shape[1] == 2 * op.n_used, op.name, "its destination is not twice n_used wide")

    def work(begin: int, end: int, worker: int) -> None:
        route_tokens(dst, scores, op.n_experts, op.normalize, begin, end)

    def run(step: Step) -> None:
        bindings.pool.run(work, len(step.tokens))

    return run


def bind_combine(op: Combine, bindings: Bindings) -> Runner:
    """Return the op as a function of the step."""
    none = np.empty((0, 0), np.float32)
    buffers = bindings.buffers
    dst, rows, route = buffers[op.dst], buffers[op.src], buffers[op.route]
    shared = none if op.shared is None else buffers[op.shared]
    gate = none if op.gate is None else buffers[op.gate]
    require(rows.shape[1] == op.n_used * dst.shape[1], op.name, "its source has other rows")
    require(route.shape[1] == 2 * op.n_used, op.name, "it uses another number of experts")
    fits = op.shared is None or shared.shape[1] >= dst.shape[1]
    require(fits, op.name, "the shared expert's output is narrower")

    def work(begin: int, end: int, worker: int) -> None:
        combine_tokens(dst, rows, route, shared, gate, begin, end)

    def run(step: Step) -> None:
        bindings.pool.run(work, len(step.tokens))

    return run


def bind(op: Experts, bindings: Bindings) -> Runner:
    """Return the op as a function of the step."""
    n_used, weights = op.n_used, bindings.parameters.weights
    route = bindings.buffers[op.route]
    require(route.shape[1] == 2 * n_used, op.name, "it uses another number of experts")
    require(bindings.plan.max_tokens * n_used <= MOST_ROWS, op.name, "it has too many rows")
    k = weights[op.outputs[0].weight].k
    buffers = dict(bindings.buffers)
    for name in (op.src, op.src2) if op.per_slot else ():
        if name is not None:
            fits = buffers[name].shape[1] == n_used * k
            require(fits, op.name, f"{name} has not {n_used} rows of {k}")
            buffers[name] = buffers[name].reshape(-1, k)
    scatter: list[tuple[Float32, Float32]] = []
    for index, out in enumerate(op.outputs):
        n_rows = weights[out.weight].n_rows
        same = all(
            weights[outputs[index].weight].n_rows == n_rows and outputs[index].dst == out.dst
            for outputs in op.experts
        )
        require(same, op.name, "its experts differ in shape")
        dst = buffers[out.dst]
        require(dst.shape[1] == n_used * n_rows, op.name, f"{out.dst} has not {n_used} rows")
        gathered = bindings.workspace.gathered(index, n_rows)
        buffers[out.dst] = gathered
        scatter.append((dst.reshape(-1, n_rows), gathered))
    gathering = replace(bindings, buffers=buffers)
    runners: dict[int, Runner] = {}

    def runner(number: int) -> Runner:
        """Bind an expert when it is first used: there may be thousands."""
        if number not in runners:
            runners[number] = linear.bind(replace(op.expert(number), outputs_only=True), gathering)
        return runners[number]

    def run(step: Step) -> None:
        chosen = route[: len(step.tokens), :n_used].astype(np.int32).reshape(-1)
        for number in np.unique(chosen):
            rows = np.flatnonzero(chosen == number).astype(np.int32)
            sources = rows if op.per_slot else rows // np.int32(n_used)
            runner(int(number))(replace(step, outputs=sources))
            for dst, gathered in scatter:
                dst[rows] = gathered[: len(rows)]

    return run
