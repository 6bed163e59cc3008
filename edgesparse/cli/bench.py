"""``edgesparse bench``: llama-bench's rows and outputs, with the machine's ceiling in each.

``--kernels`` and ``--profile`` measure single kernels and single ops instead: `bench_parts`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from edgesparse.cli import loading, options

if TYPE_CHECKING:
    from edgesparse.benchmark import Row
    from edgesparse.model import Model
    from edgesparse.throttle import Throttle

__all__ = ["add_arguments", "run"]

_FORMATS = ("md", "csv", "json", "jsonl", "sql")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    options.add_model(parser)
    lists = parser.add_argument_group(
        "what to measure",
        "A LIST is numbers and ranges separated by commas: 1,2,8 or 1-4 or 1-8+2 or 1-8*2. "
        "Flags may be repeated; every combination is measured.",
    )

    def add_list(*names: str, text: str, dest: str | None = None) -> None:
        extra: dict[str, Any] = {"dest": dest} if dest else {}
        lists.add_argument(*names, action="append", metavar="LIST", help=text, **extra)

    add_list("-p", "--n-prompt", text="prompt lengths (default 512)")
    add_list("-n", "--n-gen", text="generated lengths (default 128)")
    lists.add_argument(
        "-pg", "--pg", action="append", metavar="P,N", help="a prompt of P, then N generated"
    )
    add_list("-d", "--n-depth", text="tokens already in the cache (default 0)")
    add_list("-t", "--threads", text="thread counts", dest="thread_list")
    lists.add_argument(
        "-r", "--repetitions", type=int, default=5, metavar="N", help="repetitions (default 5)"
    )
    lists.add_argument("--no-warmup", action="store_true", help="time the first run too")
    parts = parser.add_argument_group("single parts instead of whole models")
    parts.add_argument(
        "--kernels",
        action="store_true",
        help="every kernel by shape, tokens, instruction set and threads",
    )
    parts.add_argument(
        "--profile",
        action="store_true",
        help="time by kind of op, of decoding and of a prompt, and what barriers take",
    )
    parts.add_argument(
        "--shapes",
        metavar="NAMES",
        help="for --kernels: 2b4t, 700m, falcon-e-1b, smolbit, or a matrix such as 4096x4096 "
        "(default 2b4t, or the MODEL's)",
    )
    parts.add_argument(
        "--tokens",
        action="append",
        metavar="LIST",
        help="for --kernels: tokens in one product (default 1,8,64,512)",
    )
    parts.add_argument(
        "--only", metavar="NAMES", help="for --kernels: of t2, t5, q8, q4, bs2, …, attention"
    )
    parts.add_argument(
        "--in-cache", action="store_true", help="for --kernels: also with one copy of each weight"
    )
    parts.add_argument(
        "--row-seconds",
        type=float,
        metavar="S",
        help="for --kernels: time for each row (default 0.25)",
    )
    parser.add_argument("--executor", choices=options.EXECUTORS, default="native")
    parser.add_argument("--isa", choices=options.ISAS, help="force an instruction set")
    options.add_i2s_layout(parser)
    options.add_sparse(parser)
    options.add_thresholds(parser)
    options.add_predict(parser)
    options.add_cache_types(parser)
    options.add_head(parser)
    options.add_ternary(parser)
    options.add_lut(parser)
    options.add_weights(parser)
    options.add_mem_budget(parser)
    parser.add_argument("-o", "--output", choices=_FORMATS, default="md", help="default: md")
    parser.add_argument("--json", action="store_const", const="json", dest="output")


def run(args: argparse.Namespace) -> int:
    """Measure every combination and print the rows; return the exit code."""
    from edgesparse.benchmark.outputs import format_rows
    from edgesparse.cli.ranges import number_pairs, whole_numbers
    from edgesparse.cli.terminal import Terminal
    from edgesparse.cpus import default_threads, resolve_threads
    from edgesparse.errors import UsageError
    from edgesparse.throttle import read_throttle

    terminal = Terminal(color=not args.no_color)
    threads = whole_numbers(args.thread_list or [], "-t", least=1) or [default_threads()]
    threads = [resolve_threads(n) for n in threads]
    _refuse_misplaced(args)
    if args.kernels or args.profile:
        from edgesparse.cli import bench_parts

        measure = bench_parts.kernels if args.kernels else bench_parts.profile
        return measure(args, threads, terminal)
    prompts = whole_numbers(args.n_prompt or ["512"], "-p")
    gens = whole_numbers(args.n_gen or ["128"], "-n")
    tests = [(p, 0) for p in prompts if p] + [(0, n) for n in gens if n]
    tests += number_pairs(args.pg or [], "-pg")
    if not tests:
        raise UsageError("there is nothing to measure.", advice="Give -p, -n or -pg above 0.")
    depths = whole_numbers(args.n_depth or ["0"], "-d")
    rows: list[dict[str, Any]] = []
    before = read_throttle()
    for n_threads in threads:
        with loading.load_for_measuring(args, n_threads) as model:
            for depth in depths:
                for n_prompt, n_gen in tests:
                    row = _measure(model, n_prompt, n_gen, depth, args)
                    rows.append(_record(model, row))
                    if args.output == "jsonl":
                        terminal.write(format_rows(rows[-1:], "jsonl", table="", columns=()))
    if args.output != "jsonl":
        notes = "\n".join(
            [f"quality: {q}" for q in dict.fromkeys(row["quality"] for row in rows)]
            + _throttling(before, read_throttle())
        )
        terminal.write(
            format_rows(rows, args.output, table="llama_bench", columns=_COLUMNS, notes=notes)
        )
    return 0


def _refuse_misplaced(args: argparse.Namespace) -> None:
    """Refuse flags of one kind of measurement with another: they would change nothing."""
    from edgesparse.errors import UsageError

    if args.kernels and args.profile:
        raise UsageError("--kernels and --profile are two different measurements.")
    only_kernels = {
        "--shapes": args.shapes,
        "--tokens": args.tokens,
        "--only": args.only,
        "--in-cache": args.in_cache or None,
        "--row-seconds": args.row_seconds,
    }
    only_models = {"-pg": args.pg, "-d": args.n_depth}
    if args.kernels:
        only_models |= {"-p": args.n_prompt, "-n": args.n_gen}
    for flag, value in ({} if args.kernels else only_kernels).items():
        if value is not None:
            raise UsageError(f"{flag} is for --kernels, which is not given.")
    for flag, value in (only_models if args.kernels or args.profile else {}).items():
        if value is not None:
            other = "--kernels" if args.kernels else "--profile"
            raise UsageError(f"{flag} has nothing to decide with {other}.")


def _throttling(before: Throttle, after: Throttle) -> list[str]:
    """Say how hot the machine was, and whether it held its processor back meanwhile."""
    lines = [
        f"{when}: {state.describe()}"
        for when, state in (("before", before), ("after", after))
        if state.describe()
    ]
    if {*before.now, *after.now} or set(after.since_boot) - set(before.since_boot):
        lines.append("THROTTLED while measuring: these speeds are lower than the board's")
    return lines


def _measure(model: Model, n_prompt: int, n_gen: int, depth: int, args: argparse.Namespace) -> Row:
    from edgesparse.benchmark import measure
    from edgesparse.plan.cost import bytes_per_token

    return measure(
        model.engine,
        lambda position, read: bytes_per_token(model.engine.plan, model.parameters, position, read),
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_depth=depth,
        repetitions=args.repetitions,
        warmup=not args.no_warmup,
    )


def _record(model: Model, row: Row) -> dict[str, Any]:
    """Give a row llama-bench's keys and ours."""
    import statistics
    import time
    from pathlib import Path

    import edgesparse
    from edgesparse.machine import cpu_name
    from edgesparse.throttle import read_throttle

    info, engine = model.info, model.engine
    throttle = read_throttle()
    isa = getattr(engine.executor, "isa", "")
    return {
        "build_commit": "edgesparse",
        "build_number": edgesparse.__version__,
        "cpu_info": cpu_name(),
        "gpu_info": "",
        "backends": f"{engine.executor_name} {isa}".strip(),
        "model_filename": Path(info.path).name,
        "model_type": f"{info.architecture} {info.formats}",
        "model_size": info.weight_bytes,
        "model_n_params": info.n_parameters,
        "n_batch": engine.max_tokens,
        "n_ubatch": engine.max_tokens,
        "n_threads": row.n_threads,
        "type_k": engine.plan.cache_type_k.name.lower(),
        "type_v": engine.plan.cache_type_v.name.lower(),
        "kv_sparsity": 0.0 if engine.plan.sparse_rows is None else engine.plan.sparse_rows.sparsity,
        "n_prompt": row.n_prompt,
        "n_gen": row.n_gen,
        "n_depth": row.n_depth,
        "test": row.name,
        "test_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "avg_ns": round(statistics.fmean(row.samples_ns)),
        "stddev_ns": round(statistics.stdev(row.samples_ns)) if len(row.samples_ns) > 1 else 0,
        "avg_ts": round(row.avg_ts, 3),
        "stddev_ts": round(row.stddev_ts, 3),
        "median_ts": round(row.median_ts, 3),
        "samples_ns": list(row.samples_ns),
        "samples_ts": [round(ts, 3) for ts in row.samples_ts],
        "bytes_per_token": row.bytes_per_token,
        "gb_per_s": round(row.gb_per_s, 3),
        "read_bandwidth_gb_per_s": round(row.read_bandwidth_gb_per_s, 3),
        "ceiling_ts": round(row.ceiling_ts, 3),
        "quality": info.quality,
        "throttle_bits": throttle.bits,
        "temperature_c": max(throttle.temperatures.values(), default=None),
    }


def _share(row: Any) -> str:
    return f"{row['median_ts'] / row['ceiling_ts']:.0%}" if row["ceiling_ts"] else "–"


_COLUMNS = (
    ("model", False, lambda row: str(row["model_filename"])),
    ("backend", False, lambda row: str(row["backends"])),
    ("threads", True, lambda row: str(row["n_threads"])),
    ("test", True, lambda row: str(row["test"])),
    ("t/s", True, lambda row: f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}"),
    ("bytes/token", True, lambda row: f"{row['bytes_per_token'] / 1e6:.1f} MB"),
    ("GB/s", True, lambda row: f"{row['gb_per_s']:.1f}" if row["gb_per_s"] else "–"),
    ("ceiling GB/s", True, lambda row: f"{row['read_bandwidth_gb_per_s']:.1f}"),
    ("share", True, _share),
)
