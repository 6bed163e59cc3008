"""Load the model that the shared flags name, and say what is odd about it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgesparse.errors import UsageError

if TYPE_CHECKING:
    from edgesparse.cli.terminal import Terminal
    from edgesparse.model import Model

__all__ = [
    "load_for_measuring",
    "load_model",
    "model_path",
    "note_recommended",
    "print_warnings",
]


def load_model(args: argparse.Namespace, terminal: Terminal | None = None) -> Model:
    """Load the model that the flags name; put its warnings on stderr.

    With a terminal, say there that it is being loaded, while it is.

    Raises
    ------
    EdgesparseError
        It cannot be loaded.
    UsageError
        Two models are named.
    """
    path = model_path(args)
    import edgesparse

    if terminal is not None and terminal.interactive and not args.quiet:
        terminal.progress(f"loading {os.path.basename(path) if path else 'the default model'}")
    try:
        model: Model = edgesparse.load(
            path,
            threads=getattr(args, "threads", None),
            n_ctx=getattr(args, "ctx_size", None),
            fused=getattr(args, "fused", True),
            mmap=getattr(args, "mmap", False),
            **_engine_choices(args),
        )
    finally:
        if terminal is not None:
            terminal.progress("")
    print_warnings(model.info.warnings, args)
    return model


def load_for_measuring(args: argparse.Namespace, threads: int) -> Model:
    """Load the model that the flags name on so many threads; put its warnings on stderr."""
    return load_model(argparse.Namespace(**{**vars(args), "threads": threads}))


def _engine_choices(args: argparse.Namespace) -> dict[str, Any]:
    """Give what the flags of `add_engine` choose, of those that a verb has."""
    return {
        "executor": getattr(args, "executor", "native"),
        "i2s_layout": getattr(args, "i2s_layout", "auto"),
        "isa": getattr(args, "isa", None),
        "sparse": getattr(args, "sparse", "auto"),
        "sparsity": getattr(args, "sparsity", None),
        "cache_type_k": getattr(args, "cache_type_k", "f16"),
        "cache_type_v": getattr(args, "cache_type_v", "f16"),
        "kv_sparsity": getattr(args, "kv_sparsity", 0.0),
        "head": getattr(args, "head", "auto"),
        "ternary": getattr(args, "ternary", "auto"),
        "lut": getattr(args, "lut", "exact"),
        "weights": getattr(args, "weights", "auto"),
        "predict": _predict_file(args),
        "predict_force": getattr(args, "predict_force", False),
        "mem_budget": getattr(args, "mem_budget", None),
    }


def note_recommended(
    args: argparse.Namespace, model: Model, changes: Mapping[str, Any], terminal: Terminal
) -> None:
    """Say which settings come from the model: to a person, or when asked to be verbose."""
    if args.quiet or not (terminal.interactive or args.verbose):
        return
    text = model.info.recommended.describe(changes)
    if text:
        terminal.note(text)


def model_path(args: argparse.Namespace) -> str | None:
    """Give the model that the flags name; None means the default one.

    Raises
    ------
    UsageError
        Two models are named.
    """
    named: str | None = args.model
    flag: str | None = args.model_flag
    if named and flag and named != flag and flag != os.environ.get("EDGESPARSE_MODEL"):
        raise UsageError("two models are named.", advice="Give either MODEL or -m MODEL.")
    return named or flag


def print_warnings(warnings: Iterable[str], args: argparse.Namespace) -> None:
    """Put what is odd about a model on stderr, each sentence once."""
    if args.quiet:
        return
    from edgesparse.cli.terminal import printable

    for warning in dict.fromkeys(warnings):
        print(f"edgesparse: warning: {printable(warning)}", file=sys.stderr)


def _predict_file(args: argparse.Namespace) -> str | None:
    name: str | None = getattr(args, "predict", None)
    if name and name.lstrip("-").isdecimal() and not os.path.exists(name):
        raise UsageError(
            f"--predict takes a file of 'edgesparse calibrate', not {name}.",
            advice="-n limits the tokens of an answer.",
        )
    return name
