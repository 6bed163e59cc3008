"""Single kernels: every storage format and attention, by shape, tokens, instruction set, threads.

A row says how many bytes of weights (or cache) and how many multiply-adds a second one op does.
Its ceiling is, for one token, the read bandwidth measured in the same run with the same threads
over a working set of the same size; for several tokens, the most multiply-adds a second that any
row of the run reached with the same threads.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgesparse import _native
from edgesparse.benchmark.micro import Micro, attention_micro, linear_micro, time_ops
from edgesparse.benchmark.shapes import Shape
from edgesparse.benchmark.tokens import working_set_bandwidth
from edgesparse.cpus import last_level_cache_bytes
from edgesparse.executors.base import Executor
from edgesparse.executors.native import NativeExecutor, isa_names
from edgesparse.formats.weight import Format, storage_bytes
from edgesparse.formats.without_zeros import expected_bytes

__all__ = [
    "HEAD_FORMATS",
    "TERNARY_FORMATS",
    "Case",
    "KernelRow",
    "judge",
    "measure_case",
    "memory_bytes",
    "model_cases",
    "shape_cases",
]

TERNARY_FORMATS = (Format.T2, Format.T5)
"""Interchangeable ones; t2n is for products that skip zeros, where a model has them."""
HEAD_FORMATS = (Format.Q8, Format.Q6, Format.Q4, Format.Q8M, Format.Q4M, Format.F16)
ZEROS = (0.5, 0.7)
"""Shares of zeros that bitmap kernels are measured with."""
CSR_ZEROS = 0.95
MAX_HEAD_ROWS = 32_768
"""Rows of a head that are measured: more change nothing but the memory that they take."""
DEPTH = 1024
MIN_WORKING_SET = 96 << 20
MAX_WORKING_SET = 1 << 30


@dataclass(frozen=True)
class Case:
    """What to measure, apart from instruction set and threads.

    Attributes
    ----------
    kernel : str
        Storage format in lower case, or ``attention``.
    where : str
        Model and tensor that have this size.
    n_rows, k : int
        Matrix; for attention, heads × head_dim and positions in the cache.
    n_tokens : int
    heads : tuple of int
        Attention: heads, kv heads, head_dim.
    in_cache : bool
        One copy again and again instead of many in turn.
    zeros : float
        Formats without zeros: share of codes that are 0.
    """

    kernel: str
    where: str
    n_rows: int
    k: int
    n_tokens: int
    heads: tuple[int, int, int] = (0, 0, 0)
    in_cache: bool = False
    zeros: float = 0.0

    @property
    def op(self) -> str:
        """``gemv``, ``gemm`` or ``attention``."""
        if self.kernel == "attention":
            return "attention"
        return "gemv" if self.n_tokens == 1 else "gemm"

    @property
    def copy_bytes(self) -> int:
        """Bytes of one copy of the weight, or of one layer of cache in halfs."""
        if self.kernel == "attention":
            return 4 * (self.k + self.n_tokens) * self.heads[1] * self.heads[2]
        fmt = Format[self.kernel.upper()]
        if fmt.has_varying_length:
            return expected_bytes(fmt, self.n_rows, self.k, self.zeros)
        return storage_bytes(fmt, self.n_rows, self.k)


@dataclass(frozen=True)
class KernelRow:
    """One measured case.

    Attributes
    ----------
    case : Case
    isa, variant : str
        Instruction set asked for, and that of the kernel that serves it.
    n_threads, n_samples : int
    working_set_bytes : int
    ns : float
        Median time of one op.
    n_bytes, multiply_adds : int
        Work of one op.
    ceiling_bytes : int
        Bytes over which the read bandwidth was measured.
    read_bandwidth_gb_per_s, best_gmac_per_s : float
        Ceilings; `judge` makes them those of the whole run.
    """

    case: Case
    isa: str
    variant: str
    n_threads: int
    n_samples: int
    working_set_bytes: int
    ns: float
    n_bytes: int
    multiply_adds: int
    ceiling_bytes: int
    read_bandwidth_gb_per_s: float
    best_gmac_per_s: float = 0.0

    @property
    def gb_per_s(self) -> float:
        """10⁹ bytes of weights or cache a second."""
        return self.n_bytes / self.ns

    @property
    def gweights_per_s(self) -> float:
        """10⁹ weights (cache elements for attention) a second."""
        n = self.n_bytes / 2 if self.case.op == "attention" else self.case.n_rows * self.case.k
        return n / self.ns

    @property
    def gmac_per_s(self) -> float:
        """10⁹ multiply-adds a second."""
        return self.multiply_adds / self.ns

    @property
    def share(self) -> float:
        """Part of the ceiling: of bandwidth for one token, of the best arithmetic for several."""
        if self.case.n_tokens == 1:
            return self.gb_per_s / self.read_bandwidth_gb_per_s
        return self.gmac_per_s / self.best_gmac_per_s if self.best_gmac_per_s else 0.0

    def record(self) -> dict[str, Any]:
        """Give the row as flat values, for tables and JSON."""
        case = asdict(self.case)
        del case["heads"]
        return {
            **case,
            "op": self.case.op,
            "isa": self.isa,
            "variant": self.variant,
            "n_threads": self.n_threads,
            "n_samples": self.n_samples,
            "working_set_bytes": self.working_set_bytes,
            "us": round(self.ns / 1e3, 3),
            "gb_per_s": round(self.gb_per_s, 3),
            "gweights_per_s": round(self.gweights_per_s, 3),
            "gmac_per_s": round(self.gmac_per_s, 3),
            "read_bandwidth_gb_per_s": round(self.read_bandwidth_gb_per_s, 3),
            "best_gmac_per_s": round(self.best_gmac_per_s, 3),
            "ceiling": "read bandwidth" if self.case.n_tokens == 1 else "best multiply-adds",
            "share": round(self.share, 4),
        }


def memory_bytes() -> int:
    """Bytes that outgrow the last-level cache three times, between 96 MiB and 1 GiB."""
    return max(MIN_WORKING_SET, min(3 * last_level_cache_bytes(), MAX_WORKING_SET))


def shape_cases(name: str, shape: Shape, tokens: Sequence[int]) -> list[Case]:
    """List the kernels that a model of `shape` runs: its distinct matrices, head and attention."""
    cases = []
    seen: dict[tuple[int, int], str] = {}
    for tensor, size in shape.matrices().items():
        seen.setdefault(size, tensor)
    for (n_rows, k), tensor in seen.items():
        skips = tensor == "ffn_down" and shape.activation == "relu2"
        for fmt in (*TERNARY_FORMATS, *((Format.T2N,) if skips else ())):
            for n in tokens:
                cases.append(Case(fmt.name.lower(), f"{name} {tensor}", n_rows, k, n))
    size = shape.matrices()["ffn_up"]
    for fmt in (Format.Q8, Format.Q4):
        cases.append(Case(fmt.name.lower(), f"{name} ffn_up", *size, 1))
    pruned = [*itertools.product((Format.BMP8, Format.BMP4), ZEROS), (Format.CSR, CSR_ZEROS)]
    for fmt, zeros in [*pruned, (Format.NM8, 0.5), (Format.NM4, 0.5)]:
        where = f"{name} ffn_up, {zeros:.0%} zeros"
        cases.append(Case(fmt.name.lower(), where, *size, 1, zeros=zeros))
    rows = min(shape.n_vocab, MAX_HEAD_ROWS)
    cases += [Case(f.name.lower(), f"{name} head", rows, shape.width, 1) for f in HEAD_FORMATS]
    heads = (shape.n_heads, shape.n_kv_heads, shape.head_dim)
    return cases + _attention_cases(name, heads, min(DEPTH, shape.n_ctx // 2), tokens)


def _attention_cases(
    name: str, heads: tuple[int, int, int], depth: int, tokens: Iterable[int]
) -> list[Case]:
    rows = heads[0] * heads[2]
    return [Case("attention", f"{name} @ d{depth}", rows, depth, n, heads) for n in tokens]


def model_cases(
    name: str,
    weights: Iterable[tuple[str, Format, int, int, float]],
    heads: tuple[int, int, int],
    depth: int,
    tokens: Sequence[int],
) -> list[Case]:
    """List the kernels that a loaded model runs.

    Parameters
    ----------
    name : str
    weights : iterable of (tensor, format, n_rows, k, zeros)
        Zeros: share of codes that are 0, of formats without them only.
    heads : tuple of int
        Heads, kv heads, head_dim.
    depth : int
        Positions in the cache for attention.
    tokens : sequence of int
    """
    seen: dict[tuple[Format, int, int], tuple[str, float]] = {}
    for tensor, fmt, n_rows, k, zeros in weights:
        short = tensor.removesuffix(".weight")
        if short.startswith("blk."):
            short = short.split(".", 2)[-1]
        formats = TERNARY_FORMATS if fmt in TERNARY_FORMATS else (fmt,)
        for each in formats:
            seen.setdefault((each, n_rows, k), (short, zeros))
    cases = []
    for (fmt, n_rows, k), (tensor, zeros) in seen.items():
        large = n_rows > MAX_HEAD_ROWS  # a head: only the last token of a prompt goes through it
        for n in [n for n in tokens if n == 1] if large else tokens:
            size = (min(n_rows, MAX_HEAD_ROWS), k)
            cases.append(Case(fmt.name.lower(), f"{name} {tensor}", *size, n, zeros=zeros))
    return cases + _attention_cases(name, heads, depth, tokens)


def _micro(case: Case, working_set: int) -> Micro:
    n_copies = 1 if case.in_cache else max(1, -(-working_set // case.copy_bytes))
    if case.kernel == "attention":
        return attention_micro(*case.heads, n_tokens=case.n_tokens, depth=case.k, n_copies=n_copies)
    fmt = Format[case.kernel.upper()]
    return linear_micro(
        *(fmt, case.n_rows, case.k), n_tokens=case.n_tokens, n_copies=n_copies, zeros=case.zeros
    )


def measure_case(
    case: Case,
    *,
    isas: Sequence[str],
    threads: Sequence[int],
    working_set: int,
    budget_s: float,
) -> Iterator[KernelRow]:
    """Measure a case on every instruction set with every number of threads.

    Parameters
    ----------
    case : Case
    isas : sequence of str
    threads : sequence of int
    working_set : int
        Bytes that the copies of the weight fill together.
    budget_s : float
        Seconds for each row.

    Raises
    ------
    UsageError, MemoryBudgetError
        An instruction set does not run here; the weights do not fit.
    """
    micro = _micro(case, working_set)
    total = (micro.end - micro.begin) * micro.n_bytes
    for n_threads in threads:
        ceiling_bytes = total if case.in_cache else working_set
        bandwidth = working_set_bandwidth(n_threads, ceiling_bytes)
        for isa in isas:
            executor = NativeExecutor(micro.plan, micro.parameters, threads=n_threads, isa=isa)
            try:
                samples = _timed(executor, micro, budget_s)
            finally:
                executor.close()
            yield KernelRow(
                case,
                isa,
                _variant(isa, case.kernel),
                n_threads,
                len(samples),
                total,
                statistics.median(samples),
                micro.n_bytes,
                micro.multiply_adds,
                ceiling_bytes,
                bandwidth,
            )


def _timed(executor: Executor, micro: Micro, budget_s: float) -> list[int]:
    micro.prepare(executor)
    return time_ops(executor, micro, budget_s)


def _variant(isa: str, kernel: str) -> str:
    lib, ffi = _native.lib(), _native.ffi()
    if kernel != "attention" and Format[kernel.upper()].is_sliced:
        kernel = "lut"
    name = lib.es_kernel_variant(isa_names()[isa], kernel.encode())
    return "" if name == ffi.NULL else str(ffi.string(name).decode())


def judge(rows: Sequence[KernelRow]) -> list[KernelRow]:
    """Give every row the ceilings of the whole run: the best that its number of threads reached.

    That is the fastest read over as many bytes, and the most multiply-adds a second of any row.
    """
    reads: dict[tuple[int, int], float] = {}
    macs: dict[int, float] = {}
    for row in rows:
        key = (row.n_threads, row.ceiling_bytes)
        reads[key] = max(reads.get(key, 0.0), row.read_bandwidth_gb_per_s)
        macs[row.n_threads] = max(macs.get(row.n_threads, 0.0), row.gmac_per_s)
    return [
        replace(
            row,
            read_bandwidth_gb_per_s=reads[row.n_threads, row.ceiling_bytes],
            best_gmac_per_s=macs[row.n_threads],
        )
        for row in rows
    ]
