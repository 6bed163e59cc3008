"""A text that a model writes itself, to calibrate on.

What a model says when nothing is asked is spread as what it was trained on is, which no text that
somebody chose is (Williams et al., 2024, arXiv 2410.17170). Pruned and quantised models that
learned from it lose less on texts of any kind (README.md has the figures).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgesparse.compress.work import fingerprint_of
from edgesparse.errors import Cancelled, UsageError
from edgesparse.whole_file import replace_file

if TYPE_CHECKING:
    from edgesparse.cancel import CancelToken
    from edgesparse.model import Model

__all__ = ["forget_own_text", "own_text", "write_own_text"]

_PIECE = 256
"""Tokens after which another piece begins."""
_MOST_SILENT = 64
"""Pieces in a row that may be empty."""


def own_text(
    model: Model,
    source: Path,
    output: Path,
    n_tokens: int,
    *,
    progress: Callable[[int, int], None] | None = None,
    cancel: CancelToken | None = None,
) -> str:
    """Return what a model says, and keep it beside the output that is being made.

    Parameters
    ----------
    model : Model
    source : Path
        Its file or folder.
    output : Path
        What the text is for: `forget_own_text` removes what is kept beside it.
    n_tokens : int
        How long it is to be, at least.
    progress : callable, optional
        progress(done, of), in tokens.
    cancel : CancelToken, optional

    Raises
    ------
    Cancelled
    UsageError
        The model says nothing.
    """
    kept, mark = _kept(output), fingerprint_of(source, {"own tokens": n_tokens})
    if kept.is_file():
        found, _, text = kept.read_text("utf-8").partition("\n")
        if found == mark:
            return text
    text = write_own_text(model, n_tokens, progress=progress, cancel=cancel)
    replace_file(kept, f"{mark}\n{text}")
    return text


def forget_own_text(output: Path) -> None:
    """Remove what `own_text` kept."""
    _kept(output).unlink(missing_ok=True)


def write_own_text(
    model: Model,
    n_tokens: int,
    *,
    progress: Callable[[int, int], None] | None = None,
    cancel: CancelToken | None = None,
) -> str:
    """Return pieces of up to 256 tokens, drawn at temperature 1 with seeds 0, 1, ….

    Parameters
    ----------
    model : Model
    n_tokens : int
        How many tokens the whole text has, at least.
    progress : callable, optional
        progress(done, of), in tokens.
    cancel : CancelToken, optional

    Raises
    ------
    Cancelled
    UsageError
        The model ends every piece before it began.
    """
    prompt = model.tokenize("", add_special=True) or model.tokenize("\n\n")
    most = max(1, min(_PIECE, model.engine.n_ctx - len(prompt)))
    as_it_is = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}
    pieces: list[str] = []
    done, silent, seed = 0, 0, 0
    while done < n_tokens:
        said = model.generate(
            prompt, cancel=cancel, max_tokens=most, seed=seed, loop_guard=False, **as_it_is
        )
        if said.finish_reason == "cancelled":
            raise Cancelled("stopped.")
        seed += 1
        n_more = len(model.tokenize(said.text, add_special=False))
        silent = 0 if n_more else silent + 1
        if silent == _MOST_SILENT:
            raise UsageError(
                "this model says nothing of its own accord.", advice="Name a text with -f FILE."
            )
        pieces.append(said.text)
        done += n_more
        if progress is not None:
            progress(min(done, n_tokens), n_tokens)
    return "\n\n".join(piece for piece in pieces if piece)


def _kept(output: Path) -> Path:
    return output.parent / f".{output.name}.text"
