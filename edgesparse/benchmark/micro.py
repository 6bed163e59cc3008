"""Plans of one kind of op, run by the real engine, so that what is timed is what models run.

A plan holds several copies of its weight (or several layers of cache) and the engine walks them in
turn: with enough copies each comes from memory again, as in a model.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgesparse.executors.base import Executor, KVCache, Parameters, Step
from edgesparse.formats.bitslice import pack_bitslice, pack_ternary_slices
from edgesparse.formats.blocks import has_minimum, pack_blocks
from edgesparse.formats.floats import pack_float
from edgesparse.formats.memory import allocate, require_bytes
from edgesparse.formats.sparse import as_sparse
from edgesparse.formats.ternary import pack_ternary
from edgesparse.formats.turned_slices import by_columns
from edgesparse.formats.weight import BLOCK, Format, Slices, Weight, Zeros, storage_bytes
from edgesparse.ops.rope_kv import rope_table
from edgesparse.plan.op import Attention, Linear, Op, Output, RopeKV, RopeStyle
from edgesparse.plan.plan import Plan

__all__ = [
    "Micro",
    "attention_micro",
    "linear_micro",
    "products",
    "random_weights",
    "time_ops",
]

_PATTERN_ROWS = 64
_SEED = 5
_FILL_TOKENS = 128
_BATCH_NS = 3_000_000
_MAX_SAMPLES = 4096
_TABLE = "rope"
_CODES = {Format.Q4: (-8, 8), Format.Q4M: (0, 16), Format.Q6: (-32, 32)}

Int32 = npt.NDArray[np.int32]


@dataclass
class Micro:
    """A plan whose ops [begin, end) do the same work on different memory.

    Attributes
    ----------
    plan : Plan
    parameters : Parameters
    begin, end : int
        Ops to time.
    n_bytes : int
        Weight or cache bytes that one of them reads.
    multiply_adds : int
        Of one of them, all tokens together.
    step : callable
        Makes a step for the op times that it is given.
    prepare : callable
        Fills what the ops read; takes the executor.
    """

    plan: Plan
    parameters: Parameters
    begin: int
    end: int
    n_bytes: int
    multiply_adds: int
    step: Callable[[npt.NDArray[np.uint64]], Step]
    prepare: Callable[[Executor], None]


def random_weights(
    fmt: Format,
    n_rows: int,
    k: int,
    n_copies: int,
    slices: Slices | None = None,
    zeros: float = 0.0,
) -> list[Weight]:
    """Make `n_copies` matrices with valid random content; rows repeat every 64.

    `slices` describes the steps of bs1 to bs4, by default one half for every 32 columns; `zeros` is
    the share of codes that are 0 in bitmaps and csr.

    Raises
    ------
    MemoryBudgetError
        There is no room.
    """
    rng = np.random.default_rng(_SEED)
    if fmt.is_sparse:
        return _random_sparse(rng, fmt, n_rows, k, n_copies, zeros)
    if fmt.is_sliced and fmt is not Format.BST:
        slices = slices or Slices()
    n_made = n_rows if fmt.is_sliced and fmt.is_column else min(n_rows, _PATTERN_ROWS)
    pattern = _pattern(rng, fmt, n_made, k, slices)
    n_bytes = storage_bytes(fmt, n_rows, k, slices)
    require_bytes(n_copies * n_bytes, "a measurement of these weights")
    scales = np.full(n_rows if fmt.has_row_scales else 0, 0.01, np.float32)
    weights = []
    for i, data in enumerate(allocate([n_bytes] * n_copies, "a measurement of these weights")):
        data[:] = np.resize(pattern, n_bytes)
        weights.append(Weight(f"w{i}", fmt, n_rows, k, data, scales, slices=slices))
    return weights


def _random_sparse(
    rng: np.random.Generator, fmt: Format, n_rows: int, k: int, n_copies: int, zeros: float
) -> list[Weight]:
    low, high = _CODES.get(fmt.row_format, (-127, 128))
    shape = (min(n_rows, _PATTERN_ROWS), k)
    codes = rng.integers(low, high, shape, dtype=np.int8)
    codes[codes == 0] = 1
    if fmt.is_two_of_four:
        groups = rng.random((shape[0], -(-k // 4), 4)).argsort(axis=2).argsort(axis=2)
        codes[groups.reshape(shape[0], -1)[:, :k] >= 2] = 0
    else:
        codes[rng.random(shape) < zeros] = 0
    steps = np.full((shape[0], -(-k // BLOCK)), 0.01, np.float16)
    dense = np.resize(
        pack_blocks(codes, steps, None, fmt.row_format), storage_bytes(fmt.row_format, n_rows, k)
    )
    weight = Weight("w", fmt.row_format, n_rows, k, dense, np.zeros(0, np.float32))
    made = as_sparse(weight, fmt)
    sizes = [made.data.nbytes] * n_copies
    require_bytes(sum(sizes), "a measurement of these weights")
    weights = []
    for i, data in enumerate(allocate(sizes, "a measurement of these weights")):
        data[:] = made.data
        weights.append(replace(made, name=f"w{i}", data=data))
    return weights


def _pattern(
    rng: np.random.Generator, fmt: Format, n_rows: int, k: int, slices: Slices | None
) -> npt.NDArray[np.uint8]:
    if fmt is Format.BST:
        codes = rng.integers(-1, 2, (n_rows, k), dtype=np.int8)
        return pack_ternary_slices(codes, np.ones(n_rows, np.float32)).data
    if slices is not None:
        return _sliced_pattern(rng, fmt, n_rows, k, slices)
    if fmt.is_ternary:
        return pack_ternary(rng.integers(-1, 2, (n_rows, k), dtype=np.int8), fmt)
    if fmt.is_block:
        low, high = _CODES.get(fmt, (-127, 128))
        codes = rng.integers(low, high, (n_rows, k), dtype=np.int8)
        steps = np.full((n_rows, -(-k // BLOCK)), 0.01, np.float16)
        return pack_blocks(codes, steps, steps if has_minimum(fmt) else None, fmt)
    values = rng.standard_normal((n_rows, k), dtype=np.float32)
    if fmt is Format.BF16:
        return pack_float((values.view(np.uint32) >> np.uint32(16)).astype(np.uint16), fmt)
    return pack_float(values.astype(np.float16) if fmt is Format.F16 else values, fmt)


def _sliced_pattern(
    rng: np.random.Generator, fmt: Format, n_rows: int, k: int, slices: Slices
) -> npt.NDArray[np.uint8]:
    codes = rng.integers(0, 1 << fmt.planes, (n_rows, k), dtype=np.uint8)
    steps = np.full((n_rows, slices.n_groups(k)), 0.1 if slices.wide else 0.125, np.float32)
    points = np.ones(steps.shape, np.uint8) if slices.zeros is Zeros.POINTS else None
    offsets = steps if slices.zeros is Zeros.OFFSETS else None
    group = slices.group or k
    made = pack_bitslice(codes, fmt.planes, group, steps, points, offsets=offsets)
    return (by_columns(made) if fmt.is_column else made).data


def _plan(
    ops: list[Op], buffers: dict[str, int], n_tokens: int, n_ctx: int, heads: tuple[int, int, int]
) -> Plan:
    n_layers, n_kv_heads, head_dim = heads
    return Plan(
        architecture="measurement",
        ops=tuple(ops),
        buffers=tuple(buffers.items()),
        n_layers=n_layers,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        n_vocab=1,
        n_ctx=n_ctx,
        max_tokens=n_tokens,
    )


def _step(
    plan: Plan, cache: KVCache, start: int, n: int, op_ns: npt.NDArray[np.uint64] | None
) -> Step:
    return Step(
        tokens=np.zeros(n, np.int32),
        positions=np.arange(start, start + n, dtype=np.int32),
        sequences=np.zeros(n, np.int32),
        outputs=np.zeros(0, np.int32),
        caches=[cache],
        logits=np.empty((0, plan.n_vocab), np.float32),
        op_ns=op_ns,
    )


def _fill(executor: Executor, names: list[str], n_tokens: int) -> None:
    rng = np.random.default_rng(_SEED)
    for name in names:
        buffer = executor.buffer(name, n_tokens)
        buffer[:] = rng.standard_normal(buffer.shape, dtype=np.float32)


def linear_micro(
    fmt: Format,
    n_rows: int,
    k: int,
    *,
    n_tokens: int,
    n_copies: int,
    slices: Slices | None = None,
    zeros: float = 0.0,
) -> Micro:
    """Make a plan of `n_copies` products of `n_tokens` inputs with (n_rows, k) matrices."""
    return products(random_weights(fmt, n_rows, k, n_copies, slices, zeros), n_tokens)


def products(weights: Sequence[Weight], n_tokens: int) -> Micro:
    """Make a plan of products of the buffer ``x`` with weights of one size, into ``y``."""
    n_rows, k = weights[0].n_rows, weights[0].k
    ops: list[Op] = [Linear(w.name, "x", (Output(w.name, "y"),)) for w in weights]
    plan = _plan(ops, {"x": k, "y": n_rows}, n_tokens, n_tokens, (1, 1, 1))
    cache = KVCache(plan, n_tokens)
    return Micro(
        plan,
        Parameters({w.name: w for w in weights}, {}, {}),
        0,
        len(weights),
        weights[0].n_bytes,
        n_rows * k * n_tokens,
        lambda op_ns: _step(plan, cache, 0, n_tokens, op_ns),
        lambda executor: _fill(executor, ["x"], n_tokens),
    )


def attention_micro(
    n_heads: int, n_kv_heads: int, head_dim: int, *, n_tokens: int, depth: int, n_copies: int
) -> Micro:
    """Make a plan of `n_copies` layers of attention by the tokens at `depth` and behind it.

    Keys and values get into the cache as they do in a model: by the ops in front of `begin`.
    """
    n_ctx = depth + n_tokens
    buffers = {"q": n_heads * head_dim, "k": n_kv_heads * head_dim, "v": n_kv_heads * head_dim}
    buffers["o"] = n_heads * head_dim
    rotary_dim = head_dim // 2 * 2
    heads = (n_heads, n_kv_heads, head_dim)
    ops: list[Op] = [
        RopeKV(f"rope{i}", i, "q", "k", "v", *heads, rotary_dim, RopeStyle.NEOX, _TABLE)
        for i in range(n_copies)
    ]
    ops += [
        Attention(f"attn{i}", i, "q", "o", *heads, float(head_dim) ** -0.5) for i in range(n_copies)
    ]
    max_tokens = max(n_tokens, min(_FILL_TOKENS, n_ctx))
    plan = _plan(ops, buffers, max_tokens, n_ctx, (n_copies, n_kv_heads, head_dim))
    cache = KVCache(plan, n_ctx)

    def prepare(executor: Executor) -> None:
        for start in range(0, n_ctx, max_tokens):
            n = min(max_tokens, n_ctx - start)
            _fill(executor, ["q", "k", "v"], n)
            executor.run(_step(plan, cache, start, n, None), 0, n_copies)

    seen = sum(range(depth + 1, n_ctx + 1))
    return Micro(
        plan,
        # The engine wants a weight in every plan; no op reads this one.
        Parameters(
            {"unused": random_weights(Format.F32, 1, 1, 1)[0]},
            {},
            {_TABLE: rope_table(n_ctx, rotary_dim, 10_000.0)},
        ),
        n_copies,
        2 * n_copies,
        n_ctx * plan.kv_bytes,
        2 * n_heads * head_dim * seen,
        lambda op_ns: _step(plan, cache, depth, n_tokens, op_ns),
        prepare,
    )


def time_ops(executor: Executor, micro: Micro, budget_s: float) -> list[int]:
    """Time single ops of `micro` for about `budget_s`; nanoseconds each, at least one.

    The engine gets runs of several ops, a few milliseconds together, so that its threads have no
    time to fall asleep between them. The first run warms up; it counts only if it alone took
    longer than the budget.
    """
    op_ns = np.zeros(len(micro.plan.ops), np.uint64)
    step = micro.step(op_ns)
    at = micro.begin

    def run(n: int) -> list[int]:
        nonlocal at
        end = min(at + n, micro.end)
        op_ns[:] = 0
        executor.run(step, at, end)
        found = [int(ns) for ns in op_ns[at:end]]
        at = micro.begin if end == micro.end else end
        return found

    deadline = time.perf_counter() + budget_s
    first = run(1)
    if time.perf_counter() >= deadline:
        return first
    n = max(1, min(micro.end - micro.begin, _BATCH_NS // max(1, first[0])))
    samples = run(n)  # still warming up: the threads may have slept before
    typical = statistics.median(samples)
    samples = [] if time.perf_counter() + 2e-9 * typical < deadline else samples
    while not samples or (time.perf_counter() < deadline and len(samples) < _MAX_SAMPLES):
        samples += run(n)
    return samples
