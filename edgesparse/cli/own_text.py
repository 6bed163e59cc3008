"""A text by the model itself, with progress, for the verbs that calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgesparse.cli.terminal import Terminal
    from edgesparse.model import Model

__all__ = ["OWN_WINDOWS", "written_by"]

OWN_WINDOWS = 48
"""Pieces of 512 tokens to calibrate on by default: on 32 of them SparseGPT loses to Wanda."""


def written_by(model: Model, source: Path, output: Path, n_tokens: int, terminal: Terminal) -> str:
    """Return `own_text`; Ctrl-C stops it.

    Raises
    ------
    Cancelled
    """
    from edgesparse.cancel import CancelToken
    from edgesparse.cli.interrupt import cancel_on_interrupt
    from edgesparse.cli.progress import Progress
    from edgesparse.compress.own_text import own_text

    token, progress = CancelToken(), Progress(terminal, "own text", "token")
    try:
        with cancel_on_interrupt(token):
            return own_text(
                *(model, source, output, n_tokens),
                progress=progress.show,
                cancel=token,
            )
    finally:
        progress.clear()
