"""The native executor: turns a plan into the C engine's structs; one C call per step."""

from __future__ import annotations

import os
import threading
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgesparse import _native
from edgesparse.errors import Cancelled, EdgesparseError, MemoryBudgetError, UsageError
from edgesparse.executors.base import Parameters, Step
from edgesparse.executors.checks import check_step
from edgesparse.formats.signs import SignPlanes
from edgesparse.formats.weight import Format, Weight
from edgesparse.lookup import NEVER, mad_tokens
from edgesparse.ops.predict import limits
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

__all__ = ["NativeExecutor", "choose_isa", "isa_names"]

Float32 = npt.NDArray[np.float32]


def isa_names() -> dict[str, int]:
    """Instruction sets that this machine and this build can run, name to number, ascending."""
    lib, ffi = _native.lib(), _native.ffi()
    return {
        ffi.string(lib.es_isa_name(isa)).decode(): isa
        for isa in range(lib.ES_ISA_COUNT)
        if lib.es_isa_supported(isa)
    }


def choose_isa(isa: str | None) -> str:
    """Return `isa`, or ``EDGESPARSE_ISA``'s, or the best, after checking that it runs here.

    Raises
    ------
    UsageError
        The machine or the build does not have it.
    """
    wanted = isa or os.environ.get("EDGESPARSE_ISA") or None
    names = isa_names()
    if wanted is None:
        lib, ffi = _native.lib(), _native.ffi()
        best: str = ffi.string(lib.es_isa_name(lib.es_isa_best())).decode()
        return best
    if wanted not in names:
        raise UsageError(
            f"The instruction set {wanted!r} cannot run here.",
            advice=f"This machine and build have {', '.join(names)}.",
        )
    return wanted


class NativeExecutor:
    """Runs a plan on the compiled engine.

    Parameters
    ----------
    plan : Plan
    parameters : Parameters
        Kept alive: the engine reads the arrays where they lie.
    threads : int
        Threads, the calling one included.
    isa : str, optional
        Instruction set; by default the best that the machine has.
    kernel : {"lut", "mad"}, optional
        How bit slices are multiplied, see `edgesparse.lookup`; by default what is faster here.
    lossy : bool
        Look up in rounded tables (bs1 to bs4): faster, and not exact.
    """

    name = "native"

    def __init__(
        self,
        plan: Plan,
        parameters: Parameters,
        *,
        threads: int,
        isa: str | None = None,
        kernel: Literal["lut", "mad"] | None = None,
        lossy: bool = False,
    ) -> None:
        self.plan = plan
        self.isa = choose_isa(isa)
        self._ffi, self._lib = _native.ffi(), _native.lib()
        self._parameters = parameters
        self._threads, self._kernel, self._lossy = threads, kernel, lossy
        self._lock = threading.Lock()
        self._buffer_ids = {name: i for i, (name, _) in enumerate(plan.buffers)}
        self._keep: list[Any] = []
        status = self._ffi.new("int32_t *")
        raw = self._lib.es_engine_create(self._c_plan(), threads, isa_names()[self.isa], status)
        if raw == self._ffi.NULL:
            if status[0] == self._lib.ES_E_MEMORY:
                raise MemoryBudgetError(
                    "The engine's buffers and threads could not be had.",
                    advice="Use fewer threads, a shorter context or fewer tokens at once.",
                )
            raise EdgesparseError(f"The native engine refused the plan (status {status[0]}).")
        self._engine = self._ffi.gc(raw, self._lib.es_engine_destroy)
        # Creation copied the plan's arrays; only what they point at has to live on.
        self._keep = [p for p in self._keep if isinstance(p, np.ndarray)]

    def run(self, step: Step, begin: int = 0, end: int | None = None) -> None:
        """Run ops [begin, end); see `Executor.run`."""
        end = len(self.plan.ops) if end is None else end
        check_step(self.plan, step, begin, end)
        c_step, keep = self._c_step(step)
        with self._lock:
            if self._engine is None:
                raise UsageError("The executor was closed.")
            status = self._lib.es_engine_run(self._engine, c_step, begin, end)
        del keep
        if status == self._lib.ES_CANCELLED:
            raise Cancelled("The step was cancelled.")
        if status != self._lib.ES_OK:
            raise EdgesparseError(f"The native engine refused the step (status {status}).")

    def buffer(self, name: str, n_tokens: int) -> Float32:
        """Return a view of an activation buffer; see `Executor.buffer`."""
        if self._engine is None:
            raise UsageError("The executor was closed.")
        index = self._buffer_ids[name]
        width = self.plan.buffers[index][1]
        pointer = self._lib.es_engine_buffer(self._engine, index)
        raw = self._ffi.buffer(pointer, n_tokens * width * 4)
        return np.frombuffer(raw, np.float32).reshape(n_tokens, width)

    def frozen_plan(self) -> tuple[Any, list[npt.NDArray[Any]]]:
        """Return a C plan of its own and the arrays that its pointers point to."""
        self._keep = []
        c_plan = self._c_plan()
        arrays = [p for p in self._keep if isinstance(p, np.ndarray)]
        self._frozen = self._keep  # the plan's own arrays live as long as the executor
        return c_plan, arrays

    def close(self) -> None:
        """Stop the threads and free the buffers."""
        with self._lock:
            if self._engine is not None:
                self._ffi.release(self._engine)
                self._engine = None

    # ---- structs ------------------------------------------------------------------------------

    def _pointer(self, c_type: str, array: npt.NDArray[Any] | None) -> Any:
        if array is None or array.size == 0:
            return self._ffi.NULL
        self._keep.append(array)
        return self._ffi.cast(c_type, array.ctypes.data)

    def _c_plan(self) -> Any:
        plan, ffi = self.plan, self._ffi
        names, signs = list(self._parameters.weights), list(self._parameters.signs)
        self._weight_ids = {name: i for i, name in enumerate(names)}
        self._sign_ids = {name: len(names) + i for i, name in enumerate(signs)}
        weights = ffi.new("es_weight[]", len(names) + len(signs))
        for name, i in self._weight_ids.items():
            self._fill_weight(weights[i], self._parameters.weights[name])
        for name, i in self._sign_ids.items():
            self._fill_signs(weights[i], self._parameters.signs[name])
        ops = ffi.new("es_op[]", len(plan.ops))
        for c_op, op in zip(ops, plan.ops, strict=True):
            self._fill_op(c_op, op)
        widths = ffi.new("int32_t[]", [width for _, width in plan.buffers])
        self._keep += [weights, ops, widths]
        return ffi.new(
            "es_plan *",
            {
                "n_ops": len(plan.ops),
                "n_buffers": len(plan.buffers),
                "n_weights": len(weights),
                "n_layers": plan.n_layers,
                "n_ctx": plan.n_ctx,
                "n_vocab": plan.n_vocab,
                "max_tokens": plan.max_tokens,
                "kv_dim": plan.kv_dim,
                "cache_type_k": int(plan.cache_type_k),
                "cache_type_v": int(plan.cache_type_v),
                **_pruning(plan),
                "ops": ops,
                "widths": widths,
                "weights": weights,
            },
        )

    def _fill_weight(self, c_weight: Any, weight: Weight) -> None:
        c_weight.format = int(weight.format)
        c_weight.n_rows = weight.n_rows
        c_weight.k = weight.k
        c_weight.data = self._pointer("uint8_t *", weight.data)
        c_weight.n_bytes = weight.data.nbytes
        c_weight.scales = self._pointer("float *", weight.scales)
        if weight.format.is_sliced and weight.format.is_column:
            c_weight.mad_tokens = 1  # nothing is looked up
        elif weight.format.is_sliced:
            c_weight.rounded = int(self._lossy and weight.format is not Format.BST)
            # Rounded sums for every number of tokens: results must not depend on it.
            c_weight.mad_tokens = NEVER if c_weight.rounded else self._mad_tokens(weight)
        if weight.slices is not None:
            c_weight.group, c_weight.wide = weight.slices.group, int(weight.slices.wide)
            c_weight.zeros = int(weight.slices.zeros)

    def _mad_tokens(self, weight: Weight) -> int:
        if self._kernel is not None:
            return {"lut": NEVER, "mad": 1}[self._kernel]
        return mad_tokens(weight.format, weight.k, self.isa, self._threads)

    def _fill_signs(self, c_weight: Any, planes: SignPlanes) -> None:
        lib = self._lib
        c_weight.format = lib.ES_FORMAT_SIGNS_MASKED if planes.masked else lib.ES_FORMAT_SIGNS
        c_weight.n_rows, c_weight.k = planes.n_rows, planes.k
        c_weight.data = self._pointer("uint8_t *", planes.data)
        c_weight.n_bytes = planes.n_bytes

    def _vector(self, name: str | None) -> Any:
        if name is None:
            return self._ffi.NULL
        return self._pointer("float *", self._parameters.vectors[name])

    def _fill_op(self, c_op: Any, op: Op) -> None:
        lib, ids = self._lib, self._buffer_ids
        c_op.src = c_op.src2 = c_op.src3 = c_op.dst = c_op.route = c_op.gate = -1
        c_op.scale = 1.0
        match op:
            case Embed():
                c_op.kind = lib.ES_OP_EMBED
                c_op.outputs[0].weight = self._weight_ids[op.weight]
                c_op.dst, c_op.scale = ids[op.dst], op.scale
            case Linear():
                c_op.kind = lib.ES_OP_LINEAR
                self._fill_linear(c_op, op)
            case RopeKV():
                c_op.kind = lib.ES_OP_ROPE_KV
                c_op.src, c_op.src2, c_op.src3 = ids[op.q], ids[op.k], ids[op.v]
                c_op.rope_dim, c_op.rope_style = op.rope_dim, int(op.style)
                c_op.rope = self._pointer("float *", self._parameters.tables[op.table])
                c_op.norm, c_op.norm_k = self._vector(op.norm_q), self._vector(op.norm_k)
                c_op.eps = op.eps
                self._fill_heads(c_op, op)
            case Attention():
                c_op.kind = lib.ES_OP_ATTENTION
                c_op.src, c_op.dst = ids[op.q], ids[op.dst]
                c_op.scale, c_op.window = op.scale, op.window
                self._fill_heads(c_op, op)
            case Norm():
                c_op.kind = lib.ES_OP_NORM
                c_op.src, c_op.dst = ids[op.src], ids[op.dst]
                c_op.norm, c_op.eps = self._vector(op.weight), op.eps
            case Glu():
                c_op.kind, c_op.glu = lib.ES_OP_GLU, int(op.kind)
                c_op.src, c_op.src2, c_op.dst = ids[op.gate], ids[op.up], ids[op.dst]
            case Add():
                c_op.kind = lib.ES_OP_ADD
                c_op.src, c_op.dst = ids[op.src], ids[op.dst]
            case Route():
                c_op.kind, c_op.src, c_op.dst = lib.ES_OP_ROUTE, ids[op.src], ids[op.dst]
                c_op.n_experts, c_op.n_used = op.n_experts, op.n_used
                c_op.normalize = int(op.normalize)
            case Experts():
                c_op.kind = lib.ES_OP_EXPERTS
                self._fill_experts(c_op, op)
            case Combine():
                c_op.kind, c_op.src, c_op.dst = lib.ES_OP_COMBINE, ids[op.src], ids[op.dst]
                c_op.src2 = -1 if op.shared is None else ids[op.shared]
                c_op.gate = -1 if op.gate is None else ids[op.gate]
                c_op.route, c_op.n_used, c_op.n_experts = ids[op.route], op.n_used, op.n_used

    def _fill_linear(self, c_op: Any, op: Linear) -> None:
        c_op.src = self._buffer_ids[op.src]
        c_op.src2 = -1 if op.src2 is None else self._buffer_ids[op.src2]
        c_op.glu, c_op.outputs_only = int(op.glu), int(op.outputs_only)
        c_op.norm, c_op.eps = self._vector(op.norm), op.eps
        c_op.threshold, c_op.factors = op.threshold, self._vector(op.factors)
        c_op.order = self._order(op)
        c_op.n_outputs = len(op.outputs)
        coarse = self._parameters.coarse
        if coarse is not None and op.outputs[0].dst == LOGITS:
            c_op.coarse = self._pointer("uint8_t *", coarse.codes)
            c_op.coarse_scales = self._pointer("float *", coarse.scales)
        self._fill_outputs(c_op, op.outputs)

    def _order(self, op: Linear) -> Any:
        """Return the order of the columns of the op's matrices, which is the same for all."""
        orders = [self._parameters.weights[out.weight].order for out in op.outputs]
        if any(order is not orders[0] for order in orders):
            raise ValueError(f"{op.name}: its matrices differ in the order of their columns")
        return self._pointer("int32_t *", orders[0])

    def _fill_experts(self, c_op: Any, op: Experts) -> None:
        c_op.src, c_op.route = self._buffer_ids[op.src], self._buffer_ids[op.route]
        c_op.src2 = -1 if op.src2 is None else self._buffer_ids[op.src2]
        c_op.glu, c_op.norm, c_op.eps = int(op.glu), self._vector(op.norm), op.eps
        c_op.n_experts, c_op.n_used = len(op.experts), op.n_used
        c_op.per_slot = int(op.per_slot)
        c_op.n_outputs = len(op.outputs)
        self._fill_outputs(c_op, op.outputs)
        ids = [[self._weight_ids[out.weight] for out in outputs] for outputs in op.experts]
        c_op.experts = self._pointer("int32_t *", np.array(ids, np.int32))

    def _fill_outputs(self, c_op: Any, outputs: tuple[Output, ...]) -> None:
        for i, out in enumerate(outputs):
            c_out = c_op.outputs[i]
            c_out.weight = self._weight_ids[out.weight]
            c_out.dst = -1 if out.dst == LOGITS else self._buffer_ids[out.dst]
            c_out.add = int(out.add)
            c_out.bias = self._vector(out.bias)
            c_out.live = -1 if out.live is None else self._buffer_ids[out.live]
            c_out.live_threshold = out.live_threshold
            c_out.live_factors = self._vector(out.live_factors)
            c_out.signs = -1
            c_out.side = -1 if out.side is None else self._weight_ids[out.side]
            c_out.shift, c_out.cutoff = out.shift, out.cutoff
            if out.signs is not None:
                planes = self._parameters.signs[out.signs]
                c_out.signs = self._sign_ids[out.signs]
                c_out.limits = self._pointer("int32_t *", limits(planes, out.alpha))

    @staticmethod
    def _fill_heads(c_op: Any, op: RopeKV | Attention) -> None:
        c_op.layer, c_op.n_heads = op.layer, op.n_heads
        c_op.n_kv_heads, c_op.head_dim = op.n_kv_heads, op.head_dim

    def _c_step(self, step: Step) -> tuple[Any, list[Any]]:
        """Return the C step and what must live as long as the call."""
        ffi = self._ffi
        arrays = [
            np.ascontiguousarray(a, np.int32)
            for a in (step.tokens, step.positions, step.sequences, step.outputs)
        ]
        tokens, positions, sequences, outputs = (
            ffi.cast("int32_t *", a.ctypes.data) for a in arrays
        )
        if not step.logits.flags.c_contiguous or step.logits.dtype != np.float32:
            raise UsageError("Logits must be a contiguous float32 array.")
        caches = ffi.new("es_cache[]", len(step.caches))
        for c_cache, cache in zip(caches, step.caches, strict=True):
            c_cache.keys = ffi.cast("uint8_t *", cache.keys.data.ctypes.data)
            c_cache.values = ffi.cast("uint8_t *", cache.values.data.ctypes.data)
            c_cache.capacity = cache.capacity
            if cache.recent_keys is not None and cache.recent_values is not None:
                recent = cache.recent_keys.data, cache.recent_values.data
                c_cache.recent_keys = ffi.cast("uint8_t *", recent[0].ctypes.data)
                c_cache.recent_values = ffi.cast("uint8_t *", recent[1].ctypes.data)
        null = ffi.NULL
        flag, op_ns, moved = step.cancel, step.op_ns, step.op_bytes
        c_step = ffi.new(
            "es_step *",
            {
                "n_tokens": len(arrays[0]),
                "n_outputs": len(arrays[3]),
                "n_caches": len(step.caches),
                "sparse_from": step.sparse_from,
                "n_tiles": step.n_tiles,
                "tokens": tokens,
                "positions": positions,
                "sequences": sequences,
                "outputs": outputs,
                "caches": caches,
                "logits": ffi.cast("float *", step.logits.ctypes.data),
                "cancel": null if flag is None else ffi.cast("int32_t *", flag.value.ctypes.data),
                "op_ns": null if op_ns is None else ffi.cast("uint64_t *", op_ns.ctypes.data),
                "op_bytes": null if moved is None else ffi.cast("uint64_t *", moved.ctypes.data),
            },
        )
        return c_step, [arrays, caches, step]


def _pruning(plan: Plan) -> dict[str, int]:
    """Fields of the C plan that say how keys and values are pruned."""
    rows = plan.sparse_rows
    if rows is None:
        return {}
    return {"kv_kept": rows.n_kept, "kv_window": rows.window, "kv_recent": rows.n_recent}
