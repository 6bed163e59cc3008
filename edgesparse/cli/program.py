"""Command line → verb → exit code; the one place where errors become messages."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from edgesparse.cli.verbs import VERBS, find
from edgesparse.errors import EdgesparseError, MemoryBudgetError

__all__ = ["run"]

_INTERRUPTED = 130
_CLOSED_PIPE = 141  # 128 + SIGPIPE, as a shell reports it
_HELP = ("-h", "--help", "help")


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Returns
    -------
    int
        0 done; 1 failed; 2 wrong usage; 3 the model cannot be read; 4 no memory; 130 interrupted;
        141 whoever read the output went away.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        # Bytes that are no text, on the way in or out, are shown as such: they are no failure.
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse, after its message
        return stop.code if isinstance(stop.code, int) else 1
    except BrokenPipeError:
        # Python flushes stdout once more at exit: let that go nowhere.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        return _CLOSED_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED
    except MemoryError:
        return _fail(MemoryBudgetError("there is not enough memory."), debug)
    except EdgesparseError as error:
        return _fail(error, debug)
    except OSError as error:  # a full disk behind stdout, for one
        return _fail(
            EdgesparseError(f"{error.filename or 'output'}: {error.strerror or error}."), debug
        )


def _dispatch(arguments: list[str]) -> int:
    if not arguments or (arguments[0] in _HELP and not arguments[1:]):
        print(_overview(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] == "help" and arguments[1:]:
        arguments = [arguments[1], "--help"]  # 'help VERB' is 'VERB --help'
    name = arguments[0]
    if name == "--version":
        print(_version())
        return 0
    verb = find(name)
    if verb is None:
        print(_unknown(name), file=sys.stderr)
        return 2
    module = importlib.import_module(f"edgesparse.cli.{verb.name}")
    # Imported here: a typing error costs no more than the table.
    from edgesparse.cli.options import add_common, apply_environment

    parser = argparse.ArgumentParser(
        f"edgesparse {name}", description=_sentence(verb.summary), allow_abbrev=False
    )
    module.add_arguments(parser)
    add_common(parser)
    apply_environment(parser, os.environ)
    args = parser.parse_args(arguments[1:])
    code: int = module.run(args)
    return code


def _fail(error: EdgesparseError, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    else:
        from edgesparse.cli.terminal import printable

        print(f"edgesparse: {printable(str(error))}", file=sys.stderr)
    return error.exit_code


def _overview() -> str:
    width = max(len(verb.name) for verb in VERBS)
    rows = "\n".join(f"  {verb.name:<{width}}  {verb.summary}" for verb in VERBS)
    return (
        "usage: edgesparse VERB [MODEL] [options]\n\n"
        "Ternary and sparse language models on ordinary CPUs.\n\n"
        f"{rows}\n\n"
        "Without MODEL the default model is used. 'edgesparse VERB --help' lists the options of\n"
        "a verb, 'edgesparse --version' says what is installed."
    )


def _unknown(name: str) -> str:
    import difflib

    from edgesparse.cli.terminal import printable

    if name.lower().endswith(".gguf") or os.path.isdir(name):
        advice = f"did you mean 'edgesparse chat {printable(name)}'?"
        return f"edgesparse: '{printable(name)}' is a model, not a verb; {advice}"
    names = [known for verb in VERBS for known in (verb.name, *verb.aliases)]
    near = difflib.get_close_matches(name, names, n=1)
    advice = f"did you mean '{near[0]}'?" if near else "'edgesparse --help' lists the verbs."
    return f"edgesparse: there is no verb '{printable(name)}'; {advice}"


def _version() -> str:
    from importlib import metadata

    from edgesparse import _native

    try:
        version = metadata.version("edgesparse")
    except metadata.PackageNotFoundError:
        version = "(not installed)"
    reason = _native.why_not()
    native = f"not available: {reason}" if reason else "built"
    python = ".".join(map(str, sys.version_info[:3]))
    return f"edgesparse {version}\nPython {python} on {sys.platform}\nnative engine {native}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
