"""``edgesparse bench``: llama-bench's rows and outputs, with the machine's ceiling in each."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from edgesparse.cli import options

if TYPE_CHECKING:
    from edgesparse.benchmark import Row
    from edgesparse.model import Model

__all__ = ["add_arguments", "run"]

_FORMATS = ("md", "csv", "json", "jsonl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    options.add_model(parser)
    parser.add_argument(
        "-p", "--n-prompt", default="512", metavar="LIST", help="prompt lengths (default 512)"
    )
    parser.add_argument(
        "-n", "--n-gen", default="128", metavar="LIST", help="generated lengths (default 128)"
    )
    parser.add_argument(
        "-d", "--n-depth", default="0", metavar="LIST", help="tokens already in the cache"
    )
    parser.add_argument(
        "-t", "--threads", dest="thread_list", default="", metavar="LIST", help="thread counts"
    )
    parser.add_argument(
        "-r", "--repetitions", type=int, default=5, metavar="N", help="repetitions (default 5)"
    )
    parser.add_argument("--no-warmup", action="store_true", help="time the first run too")
    parser.add_argument("--executor", choices=options.EXECUTORS, default="native")
    parser.add_argument("--isa", choices=options.ISAS, help="force an instruction set")
    options.add_sparse(parser)
    options.add_cache_types(parser)
    options.add_head(parser)
    parser.add_argument("-o", "--output", choices=_FORMATS, default="md", help="default: md")
    parser.add_argument("--json", action="store_const", const="json", dest="output")


def run(args: argparse.Namespace) -> int:
    """Measure every combination and print the rows; return the exit code."""
    from edgesparse.cli.terminal import Terminal
    from edgesparse.cpus import usable_cpus
    from edgesparse.model import load

    terminal = Terminal(color=not args.no_color)
    prompts, gens = _numbers(args.n_prompt, "-p"), _numbers(args.n_gen, "-n")
    depths = _numbers(args.n_depth, "-d")
    tests = [(p, 0) for p in prompts if p] + [(0, n) for n in gens if n]
    rows: list[dict[str, Any]] = []
    for threads in _numbers(args.thread_list, "-t") or [usable_cpus()]:
        with load(
            options.model_path(args),
            threads=threads,
            executor=args.executor,
            isa=args.isa,
            sparse=args.sparse,
            cache_type_k=args.cache_type_k,
            cache_type_v=args.cache_type_v,
            head=args.head,
        ) as model:
            for depth in depths:
                for n_prompt, n_gen in tests:
                    row = _measure(model, n_prompt, n_gen, depth, args)
                    rows.append(_record(model, row))
                    if args.output == "jsonl":
                        import json

                        terminal.write(json.dumps(rows[-1]) + "\n")
    if args.output != "jsonl":
        terminal.write(_FORMATTERS[args.output](rows))
    return 0


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


def _numbers(text: str, flag: str) -> list[int]:
    """Read ``1,2,8``; negative numbers and words are errors."""
    from edgesparse.errors import UsageError

    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"{flag} takes whole numbers separated by commas, not {text!r}.")
    return [int(part) for part in parts]


def _record(model: Model, row: Row) -> dict[str, Any]:
    """Give a row llama-bench's keys and ours."""
    import statistics
    import time
    from pathlib import Path

    import edgesparse
    from edgesparse.machine import cpu_name

    info, engine = model.info, model.engine
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
    }


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| model | backend | threads | test | t/s | bytes/token | GB/s | ceiling GB/s | share |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        decode = row["n_gen"] > 0
        share = f"{row['median_ts'] / row['ceiling_ts']:.0%}" if decode else "–"
        lines.append(
            f"| {row['model_filename']} | {row['backends']} | {row['n_threads']} | {row['test']} "
            f"| {row['avg_ts']:.2f} ± {row['stddev_ts']:.2f} "
            f"| {row['bytes_per_token'] / 1e6:.1f} MB "
            f"| {format(row['gb_per_s'], '.1f') if decode else '–'} "
            f"| {row['read_bandwidth_gb_per_s']:.1f} | {share} |"
        )
    notes = dict.fromkeys(row["quality"] for row in rows)
    return "\n".join([*lines, "", *(f"quality: {note}" for note in notes), ""])


def _csv(rows: list[dict[str, Any]]) -> str:
    import csv
    import io

    out = io.StringIO()
    keys = [key for key in rows[0] if not key.startswith("samples_")] if rows else []
    writer = csv.DictWriter(out, keys, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _json(rows: list[dict[str, Any]]) -> str:
    import json

    return json.dumps(rows, indent=2) + "\n"


_FORMATTERS = {"md": _markdown, "csv": _csv, "json": _json}
