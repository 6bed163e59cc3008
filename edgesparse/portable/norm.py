"""RMSNorm: y = (x r) w with r = 1 / sqrt(mean(x²) + eps) (numba twin of ``ops/norm.py``)."""

from __future__ import annotations

import numpy as np

from edgesparse.executors.base import Step
from edgesparse.plan.op import Norm
from edgesparse.portable.bind import Bindings, Float32, Runner, require
from edgesparse.portable.jit import njit
from edgesparse.portable.numerics import ONE, dot16

__all__ = ["bind", "norm_row"]


@njit
def norm_row(y: Float32, x: Float32, w: Float32, eps: np.float32, lanes: Float32) -> None:
    """Normalise one vector; y may be x. `lanes` is scratch for 16 floats."""
    n = x.shape[0]
    mean = np.float32(dot16(x, x, lanes) / np.float32(n))
    r = np.float32(ONE / np.sqrt(np.float32(mean + eps)))
    for i in range(n):
        y[i] = (x[i] * r) * w[i]


@njit
def norm_tokens(
    dst: Float32, src: Float32, w: Float32, eps: np.float32, begin: int, end: int
) -> None:
    """Normalise rows [begin, end)."""
    lanes = np.empty(16, np.float32)
    for t in range(begin, end):
        norm_row(dst[t], src[t], w, eps, lanes)


def bind(op: Norm, bindings: Bindings) -> Runner:
    """Return the op as a function of the step."""
    dst, src = bindings.buffers[op.dst], bindings.buffers[op.src]
    weight, eps = bindings.parameters.vectors[op.weight], np.float32(op.eps)
    require(
        dst.shape[1] == src.shape[1] == weight.size, op.name, "src, dst and weight differ in width"
    )

    def work(begin: int, end: int, worker: int) -> None:
        norm_tokens(dst, src, weight, eps, begin, end)

    def run(step: Step) -> None:
        bindings.pool.run(work, len(step.tokens))

    return run
