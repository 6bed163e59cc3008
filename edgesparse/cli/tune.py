"""``edgesparse tune``: measure which of several exact ways is the fastest here, and remember it.

Answers are printed as they come and kept at the end, also when that is Ctrl-C.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgesparse.cli import options

if TYPE_CHECKING:
    from pathlib import Path

    from edgesparse.cli.terminal import Terminal
    from edgesparse.tuning import Answer

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
    from edgesparse import tuning
    from edgesparse.cli.ranges import whole_numbers
    from edgesparse.cli.terminal import Terminal
    from edgesparse.cpus import default_threads, resolve_threads
    from edgesparse.errors import UsageError
    from edgesparse.executors.native import choose_isa

    if not 0 < args.seconds <= 60:
        raise UsageError("--seconds takes a number above 0, at most 60.")
    terminal = Terminal(color=not args.no_color)
    isa = choose_isa(args.isa)
    threads = whole_numbers([args.thread_list], "-t", least=1)
    threads = [resolve_threads(n) for n in threads] or sorted({1, default_threads()})
    if not (args.show or args.forget):
        return _measure(args, isa, threads, terminal)
    if args.forget:
        tuning.forget()
    path, problem = tuning.cache_file(), tuning.trouble()
    answers = [tuning.lookup(topic, isa, n) for topic in tuning.DEFAULTS for n in threads]
    left = args.forget and path is not None and path.exists()
    if args.output == "text":
        for answer in answers:
            terminal.write(_line(answer))
        if problem:
            terminal.write(f"not used: {problem}\n")
    _end(args, answers, path, f"not forgotten: {path} cannot be deleted" if left else "", terminal)
    return 1 if left else 0


def _measure(args: argparse.Namespace, isa: str, threads: Sequence[int], terminal: Terminal) -> int:
    """Ask every question, print and keep the answers; return the exit code."""
    from edgesparse import tuning
    from edgesparse.tuning_topics import n_questions, tune

    n, code = n_questions([isa], threads), 0
    answers: list[Answer] = []
    questions = tune([isa], threads, args.seconds)
    try:
        terminal.progress(f"measuring: 1 of {n}")
        for answer in questions:
            answers.append(answer)
            terminal.progress("")
            if args.output == "text":
                terminal.write(_line(answer))
            terminal.progress(f"measuring: {len(answers) + 1} of {n}" if len(answers) < n else "")
    except KeyboardInterrupt:
        terminal.progress("")
        terminal.note(f"interrupted: {len(answers)} of {n} measurements are done")
        code = 130
    place = tuning.cache_file()
    path, problem = tuning.remember(answers) if answers else place, ""
    if path is None:
        why = f"{place} cannot be written" if place else "no home directory; set XDG_CACHE_HOME"
        problem, code = f"not kept: {why}", code or 1
    elif answers and args.output == "text":
        terminal.write(f"kept in {path}\n")
    _end(args, answers, path, problem, terminal)
    return code


def _line(a: Answer) -> str:
    from edgesparse.tuning import counted

    return f"{a.topic:<12}{a.isa}, {counted(a.threads, 'thread')}: {a.choice} ({a.reason})\n"


def _end(
    args: argparse.Namespace,
    answers: Sequence[Answer],
    path: Path | None,
    problem: str,
    terminal: Terminal,
) -> None:
    """Print JSON if that is wanted, and what went wrong."""
    import json

    if args.output == "json":
        facts = {"file": str(path or ""), "answers": [describe(answer) for answer in answers]}
        terminal.write(json.dumps(facts) + "\n")
    if problem:
        terminal.note(problem)


def describe(answer: Answer) -> dict[str, Any]:
    """Give an answer as flat values."""
    return {
        "topic": answer.topic,
        "isa": answer.isa,
        "threads": answer.threads,
        "value": answer.value,
        "seconds": dict(answer.seconds),
        "reason": answer.reason,
    }
