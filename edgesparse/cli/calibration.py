"""The texts of ``edgesparse prune``: what is learned from, and what is scored."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgesparse.cli import options
from edgesparse.cli.own_text import OWN_WINDOWS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgesparse.cli.terminal import Terminal
    from edgesparse.model import Model
    from edgesparse.tokenizer import Tokenizer

__all__ = ["WINDOW", "WINDOWS", "Texts", "check_arguments", "load", "read"]

WINDOW = 512
WINDOWS = 32
"""Windows to learn from, but of the model's own words."""
_HELD_OUT = 4
"""Windows at the end of a text that are scored instead of learned from, if no other is named."""
_LEAST_SCORED = 2


@dataclass(frozen=True, eq=False)
class Texts:
    """Both texts in tokens.

    Attributes
    ----------
    windows : list of int32 ndarray
        To learn from.
    held_out : int32 ndarray
        To score; empty if nothing is.
    sha256 : str
        Of the text that is learned from.
    """

    windows: list[npt.NDArray[np.int32]]
    held_out: npt.NDArray[np.int32]
    sha256: str


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing, before anything is read.

    Raises
    ------
    UsageError
    """
    from edgesparse.cpus import resolve_threads
    from edgesparse.errors import UsageError

    if _n_windows(args) < 1:
        raise UsageError(f"--windows must be positive, not {args.windows}.")
    resolve_threads(args.threads)


def read(
    args: argparse.Namespace,
    source: Path,
    out: Path,
    tokenizer: Tokenizer,
    size: int,
    terminal: Terminal,
    learns: bool,
) -> Texts:
    """Return what is learned from and what is scored, in windows of `size` tokens.

    Raises
    ------
    UsageError
        A text is too short or cannot be read.
    Cancelled
        While the model was writing.
    """
    import hashlib

    import numpy as np

    from edgesparse.errors import UsageError

    held_out = np.zeros(0, np.int32)
    if args.evaluate is not None and not args.no_evaluate:
        other = options.read_prompt_file(args.evaluate).removesuffix("\n")
        held_out = np.asarray(tokenizer.encode(other, add_special=True), np.int32)
        if len(held_out) < _LEAST_SCORED * size:
            raise UsageError(
                f"{args.evaluate} has {len(held_out)} tokens; {_LEAST_SCORED * size} are needed to "
                "measure perplexity.",
                advice="Take a longer text.",
            )
    text = _text(args, source, out, size, terminal, learns=learns)
    ids = np.asarray(tokenizer.encode(text, add_special=True), np.int32)
    n_scored = _HELD_OUT * size if _scores_the_end(args) else 0
    if len(ids) < n_scored + size:
        scored = f", {n_scored} of them, at its end, to measure perplexity" if n_scored else ""
        raise UsageError(
            f"the text has {len(ids)} tokens; {n_scored + size} are needed{scored}.",
            advice="Take a longer text" + (", or name one to score with -e." if n_scored else "."),
        )
    if n_scored:
        ids, held_out = ids[:-n_scored], ids[-n_scored:]
    count = min(_n_windows(args), len(ids) // size)
    if learns and count < _n_windows(args) and not args.quiet:
        terminal.note(f"the text has {count} windows of {size} tokens, not {_n_windows(args)}")
    starts = np.linspace(0, len(ids) - size, count).astype(int)
    windows = [ids[start : start + size] for start in starts]
    return Texts(windows, held_out, hashlib.sha256(text.encode()).hexdigest())


def load(args: argparse.Namespace, path: Path) -> Model:
    """Load a model to measure perplexity with, or to let it write."""
    from edgesparse import _native
    from edgesparse.load_model import load

    executor = "native" if _native.available() else "portable"
    return load(path, threads=args.threads, executor=executor, head="exact")


def _text(
    args: argparse.Namespace,
    source: Path,
    out: Path,
    size: int,
    terminal: Terminal,
    *,
    learns: bool,
) -> str:
    """Return the text to learn from; the model writes none that nothing is learned from."""
    if not args.own_text or not (learns or _scores_the_end(args)):
        from edgesparse.sample_text import sample_text

        return sample_text() if args.file is None else options.read_prompt_file(args.file)
    from edgesparse.cli.own_text import written_by

    n_windows = _n_windows(args) + (_HELD_OUT if _scores_the_end(args) else 0)
    with load(args, source) as model:
        return written_by(model, source, out, n_windows * size, terminal)


def _scores_the_end(args: argparse.Namespace) -> bool:
    return not args.no_evaluate and args.evaluate is None


def _n_windows(args: argparse.Namespace) -> int:
    if args.windows is None:
        return OWN_WINDOWS if args.own_text else WINDOWS
    return int(args.windows)
