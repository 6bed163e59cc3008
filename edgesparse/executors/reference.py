"""The reference executor: the numpy truth of every op, one after the other. Slow and plain."""

from __future__ import annotations

import threading
import time

import numpy as np
import numpy.typing as npt

from edgesparse.errors import Cancelled, UsageError
from edgesparse.executors.base import Parameters, Step
from edgesparse.executors.checks import check_step
from edgesparse.formats.weight import TILE
from edgesparse.ops.add import add
from edgesparse.ops.attention import attention
from edgesparse.ops.embed import embed
from edgesparse.ops.glu import glu
from edgesparse.ops.linear import drop_small, live_outputs, product
from edgesparse.ops.norm import rmsnorm
from edgesparse.ops.predict import predicted_dead
from edgesparse.ops.rope_kv import cache_rows, rotate
from edgesparse.ops.two_stage import propose
from edgesparse.plan.op import (
    LOGITS,
    Add,
    Attention,
    Embed,
    Glu,
    GluKind,
    Linear,
    Norm,
    Op,
    RopeKV,
)
from edgesparse.plan.plan import Plan

__all__ = ["ReferenceExecutor"]

Float32 = npt.NDArray[np.float32]


class ReferenceExecutor:
    """Runs a plan in numpy; the other executors are compared with it bit by bit."""

    name = "reference"

    def __init__(self, plan: Plan, parameters: Parameters) -> None:
        self.plan = plan
        self._parameters = parameters
        self._lock = threading.Lock()
        self._buffers = {
            name: np.zeros((plan.max_tokens, width), np.float32) for name, width in plan.buffers
        }

    def run(self, step: Step, begin: int = 0, end: int | None = None) -> None:
        """Run ops [begin, end); see `Executor.run`."""
        end = len(self.plan.ops) if end is None else end
        check_step(self.plan, step, begin, end)
        with self._lock:
            self._check_open()
            for i in range(begin, end):
                if step.cancel is not None and step.cancel.is_set():
                    raise Cancelled("The step was cancelled.")
                start = time.perf_counter_ns()
                self._run_op(self.plan.ops[i], step)
                if step.op_ns is not None:
                    step.op_ns[i] += np.uint64(time.perf_counter_ns() - start)

    def buffer(self, name: str, n_tokens: int) -> Float32:
        """Return a view of an activation buffer; see `Executor.buffer`."""
        self._check_open()
        return self._buffers[name][:n_tokens]

    def close(self) -> None:
        """Release the buffers; further calls are errors, closing again is not."""
        self._buffers = {}

    def _check_open(self) -> None:
        if not self._buffers:
            raise UsageError("The executor is closed.")

    def _run_op(self, op: Op, step: Step) -> None:
        n = len(step.tokens)
        match op:
            case Embed():
                weight = self._parameters.weights[op.weight]
                self.buffer(op.dst, n)[:, : weight.k] = embed(weight, step.tokens, op.scale)
            case Linear():
                self._run_linear(op, step)
            case RopeKV():
                self._run_rope(op, step)
            case Attention():
                self._run_attention(op, step)
            case Norm():
                weight_vector = self._parameters.vectors[op.weight]
                self.buffer(op.dst, n)[:] = rmsnorm(self.buffer(op.src, n), weight_vector, op.eps)
            case Glu():
                self.buffer(op.dst, n)[:] = glu(
                    op.kind, self.buffer(op.gate, n), self.buffer(op.up, n)
                )
            case Add():
                add(self.buffer(op.dst, n), self.buffer(op.src, n))

    def _run_linear(self, op: Linear, step: Step) -> None:
        rows = step.outputs if op.outputs_only else np.arange(len(step.tokens))
        if not len(rows):
            return
        k = self._parameters.weights[op.outputs[0].weight].k
        n = len(step.tokens)
        h = self.buffer(op.src, n)[rows, :k]
        if op.glu is not GluKind.NONE:
            h = glu(op.glu, h, self.buffer(op.src2 or "", n)[rows, :k])
        if op.norm is not None:
            h = rmsnorm(h, self._parameters.vectors[op.norm], op.eps)
        is_sparse = step.positions[rows] >= step.sparse_from
        if op.threshold > 0:
            factors = None if op.factors is None else self._parameters.vectors[op.factors]
            h = np.where(is_sparse[:, None], drop_small(h, op.threshold, factors), h)
        for out in op.outputs:
            y = product(self._parameters.weights[out.weight], h)
            if out.bias is not None:
                y = y + self._parameters.vectors[out.bias]
            if out.signs is not None:
                dead = predicted_dead(self._parameters.signs[out.signs], h, out.alpha)
                y = np.where(dead, np.float32(0), y)
            if out.live is not None:
                gate = self.buffer(out.live, n)[rows, : y.shape[1]]
                factors = None
                if out.live_factors is not None:
                    factors = self._parameters.vectors[out.live_factors]
                live = live_outputs(gate, out.live_threshold, factors, is_sparse)
                y = np.where(live, y, np.float32(0))
            if out.dst == LOGITS:
                dst = step.logits
            else:
                dst = self.buffer(out.dst, len(rows))[:, : y.shape[1]]
            dst[:] = dst + y if out.add else y
            if out.dst == LOGITS and step.n_tiles > 0 and len(rows) == 1:
                self._forget_others(h[0], step)

    def _forget_others(self, h: npt.NDArray[np.float32], step: Step) -> None:
        """Leave only the logits that the coarse head proposes, if there is one."""
        coarse = self._parameters.coarse
        if coarse is not None:
            kept = propose(coarse, h, step.n_tiles)
            others = np.ones(-(-step.logits.shape[1] // TILE), bool)
            others[kept] = False
            step.logits[0, np.repeat(others, TILE)[: step.logits.shape[1]]] = -np.inf

    def _run_rope(self, op: RopeKV, step: Step) -> None:
        n = len(step.tokens)
        q = self._heads(op.q, n, op.n_heads, op.head_dim)
        k = self._heads(op.k, n, op.n_kv_heads, op.head_dim)
        v = self._heads(op.v, n, op.n_kv_heads, op.head_dim)
        table = self._parameters.tables[op.table][step.positions]
        vectors = self._parameters.vectors
        rotate(q, table, op.style, vectors[op.norm_q] if op.norm_q else None, op.eps)
        rotate(k, table, op.style, vectors[op.norm_k] if op.norm_k else None, op.eps)
        for index, cache in enumerate(step.caches):
            mine = step.sequences == index
            for rows, x in ((cache.keys, k), (cache.values, v)):
                rows.write(op.layer, step.positions[mine], cache_rows(x[mine], rows.kind))

    def _run_attention(self, op: Attention, step: Step) -> None:
        n = len(step.tokens)
        q = self._heads(op.q, n, op.n_heads, op.head_dim)
        out = self._heads(op.dst, n, op.n_heads, op.head_dim)
        for index, cache in enumerate(step.caches):
            mine = step.sequences == index
            if not mine.any():
                continue
            # Only rows that can be read are widened.
            n = int(step.positions[mine].max()) + 1
            keys = self.plan.cache_type_k.widen(cache.keys.read(op.layer, 0, n), op.head_dim)
            values = self.plan.cache_type_v.widen(cache.values.read(op.layer, 0, n), op.head_dim)
            out[mine] = attention(q[mine], keys, values, step.positions[mine], op.scale, op.window)

    def _heads(self, name: str, n_tokens: int, n_heads: int, head_dim: int) -> Float32:
        rows = self.buffer(name, n_tokens)[:, : n_heads * head_dim]
        return rows.reshape(n_tokens, n_heads, head_dim)
