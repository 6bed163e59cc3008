"""The reference executor: the numpy truth of every op, one after the other. Slow and plain."""

from __future__ import annotations

import threading
import time

import numpy as np
import numpy.typing as npt

from edgesparse.errors import Cancelled, UsageError
from edgesparse.executors.base import Parameters, Step
from edgesparse.executors.checks import check_step
from edgesparse.executors.sparse_cache import n_sparse_of, widen_cache
from edgesparse.formats.weight import TILE
from edgesparse.ops.add import add
from edgesparse.ops.attention import attention
from edgesparse.ops.embed import embed
from edgesparse.ops.experts import combine, route
from edgesparse.ops.glu import glu
from edgesparse.ops.linear import cut, drop_small, live_outputs, product, side_product
from edgesparse.ops.norm import rmsnorm
from edgesparse.ops.predict import predicted_dead
from edgesparse.ops.rope_kv import cache_rows, rotate
from edgesparse.ops.two_stage import propose
from edgesparse.plan.op import (
    LOGITS,
    Add,
    Attention,
    Combine,
    Embed,
    Experts,
    Glu,
    Linear,
    Norm,
    Op,
    Output,
    RopeKV,
    Route,
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
            case Route():
                scores = self.buffer(op.src, n)[:, : op.n_experts]
                self.buffer(op.dst, n)[:] = route(scores, op.n_used, normalize=op.normalize)
            case Experts():
                self._run_experts(op, n)
            case Combine():
                self._run_combine(op, n)

    def _run_linear(self, op: Linear, step: Step) -> None:
        rows = step.outputs if op.outputs_only else np.arange(len(step.tokens))
        if not len(rows):
            return
        k = self._parameters.weights[op.outputs[0].weight].k
        n = len(step.tokens)
        src2 = None if op.src2 is None else self.buffer(op.src2, n)[rows, :k]
        h = self._input(op, self.buffer(op.src, n)[rows, :k], src2)
        is_sparse = step.positions[rows] >= step.sparse_from
        if op.threshold > 0:
            factors = None if op.factors is None else self._parameters.vectors[op.factors]
            h = np.where(is_sparse[:, None], drop_small(h, op.threshold, factors), h)
        for out in op.outputs:
            gate = None if out.live is None else self.buffer(out.live, n)[rows]
            y = self._output(out, h, gate, is_sparse)
            if out.dst == LOGITS:
                dst = step.logits
            else:
                dst = self.buffer(out.dst, len(rows))[:, : y.shape[1]]
            dst[:] = dst + y if out.add else y
            if out.side is not None:
                dst += side_product(self._parameters.weights[out.side], h)
            if out.is_cut:
                dst[:] = cut(dst, out.shift, out.cutoff)
            if out.dst == LOGITS and step.n_tiles > 0 and len(rows) == 1:
                self._forget_others(h[0], step)

    def _input(self, op: Linear, h: Float32, src2: Float32 | None) -> Float32:
        """Gate and norm."""
        if src2 is not None:
            h = glu(op.glu, h, src2)
        if op.norm is not None:
            h = rmsnorm(h, self._parameters.vectors[op.norm], op.eps)
        return h

    def _output(
        self, out: Output, h: Float32, gate: Float32 | None, is_sparse: npt.NDArray[np.bool_]
    ) -> Float32:
        """Multiply by one matrix; `gate` holds the rows of the output's `live`."""
        vectors = self._parameters.vectors
        y = product(self._parameters.weights[out.weight], h)
        if out.bias is not None:
            y = y + vectors[out.bias]
        if out.signs is not None:
            dead = predicted_dead(self._parameters.signs[out.signs], h, out.alpha)
            y = np.where(dead, np.float32(0), y)
        if gate is not None:
            factors = None if out.live_factors is None else vectors[out.live_factors]
            gate = gate[:, : y.shape[1]]
            y = np.where(live_outputs(gate, out.live_threshold, factors, is_sparse), y, 0)
        return y

    def _run_experts(self, op: Experts, n_tokens: int) -> None:
        """Run each expert over rows of which a token has one for every expert that it uses."""
        chosen = self.buffer(op.route, n_tokens)[:, : op.n_used].reshape(-1)
        for number in np.unique(chosen):
            rows = np.flatnonzero(chosen == number)
            linear = op.expert(int(number))
            k = self._parameters.weights[linear.outputs[0].weight].k
            sources = [
                self._buffers[name].reshape(-1, k) if op.per_slot else self._buffers[name][:, :k]
                for name in (op.src, op.src2)
                if name is not None
            ]
            inputs = [x[rows if op.per_slot else rows // op.n_used] for x in sources]
            h = self._input(linear, inputs[0], inputs[1] if op.src2 is not None else None)
            for out in linear.outputs:
                n_rows = self._parameters.weights[out.weight].n_rows
                live = None
                if out.live is not None:
                    live = self._buffers[out.live].reshape(-1, n_rows)[rows]
                y = self._output(out, h, live, np.zeros(len(rows), np.bool_))
                if out.is_cut:
                    y = cut(y, out.shift, out.cutoff)
                self._buffers[out.dst].reshape(-1, n_rows)[rows] = y

    def _run_combine(self, op: Combine, n: int) -> None:
        dst = self.buffer(op.dst, n)
        width, n_used = dst.shape[1], op.n_used
        combine(
            dst,
            self.buffer(op.src, n).reshape(n, n_used, width),
            self.buffer(op.route, n)[:, n_used:],
            None if op.shared is None else self.buffer(op.shared, n)[:, :width],
            None if op.gate is None else self.buffer(op.gate, n)[:, 0],
        )

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
        types = (self.plan.cache_type_k, self.plan.cache_type_v)
        for index, cache in enumerate(step.caches):
            mine = step.sequences == index
            positions = step.positions[mine]
            pairs = ((cache.keys, cache.recent_keys), (cache.values, cache.recent_values))
            for (rows, recent), x, kind in zip(pairs, (k, v), types, strict=True):
                whole = cache_rows(x[mine], kind)
                if recent is None:
                    rows.write(op.layer, positions, whole)
                else:
                    sparse = self.plan.sparse_rows
                    assert sparse is not None
                    recent.write(op.layer, positions % sparse.n_recent, whole)
                    rows.write(op.layer, positions, sparse.prune(whole))

    def _run_attention(self, op: Attention, step: Step) -> None:
        n = len(step.tokens)
        q = self._heads(op.q, n, op.n_heads, op.head_dim)
        out = self._heads(op.dst, n, op.n_heads, op.head_dim)
        for index, cache in enumerate(step.caches):
            mine = step.sequences == index
            if not mine.any():
                continue
            # Tokens to which the same rows are sparse.
            for n_sparse in np.unique(n_sparse_of(self.plan.sparse_rows, step.positions[mine])):
                those = mine & (n_sparse_of(self.plan.sparse_rows, step.positions) == n_sparse)
                positions = step.positions[those]
                # Only rows that can be read are widened.
                end = int(positions.max()) + 1
                keys, values = widen_cache(self.plan, cache, op.layer, int(n_sparse), end)
                out[those] = attention(q[those], keys, values, positions, op.scale, op.window)

    def _heads(self, name: str, n_tokens: int, n_heads: int, head_dim: int) -> Float32:
        rows = self.buffer(name, n_tokens)[:, : n_heads * head_dim]
        return rows.reshape(n_tokens, n_heads, head_dim)
