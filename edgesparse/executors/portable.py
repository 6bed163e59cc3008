"""`PortableExecutor`: runs a plan on numba kernels; complete, and needs no C compiler.

Ops are bound to their buffers, weights and scratch once; a run is then a loop over bound functions.
The kernels are in ``edgesparse/portable``; they index without checks, so everything that comes with
a step is checked here first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edgesparse.errors import Cancelled, UsageError
from edgesparse.executors.base import Float32, Parameters, Step
from edgesparse.executors.checks import check_step
from edgesparse.plan.op import (
    Add,
    Attention,
    Combine,
    Embed,
    Experts,
    Glu,
    Linear,
    Norm,
    Op,
    RopeKV,
    Route,
)
from edgesparse.plan.plan import Plan
from edgesparse.portable import add, attention, embed, experts, glu, linear, norm, rope_kv
from edgesparse.portable.bind import Bindings, Runner
from edgesparse.portable.pool import Pool
from edgesparse.portable.workspace import Workspace

__all__ = ["PortableExecutor"]

BINDERS: dict[type[Op], Callable[[Any, Bindings], Runner]] = {
    Embed: embed.bind,
    Linear: linear.bind,
    RopeKV: rope_kv.bind,
    Attention: attention.bind,
    Norm: norm.bind,
    Glu: glu.bind,
    Add: add.bind,
    Route: experts.bind_route,
    Experts: experts.bind,
    Combine: experts.bind_combine,
}


class PortableExecutor:
    """Executor of one plan on numba kernels.

    Parameters
    ----------
    plan : Plan
        What to run.
    parameters : Parameters
        Its weights, vectors and tables; kept, not copied.
    threads : int, optional
        Threads to use; by default one per CPU that this process may use.

    Raises
    ------
    UsageError
        `threads` is below 1, or the plan and the parameters do not fit together.
    """

    name = "portable"

    def __init__(self, plan: Plan, parameters: Parameters, *, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}; it must be at least 1.")
        self.plan = plan
        self._lock = threading.Lock()
        self._closed = False
        self._pool = Pool(threads)
        self._buffers = {
            name: np.zeros((plan.max_tokens, width), np.float32) for name, width in plan.buffers
        }
        max_k = max((weight.k for weight in parameters.weights.values()), default=1)
        workspace = Workspace(plan.max_tokens, max_k, self._pool.n_threads)
        bindings = Bindings(plan, self._buffers, parameters, self._pool, workspace)
        self._runners = [BINDERS[type(op)](op, bindings) for op in plan.ops]

    @property
    def threads(self) -> int:
        """Threads in use, the caller's included."""
        return self._pool.n_threads

    def run(self, step: Step, begin: int = 0, end: int | None = None) -> None:
        """Run ops [begin, end) for `step`.

        Raises
        ------
        Cancelled
            The step's cancel flag was set; buffers hold partial results.
        UsageError
            A token, position, sequence, output or op index is out of range, or the executor is
            closed.
        """
        end = len(self.plan.ops) if end is None else end
        with self._lock:
            self._check_open()
            check_step(self.plan, step, begin, end)
            self._check_arrays(step)
            for index in range(begin, end):
                if step.cancel is not None and step.cancel.is_set():
                    raise Cancelled(f"The step was cancelled before op {index}.")
                started = time.perf_counter_ns()
                self._runners[index](step)
                if step.op_ns is not None:
                    step.op_ns[index] += np.uint64(time.perf_counter_ns() - started)

    def buffer(self, name: str, n_tokens: int) -> Float32:
        """Return the first `n_tokens` rows of an activation buffer as an (n_tokens, width) view.

        Raises
        ------
        UsageError
            No such buffer or rows, or the executor is closed.
        """
        self._check_open()
        if name not in self._buffers:
            raise UsageError(f"The plan has no buffer {name!r}; it has {sorted(self._buffers)}.")
        if not 0 <= n_tokens <= self.plan.max_tokens:
            raise UsageError(f"n_tokens is {n_tokens}; it must be 0 to {self.plan.max_tokens}.")
        return self._buffers[name][:n_tokens]

    def close(self) -> None:
        """Release threads and buffers; further calls are errors, closing again is not."""
        with self._lock:
            self._closed = True
            self._runners = []
            self._buffers = {}
            self._pool.close()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("The executor is closed.")

    def _check_arrays(self, step: Step) -> None:
        """Check what kernels take for granted beyond the ranges of the indices."""
        plan = self.plan
        for name in ("tokens", "positions", "sequences", "outputs"):
            array = getattr(step, name)
            if array.dtype != np.int32 or array.ndim != 1 or not array.flags.c_contiguous:
                raise UsageError(f"step.{name} must be a contiguous vector of int32.")
        if np.any(step.outputs[1:] <= step.outputs[:-1]):
            raise UsageError("step.outputs must ascend.")
        if step.logits.dtype != np.float32 or not step.logits.flags.c_contiguous:
            raise UsageError("step.logits must be contiguous float32.")
        if step.op_ns is not None and step.op_ns.shape != (len(plan.ops),):
            raise UsageError(f"step.op_ns must have one entry for each of {len(plan.ops)} ops.")
