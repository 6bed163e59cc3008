"""``edgesparse verify``: lockstep of two executors, bit by bit, op by op."""

from __future__ import annotations

import argparse

from edgesparse.cli import loading, options

__all__ = ["add_arguments", "run"]

_TEXT = "The quick brown fox jumps over the lazy dog. 12345 + 67890 = ?\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    options.add_model(parser)
    options.add_engine(parser)
    parser.add_argument(
        "--against",
        choices=("reference", "portable", "native"),
        default="reference",
        help="executor to compare with (default: reference)",
    )
    parser.add_argument("-p", "--prompt", default=_TEXT, metavar="TEXT", help="text to run")
    parser.add_argument(
        "--chunk", type=int, default=7, metavar="N", help="tokens per step (default: 7)"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("--json", action="store_const", const="json", dest="output")


def run(args: argparse.Namespace) -> int:
    """Print what was compared; return 0 when all bits agree, 1 otherwise."""
    import dataclasses
    import json

    from edgesparse.cli.terminal import Terminal
    from edgesparse.errors import UsageError
    from edgesparse.executors import make_executor
    from edgesparse.executors.lockstep import lockstep

    with loading.load_model(args) as model:
        engine = model.engine
        if not 1 <= args.chunk <= engine.max_tokens:
            raise UsageError(f"--chunk must be between 1 and {engine.max_tokens}.")
        tokens = model.tokenize(args.prompt, add_special=True)[: engine.n_ctx]
        if not tokens:
            raise UsageError("--prompt is empty.")
        other = make_executor(args.against, engine.plan, model.parameters, threads=engine.n_threads)
        report = lockstep(engine.executor, other, tokens, chunk=args.chunk)
        other.close()
    terminal = Terminal(color=not args.no_color)
    names = f"{engine.executor_name} and {args.against}"
    if args.output == "json":
        data = {"left": engine.executor_name, "right": args.against, "tokens": len(tokens)}
        terminal.write(json.dumps(data | dataclasses.asdict(report)) + "\n")
    elif report.difference is None:
        terminal.write(
            f"{names} agree bit for bit: {len(tokens)} tokens, {report.n_ops} ops, "
            f"{report.n_values:,} values\n"
        )
    else:
        d = report.difference
        terminal.write(
            f"{names} differ first at op {d.index} ({d.op}), {d.where}[{d.token}, {d.element}]: "
            f"{d.left!r} against {d.right!r}; {d.n_different} values of this op differ\n"
        )
    return 0 if report.difference is None else 1
