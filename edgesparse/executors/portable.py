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
from edgesparse.plan.op import Add, Attention, Embed, Glu, Linear, Norm, Op, RopeKV
from edgesparse.plan.plan import Plan
from edgesparse.portable import add, attention, embed, glu, linear, norm, rope_kv
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
        bindings = Bindings(self._buffers, parameters, self._pool, workspace)
        self._n_embeddings = min(
            (parameters.weights[op.weight].n_rows for op in plan.ops if isinstance(op, Embed)),
            default=plan.n_vocab,
        )
        self._n_positions = min(
            (len(parameters.tables[op.table]) for op in plan.ops if isinstance(op, RopeKV)),
            default=plan.n_ctx,
        )
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
        n_ops = len(self._runners)
        end = n_ops if end is None else end
        if not 0 <= begin <= end <= n_ops:
            raise UsageError(f"ops [{begin}, {end}) are not within the plan's {n_ops}.")
        with self._lock:
            self._check_open()
            self._check_step(step)
            for index in range(begin, end):
                if step.cancel is not None and step.cancel.is_set():
                    raise Cancelled(f"The step was cancelled before op {index} of {n_ops}.")
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

    def _check_step(self, step: Step) -> None:
        """Check every index and shape of a step."""
        plan = self.plan
        n_tokens, n_outputs = len(step.tokens), len(step.outputs)
        if not 1 <= n_tokens <= plan.max_tokens:
            raise UsageError(f"A step has {n_tokens} tokens; it must have 1 to {plan.max_tokens}.")
        for name in ("tokens", "positions", "sequences", "outputs"):
            array = getattr(step, name)
            n = n_outputs if name == "outputs" else n_tokens
            if array.dtype != np.int32 or array.shape != (n,) or not array.flags.c_contiguous:
                raise UsageError(f"step.{name} must be a contiguous int32 array of {n}.")
        _check_range("token", step.tokens, self._n_embeddings)
        _check_range("position", step.positions, min(plan.n_ctx, self._n_positions))
        _check_range("sequence", step.sequences, len(step.caches))
        _check_range("output", step.outputs, n_tokens)
        if np.any(step.outputs[1:] <= step.outputs[:-1]):
            raise UsageError("step.outputs must ascend.")
        for cache in step.caches:
            shape = (plan.n_layers, 2, plan.n_kv_heads, cache.capacity, plan.head_dim)
            if cache.data.shape != shape or cache.data.dtype != np.float16:
                raise UsageError(f"A cache holds {cache.data.shape}, not float16 {shape}.")
        capacities = np.array([cache.capacity for cache in step.caches])[step.sequences]
        if np.any(step.positions >= capacities):
            raise UsageError(f"Position {step.positions.max()} does not fit its cache.")
        wanted, logits = (n_outputs, plan.n_vocab), step.logits
        if logits.dtype != np.float32 or logits.shape != wanted or not logits.flags.c_contiguous:
            raise UsageError(f"step.logits must be a contiguous float32 array of shape {wanted}.")
        if step.op_ns is not None and step.op_ns.shape != (len(self._runners),):
            raise UsageError(f"step.op_ns must have one entry for each of {len(plan.ops)} ops.")


def _check_range(what: str, values: np.ndarray[Any, np.dtype[np.int32]], limit: int) -> None:
    """Refuse an index below 0 or from `limit` on."""
    bad = values[(values < 0) | (values >= limit)]
    if len(bad):
        raise UsageError(f"{what} {bad[0]} is out of range: there are {limit}.")
