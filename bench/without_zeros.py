"""Products with formats that leave zeros out, beside the dense formats with the same codes.

``python -m bench.without_zeros [--threads 1 2] [--isa avx2 avx512vnni] [--rounds 5]``: one token,
from memory (``--bytes`` of 4096 × 4096 matrices, 512 MB by default) and from cache (one of
512 × 2048). All formats of a table take turns in one process; medians, and speeds over the dense
format of as many bits.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

from edgesparse.benchmark.micro import Micro, linear_micro, time_ops
from edgesparse.benchmark.tokens import working_set_bandwidth
from edgesparse.executors.native import NativeExecutor
from edgesparse.formats.weight import Format

CASES = (
    (Format.Q8, 0.0),
    *((Format.BMP8, zeros) for zeros in (0.5, 0.7, 0.94)),
    (Format.NM8, 0.5),
    *((Format.CSR, zeros) for zeros in (0.9, 0.94, 0.97, 0.99)),
    (Format.Q4, 0.0),
    *((Format.BMP4, zeros) for zeros in (0.5, 0.7)),
    (Format.NM4, 0.5),
)
FOUR_BITS = (Format.Q4, Format.BMP4, Format.NM4)
BUDGET_S = 0.05


def _measure(micros: Sequence[Micro], isa: str, threads: int, rounds: int) -> list[list[float]]:
    """Give nanoseconds of every round for each."""
    executors = [NativeExecutor(m.plan, m.parameters, threads=threads, isa=isa) for m in micros]
    found: list[list[float]] = [[] for _ in micros]
    try:
        for executor, micro in zip(executors, micros, strict=True):
            micro.prepare(executor)
        for _ in range(rounds):
            for times, executor, micro in zip(found, executors, micros, strict=True):
                times.append(statistics.median(time_ops(executor, micro, BUDGET_S)))
    finally:
        for executor in executors:
            executor.close()
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--isa", nargs="+", default=["avx2", "avx512vnni"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bytes", type=int, default=512_000_000, help="of each format")
    parser.add_argument("--where", nargs="+", default=["cache", "memory"])
    parser.add_argument("--formats", nargs="+", help="q8 and q4 alone, and these")
    args = parser.parse_args(argv)
    wanted = None if args.formats is None else {"q8", "q4", *args.formats}
    cases = [case for case in CASES if wanted is None or case[0].name.lower() in wanted]
    for where in args.where:
        size = (512, 2048) if where == "cache" else (4096, 4096)
        micros = []
        for fmt, zeros in cases:
            one = linear_micro(fmt, *size, n_tokens=1, n_copies=1, zeros=zeros)
            n_copies = 1 if where == "cache" else -(-args.bytes // one.n_bytes)
            micros.append(linear_micro(fmt, *size, n_tokens=1, n_copies=n_copies, zeros=zeros))
        for isa in args.isa:
            for threads in args.threads:
                begin = time.perf_counter()
                read = working_set_bandwidth(threads, args.bytes)
                found = _measure(micros, isa, threads, args.rounds)
                print(f"\n{where}, {isa}, {threads} threads, reading {read:.1f} GB/s")
                medians = [statistics.median(times) for times in found]
                dense = {fmt: ns for (fmt, _), ns in zip(cases, medians, strict=True)}
                for (fmt, zeros), micro, ns, times in zip(
                    cases, micros, medians, found, strict=True
                ):
                    n = size[0] * size[1]
                    base = dense[Format.Q4 if fmt in FOUR_BITS else Format.Q8]
                    print(
                        f"{fmt.name.lower():5} {zeros:4.0%} zeros  {8 * micro.n_bytes / n:5.2f} "
                        f"bits  {n / ns:6.1f} G/s ({n / max(times):.1f} to {n / min(times):.1f})  "
                        f"{base / ns:5.2f}x  {micro.n_bytes / ns:5.1f} GB/s"
                    )
                print(f"({time.perf_counter() - begin:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
