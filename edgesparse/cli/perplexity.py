"""``edgesparse perplexity``: how well a model predicts a text, defined as in llama.cpp.

Progress and running values go to stderr, the final line to stdout.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from edgesparse.cli import loading, options

if TYPE_CHECKING:
    from edgesparse.model import Model
    from edgesparse.perplexity import Estimate, Misses

__all__ = ["add_arguments", "run"]

_WINDOW = 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    options.add_model(parser)
    parser.add_argument("-f", "--file", metavar="FILE", help="the text; '-' for stdin")
    parser.add_argument("--chunks", type=int, metavar="N", help="score only the first N windows")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("--json", action="store_const", const="json", dest="output")
    options.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Score the text; return the exit code."""
    from edgesparse.cli.terminal import Terminal
    from edgesparse.errors import UsageError
    from edgesparse.quality import EXACT, without_advice

    if args.file is None:
        raise UsageError("there is no text.", advice="Name one with -f FILE, or -f - for stdin.")
    if args.chunks is not None and args.chunks < 1:
        raise UsageError(f"--chunks must be positive, not {args.chunks}.")
    # The line end that closes a file is no part of its text.
    text = options.read_prompt_file(args.file).removesuffix("\n")
    n_ctx = _WINDOW if args.ctx_size is None else args.ctx_size
    model = loading.load_model(argparse.Namespace(**{**vars(args), "ctx_size": n_ctx}))
    with model:
        estimate, seconds = _score(model, text, args)
        found = _misses(model, text, args) if model.parameters.coarse is not None else None
        price = _price(model, text, args, estimate) if args.kv_sparsity else None
    terminal = Terminal(color=not args.no_color)
    if args.output == "json":
        terminal.write(_json(model, estimate, seconds, found, price) + "\n")
    else:
        final = f"PPL = {estimate.perplexity:.4f} +/- {estimate.uncertainty:.5f}"
        terminal.write(f"Final estimate: {final}\n")
        if model.info.quality != EXACT:
            terminal.write(f"Quality: {without_advice(model.info.quality)}\n")
        if price is not None:
            terminal.write(_describe_price(price))
        if found is not None:
            n_top = found.top_k * found.n
            terminal.write(
                f"Two-stage head: the best token was no candidate at {found.best} of {found.n} "
                f"positions ({found.best / found.n:.2%}), nor were {found.top} of the "
                f"{found.top_k} best of each ({found.top / n_top:.2%}); the estimate is that of "
                "the whole head\n"
            )
    return 0


def _price(
    model: Model, text: str, args: argparse.Namespace, estimate: Estimate
) -> dict[str, float]:
    """Score the text once more with whole keys and values; compare quality and memory."""
    from dataclasses import replace

    from edgesparse.engine import Engine
    from edgesparse.executors import make_executor
    from edgesparse.model import Model

    plan = model.engine.plan
    whole = replace(plan, sparse_rows=None)
    lossy = args.lut == "lossy"
    threads = model.engine.n_threads
    made = make_executor(
        args.executor, whole, model.parameters, threads=threads, isa=args.isa, lossy=lossy
    )
    engine = Engine(made, n_threads=threads)
    with Model(engine, model.tokenizer, model.config, model.parameters, model.info) as other:
        before, _ = _score(other, text, args)
    return {
        "kv_sparsity": args.kv_sparsity,
        "whole_kv_perplexity": before.perplexity,
        "perplexity_change": estimate.perplexity / before.perplexity - 1,
        "n_ctx": plan.n_ctx,
        "kv_bytes": plan.cache_bytes(plan.n_ctx),
        "whole_kv_bytes": whole.cache_bytes(plan.n_ctx),
    }


def _describe_price(price: dict[str, float]) -> str:
    ratio = price["kv_bytes"] / price["whole_kv_bytes"]
    return (
        f"Keys and values pruned by {price['kv_sparsity']:.0%}: perplexity "
        f"{price['whole_kv_perplexity']:.4f} without, {price['perplexity_change']:+.2%} with; "
        f"the cache of {price['n_ctx']} positions takes {price['kv_bytes'] / 1e6:.1f} MB instead "
        f"of {price['whole_kv_bytes'] / 1e6:.1f} ({ratio:.0%})\n"
    )


def _score(model: Model, text: str, args: argparse.Namespace) -> tuple[Estimate, float]:
    from edgesparse.perplexity import windows

    ids = model.tokenize(text, add_special=True)
    begin = time.perf_counter()
    estimates = windows(model, ids, model.engine.n_ctx, max_windows=args.chunks)
    for estimate in estimates:
        if args.quiet:
            continue
        if estimate.n_windows == 1:
            each = time.perf_counter() - begin
            left = int(each * (estimate.of_windows - 1))
            clock = f"{left // 60} minutes {left % 60} seconds"
            print(f"perplexity: {each:.2f} seconds per pass - ETA {clock}", file=sys.stderr)
        item = f"[{estimate.n_windows}]{estimate.perplexity:.4f},"
        print(item, end="", file=sys.stderr, flush=True)
    if not args.quiet:
        print(file=sys.stderr)
    return estimate, time.perf_counter() - begin


def _misses(model: Model, text: str, args: argparse.Namespace) -> Misses:
    from edgesparse.perplexity import candidate_misses

    ids = model.tokenize(text, add_special=True)
    return candidate_misses(model, ids, model.engine.n_ctx, max_windows=args.chunks)


def _json(
    model: Model,
    estimate: Estimate,
    seconds: float,
    found: Misses | None,
    price: dict[str, float] | None,
) -> str:
    import json
    from dataclasses import asdict

    return json.dumps(
        {
            "model_filename": model.info.path,
            "executor": model.engine.executor_name,
            "n_threads": model.engine.n_threads,
            "n_ctx": model.engine.n_ctx,
            "weight_formats": model.info.formats,
            "quality": model.info.quality,
            **asdict(estimate),
            "seconds": seconds,
            **(price or {}),
            **(
                {}
                if found is None
                else {
                    "candidate_misses": found.best,
                    "candidates_tried": found.n,
                    "candidate_top_k": found.top_k,
                    "candidate_top_k_misses": found.top,
                }
            ),
        }
    )
