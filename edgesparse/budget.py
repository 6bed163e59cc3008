"""How much memory a model will take at most, before it takes any; and whether that may be.

Everything that grows with the model is counted from the plan: weights in their storage formats, the
KV cache of the whole context, tables, activations and the threads' scratch. What the interpreter,
the libraries and the tokenizer hold is read from the system when the weights are about to be loaded
(the tokenizer is made before them). Compilers of the portable executor come on top.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgesparse.errors import MemoryBudgetError, UsageError
from edgesparse.formats.memory import available_bytes
from edgesparse.plan.op import Attention, Embed, Experts, linears_of
from edgesparse.plan.plan import Plan

__all__ = [
    "MemoryNeed",
    "check_memory",
    "parse_size",
    "predict",
    "resident_bytes",
    "workspace_bytes",
]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([KMGT]?)(I?)B?", re.IGNORECASE)
_THREAD_BYTES = 1 << 20
"""Of a thread: its stack as far as it is touched, sums (512 tokens by 128 rows), attention."""
_WORKING_BYTES = 6 << 20
"""Modules that are imported on first use, the conversation, rows of logits being sampled from."""
_STEP = 256


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a model takes at most.

    Attributes
    ----------
    process : int
        Resident before the weights are loaded.
    weights : int
        Matrices in their storage formats, with the scales of their rows.
    head_copy : int
        The coarse copy of a two-stage head.
    signs : int
        Sign planes of a predictor.
    tables : int
        Rotary tables, norm weights and biases.
    cache : int
        Keys and values of one sequence that fills the context.
    workspace : int
        Activations, scratch, and what generating allocates.
    loading : int
        Buffers of loading, given back before anything runs.
    n_ctx : int
        Positions of that context.
    """

    process: int
    weights: int
    head_copy: int
    signs: int
    tables: int
    cache: int
    workspace: int
    loading: int
    n_ctx: int

    @property
    def model(self) -> int:
        """Bytes of the parameters alone."""
        return self.weights + self.head_copy + self.signs + self.tables

    @property
    def total(self) -> int:
        """The peak: all of it, but for buffers of loading where running takes more."""
        return self.process + self.model + max(self.loading, self.cache + self.workspace)

    def to_dict(self) -> dict[str, int]:
        """All numbers by name."""
        return {**asdict(self), "total": self.total}

    def describe(self) -> str:
        """One line of figures."""
        parts = [
            (self.process, "the process"),
            (self.weights, "weights"),
            (self.head_copy, "coarse copy of the head"),
            (self.signs, "sign planes"),
            (self.tables, "tables"),
            (self.cache, f"cache of {self.n_ctx} positions"),
            (self.workspace, "workspaces"),
        ]
        named = " + ".join(f"{size / 1e6:.1f} {name}" for size, name in parts if size)
        return f"{self.total / 1e6:.0f} MB at most ({named})"


def parse_size(text: str | int) -> int:
    """Read a size: ``900MB``, ``1.5G`` (powers of ten), ``512MiB`` (of two), or bytes.

    Raises
    ------
    UsageError
        It is no positive size.
    """
    found = _SIZE.fullmatch(str(text).strip())
    if found is not None:
        number, unit, binary = found[1], found[2].upper(), bool(found[3])
        if unit or not binary:
            size = int(float(number) * (_BINARY[unit] if binary else _UNITS[unit]))
            if size > 0:
                return size
    raise UsageError(
        f"{str(text)[:40]!r} is no size.", advice="Write it as 900MB, 1.5GB, 512MiB or in bytes."
    )


def resident_bytes() -> int:
    """Bytes of memory that this process holds; its peak so far where only that is known."""
    try:
        status = Path("/proc/self/statm").read_text(encoding="ascii")
        import mmap

        return int(status.split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def workspace_bytes(plan: Plan, n_threads: int, chunk: int) -> int:
    """Bytes that running takes beside parameters and cache, for steps of `chunk` tokens.

    Buffers of the native engine (native/src/engine.c, memory.c) as far as such steps touch them.
    """
    widths = dict(plan.buffers)
    k = 1
    for op in plan.ops:
        if isinstance(op, Embed):
            k = max(k, widths[op.dst])
        for linear in linears_of(op):
            width = widths[linear.src]
            per_slot = isinstance(op, Experts) and op.per_slot
            k = max(k, width // op.n_used if isinstance(op, Experts) and per_slot else width)
    n_heads = max((op.n_heads for op in plan.ops if isinstance(op, Attention)), default=1)
    # float32, int8 and int16 of every element, and per block of 32 a step and two sums.
    inputs = k * (4 + 1 + 2) + -(-k // 32) * 12
    activations = 4 * sum(width for _, width in plan.buffers)
    parts = n_heads * -(-plan.n_ctx // _STEP) * (plan.head_dim + 4) * 4
    thread = inputs + 4 * k + 9 * k + _THREAD_BYTES
    return chunk * (activations + inputs) + n_threads * thread + parts + _working(plan)


def _working(plan: Plan) -> int:
    return 2 * 4 * plan.n_vocab + _WORKING_BYTES


def predict(
    plan: Plan,
    *,
    weights: int,
    head_copy: int,
    signs: int,
    vectors: int,
    loading: int,
    n_tables: int,
    rope_dim: int,
    n_threads: int,
    chunk: int,
) -> MemoryNeed:
    """Add up what a model will take; all sizes in bytes.

    Parameters
    ----------
    plan : Plan
    weights, head_copy, signs, vectors, loading : int
        See `MemoryNeed`; vectors belong to its tables.
    n_tables, rope_dim : int
        Rotary tables, and floats in one of their rows.
    n_threads, chunk : int
        Threads, and tokens in a step.
    """
    return MemoryNeed(
        process=resident_bytes(),
        weights=weights,
        head_copy=head_copy,
        signs=signs,
        tables=vectors + n_tables * plan.n_ctx * rope_dim * 4,
        cache=plan.n_ctx * plan.n_layers * plan.kv_bytes,
        workspace=workspace_bytes(plan, n_threads, chunk),
        loading=loading,
        n_ctx=plan.n_ctx,
    )


def check_memory(
    need: MemoryNeed, budget: int | None, savings: Callable[[], list[tuple[str, int]]]
) -> None:
    """Refuse what exceeds the budget, or what certainly exceeds the memory there is.

    Without a budget the cache counts for nothing: it takes memory only as a context grows.

    Parameters
    ----------
    need : MemoryNeed
    budget : int, optional
        Bytes that the whole process may take.
    savings : callable
        Gives what else could be chosen, and how many bytes that would save.

    Raises
    ------
    MemoryBudgetError
        It is too much; lists the figures and what would help.
    """
    if budget is not None and need.total > budget:
        found = f"the budget is {budget / 1e6:.0f} MB"
        raise _refusal(need, need.total - budget, found, savings())
    available = available_bytes()
    least = replace(need, process=0, cache=0).total
    if available is not None and least > available:
        found = f"{available / 1e6:.0f} MB are available"
        raise _refusal(need, least - available, found, savings(), cache=False)


def _refusal(
    need: MemoryNeed,
    excess: int,
    found: str,
    savings: list[tuple[str, int]],
    *,
    cache: bool = True,
) -> MemoryBudgetError:
    advice = []
    per_position = need.cache // need.n_ctx
    fitting = (need.n_ctx - -(-excess // max(1, per_position))) // _STEP * _STEP
    if cache and fitting >= _STEP:
        advice.append(f"-c {fitting} fits")
    advice += [f"{what} saves {size / 1e6:.0f} MB" for what, size in savings if size > 0]
    return MemoryBudgetError(
        f"the model needs {need.describe()}; {found}.",
        advice=f"{'; '.join(advice)}." if advice else "Close other programs or take a smaller one.",
    )
