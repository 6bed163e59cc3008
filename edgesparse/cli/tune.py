"""``edgesparse tune``: measure which of several exact ways is the fastest here, and remember it."""

from __future__ import annotations

import argparse
from typing import Any

from edgesparse.cli import options

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    parser.add_argument(
        "-t",
        "--threads",
        dest="thread_list",
        default="",
        metavar="LIST",
        help="thread counts (default: 1 and what models use by default)",
    )
    parser.add_argument("--isa", choices=options.ISAS, help="default: the best of this machine")
    parser.add_argument(
        "--seconds", type=float, default=1.0, metavar="S", help="for each measurement (default 1)"
    )
    parser.add_argument("--show", action="store_true", help="measure nothing, show what is known")
    parser.add_argument("--forget", action="store_true", help="delete what is known")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("--json", action="store_const", const="json", dest="output")


def run(args: argparse.Namespace) -> int:
    """Measure, remember and print; return the exit code."""
    import json

    from edgesparse import tuning
    from edgesparse.cli.ranges import whole_numbers
    from edgesparse.cli.terminal import Terminal
    from edgesparse.cpus import default_threads
    from edgesparse.errors import UsageError
    from edgesparse.executors.native import choose_isa

    if not 0 < args.seconds <= 60:
        raise UsageError("--seconds takes a number above 0, at most 60.")
    terminal = Terminal(color=not args.no_color)
    isa = choose_isa(args.isa)
    threads = whole_numbers([args.thread_list], "-t", least=1)
    threads = threads or sorted({1, default_threads()})
    if args.forget:
        tuning.forget()
    if args.show or args.forget:
        answers = [tuning.lookup(topic, isa, n) for topic in tuning.DEFAULTS for n in threads]
        path = tuning.cache_file()
    else:
        from edgesparse.tuning_topics import tune

        answers = list(tune([isa], threads, args.seconds))
        path = tuning.remember(answers)
    if args.output == "json":
        facts = {"file": str(path or ""), "answers": [describe(answer) for answer in answers]}
        terminal.write(json.dumps(facts) + "\n")
        return 0
    for a in answers:
        terminal.write(f"{a.topic:<12}{a.isa}, {a.threads} threads: {a.choice} ({a.reason})\n")
    if path is None:
        terminal.write("not kept: the cache directory cannot be written\n")
    elif not (args.show or args.forget):
        terminal.write(f"kept in {path}\n")
    return 0


def describe(answer: Any) -> dict[str, Any]:
    """Give an answer as flat values."""
    return {
        "topic": answer.topic,
        "isa": answer.isa,
        "threads": answer.threads,
        "value": answer.value,
        "seconds": dict(answer.seconds),
        "reason": answer.reason,
    }
