"""Single kernels: every storage format and attention, by shape, tokens, instruction set, threads.

A row says how many bytes of weights (or cache) and how many multiply-adds a second one op does.
Its ceiling is, for one token, the read bandwidth measured in the same run with the same threads
over a working set of the same size; for several tokens, the most multiply-adds a second that any
row of the run reached with the same threads.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgesparse import _native
from edgesparse.benchmark.cases import Case
from edgesparse.benchmark.lookup_error import lookup_error
from edgesparse.benchmark.micro import Micro, attention_micro, linear_micro, time_ops
from edgesparse.benchmark.tokens import working_set_bandwidth
from edgesparse.cpus import last_level_cache_bytes
from edgesparse.executors.base import Executor
from edgesparse.executors.native import NativeExecutor, isa_names
from edgesparse.formats.weight import Format

__all__ = ["KernelRow", "judge", "measure_case", "memory_bytes"]

MAX_COPIES = 1 << 14
"""Copies of a small matrix, which then come from a cache: each is an op and an allocation."""
MIN_WORKING_SET = 96 << 20
MAX_WORKING_SET = 1 << 30


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
    nmse : float or None
        Bit slices: `lookup_error` of such a product.
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
    nmse: float | None = None

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
        del case["heads"], case["slices"]
        return {
            **case,
            "group": 0 if self.case.slices is None else self.case.slices.group or self.case.k,
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
            "share": float(f"{self.share:.4g}"),
            "nmse": self.nmse,
        }


def memory_bytes() -> int:
    """Bytes that outgrow the last-level cache three times, between 96 MiB and 1 GiB."""
    return max(MIN_WORKING_SET, min(3 * last_level_cache_bytes(), MAX_WORKING_SET))


def _n_copies(case: Case, working_set: int) -> int:
    return 1 if case.in_cache else max(1, -(-working_set // case.copy_bytes))


def _micro(case: Case, working_set: int) -> Micro:
    n_copies = min(_n_copies(case, working_set), MAX_COPIES)
    if case.kernel == "attention":
        return attention_micro(*case.heads, n_tokens=case.n_tokens, depth=case.k, n_copies=n_copies)
    fmt = Format[case.kernel.upper()]
    return linear_micro(
        *(fmt, case.n_rows, case.k),
        n_tokens=case.n_tokens,
        n_copies=n_copies,
        slices=case.slices,
        zeros=case.zeros,
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
    nmse = None
    if case.slices is not None:
        nmse = lookup_error(Format[case.kernel.upper()].planes, lossy=case.lossy)
    micro = _micro(case, working_set)
    total = (micro.end - micro.begin) * micro.n_bytes
    if _n_copies(case, working_set) > MAX_COPIES:
        case = replace(case, in_cache=True)
    for n_threads in threads:
        ceiling_bytes = total if case.in_cache else working_set
        bandwidth = working_set_bandwidth(n_threads, ceiling_bytes)
        for isa in isas:
            executor = NativeExecutor(
                micro.plan, micro.parameters, threads=n_threads, isa=isa, lossy=case.lossy
            )
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
                nmse=nmse,
            )


def _timed(executor: Executor, micro: Micro, budget_s: float) -> list[int]:
    micro.prepare(executor)
    return time_ops(executor, micro, budget_s)


def _variant(isa: str, kernel: str) -> str:
    lib, ffi = _native.lib(), _native.ffi()
    if kernel != "attention" and Format[kernel.upper()].is_sliced:
        kernel = "mad" if Format[kernel.upper()].is_column else "lut"
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
