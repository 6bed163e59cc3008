"""``edgesparse bench --kernels`` and ``--profile``: the parts that a model's speed is made of."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgesparse.cli import loading
from edgesparse.errors import UsageError

if TYPE_CHECKING:
    from edgesparse.benchmark.cases import Case
    from edgesparse.benchmark.kernels import KernelRow
    from edgesparse.benchmark.profile import Profile
    from edgesparse.cli.terminal import Terminal

__all__ = ["kernels", "profile"]

_TOKENS = "1,8,64,512"
_ROW_SECONDS = 0.25
_MODEL_DEPTH = 1024
_MATRIX = re.compile(r"([1-9]\d{0,5})x([1-9]\d{0,5})")
"""Rows and columns."""


def kernels(args: argparse.Namespace, threads: Sequence[int], terminal: Terminal) -> int:
    """Measure kernels and print a row for each; return the exit code."""
    from edgesparse.benchmark.kernels import judge, measure_case, memory_bytes
    from edgesparse.benchmark.outputs import format_rows
    from edgesparse.executors.native import choose_isa, isa_names

    row_seconds = _ROW_SECONDS if args.row_seconds is None else args.row_seconds
    if not 0 < row_seconds <= 60:
        raise UsageError("--row-seconds takes a number above 0, at most 60.")
    isas = [choose_isa(args.isa)] if args.isa else list(isa_names())
    cases = _selected(args, _cases(args))
    working_set = memory_bytes()
    rows: list[KernelRow] = []
    for i, case in enumerate(cases):
        if terminal.interactive:
            terminal.progress(f"{i + 1} of {len(cases)}: {case.kernel}, {case.where}")
        rows += measure_case(
            case,
            isas=isas,
            threads=threads,
            working_set=working_set,
            budget_s=row_seconds,
        )
    terminal.progress("")
    records = [row.record() for row in judge(rows)]
    notes = (
        f"From memory: {working_set / 1e6:.0f} MB of weights in turn; from cache: one copy, or "
        "some of a small matrix. Share: one token, of this run's read bandwidth; several, of the "
        "most multiply-adds of any row. "
        "NMSE: of bit slices, on normal weights and inputs, against float64."
    )
    terminal.write(
        format_rows(records, args.output, table="kernels", columns=_KERNEL_COLUMNS, notes=notes)
    )
    return 0


def profile(args: argparse.Namespace, threads: Sequence[int], terminal: Terminal) -> int:
    """Profile a model's ops and print a table for each number of threads; return the exit code."""
    from edgesparse.benchmark.outputs import format_rows, markdown
    from edgesparse.benchmark.profile import profile as measure
    from edgesparse.cli.ranges import whole_numbers

    prompts = whole_numbers(args.n_prompt or ["256"], "-p", least=1)
    steps = whole_numbers(args.n_gen or ["32"], "-n", least=1)
    records: list[dict[str, Any]] = []
    for n_threads in threads:
        with loading.load_for_measuring(args, n_threads) as model:
            for n_prompt in prompts:
                for n_steps in steps:
                    found = measure(model, n_prompt=n_prompt, n_steps=n_steps)
                    rows = sorted(found.records(), key=lambda r: (r["phase"], -r["us_per_token"]))
                    records += rows
                    if args.output == "md":
                        terminal.write(f"{markdown(rows, _PROFILE_COLUMNS)}\n{_summary(found)}\n\n")
    if args.output != "md":
        terminal.write(format_rows(records, args.output, table="profile", columns=()))
    return 0


def _summary(found: Profile) -> str:
    return (
        f"threads: {found.n_threads}; {1e6 / found.token_us:.2f} tok/s decoded; "
        f"read bandwidth {found.read_bandwidth_gb_per_s:.1f} GB/s; {found.n_phases} phases with a "
        f"barrier of {found.barrier_ns:.0f} ns each, {found.barrier_share:.2%} of a token\n\n"
        f"quality: {found.quality}"
    )


def _cases(args: argparse.Namespace) -> list[Case]:
    """List what the model or the named shapes run."""
    from edgesparse.benchmark.cases import matrix_cases, shape_cases
    from edgesparse.benchmark.shapes import SHAPES
    from edgesparse.cli.ranges import whole_numbers

    tokens = whole_numbers(args.tokens or [_TOKENS], "--tokens", least=1)
    names = [name.strip() for name in (args.shapes or "").split(",") if name.strip()]
    if not names and loading.model_path(args):
        return _model_cases(args, tokens)
    cases: list[Case] = []
    for name in names or ["2b4t"]:
        size = _MATRIX.fullmatch(name)
        if size:
            cases += matrix_cases(int(size[1]), int(size[2]), tokens)
        elif name in SHAPES:
            cases += shape_cases(name, SHAPES[name], tokens)
        else:
            raise UsageError(
                f"there is no shape {name!r}.",
                advice=f"Known: {', '.join(SHAPES)}; or a matrix, such as 4096x4096.",
            )
    return list(dict.fromkeys(cases))


def _model_cases(args: argparse.Namespace, tokens: list[int]) -> list[Case]:
    from pathlib import Path

    from edgesparse.benchmark.cases import Stored, model_cases
    from edgesparse.formats.without_zeros import zero_share

    with loading.load_for_measuring(args, 1) as model:
        weights = [
            Stored(
                *(w.name, w.format, w.n_rows, w.k),
                zeros=zero_share(w) if w.format.is_sparse else 0.0,
                slices=w.slices,
            )
            for w in model.parameters.weights.values()
        ]
        config = model.config
        return model_cases(
            Path(model.info.path).stem,
            weights,
            (config.n_heads, config.n_kv_heads, config.head_dim),
            min(_MODEL_DEPTH, model.engine.n_ctx // 2),
            tokens,
        )


def _selected(args: argparse.Namespace, cases: list[Case]) -> list[Case]:
    """Keep the kernels that were asked for; add those with one copy where that was."""
    from dataclasses import replace

    from edgesparse.cpus import last_level_cache_bytes

    wanted = {name.strip() for name in (args.only or "").split(",") if name.strip()}
    unknown = wanted - {case.kernel for case in cases}
    if unknown:
        known = ", ".join(dict.fromkeys(case.kernel for case in cases))
        raise UsageError(
            f"--only: there is no {sorted(unknown)[0]!r} here.", advice=f"Known: {known}."
        )
    kept = [case for case in cases if not wanted or case.kernel in wanted]
    if args.in_cache:
        fits = last_level_cache_bytes() // 2
        kept += [replace(case, in_cache=True) for case in kept if case.copy_bytes <= fits]
    return kept


def _size(row: Any) -> str:
    separator = " @ " if row["kernel"] == "attention" else " × "
    return f"{row['n_rows']}{separator}{row['k']}"


def _kernel(row: Any) -> str:
    group = f"_g{row['group']}" if row["group"] else ""
    return f"{row['kernel']}{group}{' lossy' if row['lossy'] else ''}"


_KERNEL_COLUMNS = (
    ("kernel", False, _kernel),
    ("where", False, lambda row: str(row["where"])),
    ("size", True, _size),
    ("tokens", True, lambda row: str(row["n_tokens"])),
    ("isa", False, lambda row: str(row["isa"])),
    ("runs", False, lambda row: str(row["variant"])),
    ("threads", True, lambda row: str(row["n_threads"])),
    ("from", False, lambda row: "cache" if row["in_cache"] else "memory"),
    ("µs", True, lambda row: f"{row['us']:.1f}"),
    ("GB/s", True, lambda row: f"{row['gb_per_s']:.2f}"),
    ("G weights/s", True, lambda row: f"{row['gweights_per_s']:.1f}"),
    ("G mul-adds/s", True, lambda row: f"{row['gmac_per_s']:.1f}"),
    ("share", True, lambda row: f"{row['share']:.0%}"),
    ("of", False, lambda row: str(row["ceiling"])),
    ("NMSE", True, lambda row: "–" if row["nmse"] is None else f"{row['nmse']:.1e}"),
)
_PROFILE_COLUMNS = (
    ("phase", False, lambda row: str(row["phase"])),
    ("op", False, lambda row: str(row["op"])),
    ("formats", False, lambda row: str(row["formats"])),
    ("ops", True, lambda row: str(row["n_ops"])),
    ("µs/token", True, lambda row: f"{row['us_per_token']:.1f}"),
    ("share", True, lambda row: f"{row['share']:.1%}"),
    ("GB/s", True, lambda row: f"{row['gb_per_s']:.2f}" if row["n_bytes"] else "–"),
    ("of bandwidth", True, lambda row: f"{row['bandwidth_share']:.0%}" if row["n_bytes"] else "–"),
    ("G mul-adds/s", True, lambda row: f"{row['gmac_per_s']:.1f}"),
)
