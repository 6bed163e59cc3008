"""dst += src (numba twin of ``ops/add.py``)."""

from __future__ import annotations

from edgesparse.executors.base import Step
from edgesparse.plan.op import Add
from edgesparse.portable.bind import Bindings, Float32, Runner, require
from edgesparse.portable.jit import njit

__all__ = ["bind"]


@njit
def add_tokens(dst: Float32, src: Float32, begin: int, end: int) -> None:
    """Add rows [begin, end)."""
    for t in range(begin, end):
        for i in range(src.shape[1]):
            dst[t, i] += src[t, i]


def bind(op: Add, bindings: Bindings) -> Runner:
    """Return the op as a function of the step."""
    dst, src = bindings.buffers[op.dst], bindings.buffers[op.src]
    require(dst.shape[1] == src.shape[1], op.name, "src and dst differ in width")

    def work(begin: int, end: int, worker: int) -> None:
        add_tokens(dst, src, begin, end)

    def run(step: Step) -> None:
        bindings.pool.run(work, len(step.tokens))

    return run
