"""Gated activations, relu(g)² u to gelu(g) u (numba twin of ``ops/glu.py``)."""

from __future__ import annotations

import numpy as np

from edgesparse.executors.base import Step
from edgesparse.plan.op import Glu, GluKind
from edgesparse.portable.bind import Bindings, Float32, Runner, require
from edgesparse.portable.jit import njit
from edgesparse.portable.numerics import ONE, ZERO, exp

__all__ = ["bind", "glu_row"]

SILU = int(GluKind.SILU)
GELU = int(GluKind.GELU)
GELU_CUBE = np.float32(0.044715)
GELU_SLOPE = np.float32(1.59576912)
RELU = int(GluKind.RELU)


@njit
def glu_row(y: Float32, gate: Float32, up: Float32, kind: int) -> None:
    """Gate one vector; y may be gate or up."""
    if kind == SILU:
        for i in range(gate.shape[0]):
            g = gate[i]
            y[i] = (g / (ONE + exp(-g))) * up[i]
    elif kind == GELU:
        for i in range(gate.shape[0]):
            g = gate[i]
            t = ((g * g) * GELU_CUBE + ONE) * (g * GELU_SLOPE)
            y[i] = (g / (ONE + exp(-t))) * up[i]
    elif kind == RELU:
        for i in range(gate.shape[0]):
            y[i] = (gate[i] if gate[i] > ZERO else ZERO) * up[i]
    else:
        for i in range(gate.shape[0]):
            m = gate[i] if gate[i] > ZERO else ZERO
            y[i] = (m * m) * up[i]


@njit
def glu_tokens(dst: Float32, gate: Float32, up: Float32, kind: int, begin: int, end: int) -> None:
    """Gate rows [begin, end)."""
    for t in range(begin, end):
        glu_row(dst[t], gate[t], up[t], kind)


def bind(op: Glu, bindings: Bindings) -> Runner:
    """Return the op as a function of the step."""
    buffers, kind = bindings.buffers, int(op.kind)
    dst, gate, up = buffers[op.dst], buffers[op.gate], buffers[op.up]
    require(op.kind != GluKind.NONE, op.name, "it names no gate")
    require(
        dst.shape[1] == gate.shape[1] == up.shape[1], op.name, "gate, up and dst differ in width"
    )

    def work(begin: int, end: int, worker: int) -> None:
        glu_tokens(dst, gate, up, kind, begin, end)

    def run(step: Step) -> None:
        bindings.pool.run(work, len(step.tokens))

    return run
