"""Passes over a text: every window of it is a fresh sequence in one step of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgesparse.errors import UsageError
from edgesparse.executors.base import KVCache, Step

if TYPE_CHECKING:
    from edgesparse.engine import Engine
    from edgesparse.model import Model

__all__ = ["WINDOW", "Window", "require_dense", "windows_of"]

WINDOW = 512
"""Tokens of a window, at most: what fits into one step."""


@dataclass(frozen=True, eq=False)
class Window:
    """One sequence of the text.

    Attributes
    ----------
    tokens : int32 ndarray, shape (n,)
    """

    tokens: npt.NDArray[np.int32]

    def step(self, engine: Engine, cache: KVCache) -> Step:
        """Return the step that runs the window from the beginning; no logits are wanted."""
        n = len(self.tokens)
        return Step(
            tokens=self.tokens,
            positions=np.arange(n, dtype=np.int32),
            sequences=np.zeros(n, np.int32),
            outputs=np.zeros(0, np.int32),
            caches=[cache],
            logits=np.empty((0, engine.n_vocab), np.float32),
        )


def require_dense(model: Model) -> None:
    """Refuse a mixture of experts, whose tokens read a part of the weights to begin with.

    Raises
    ------
    UsageError
    """
    if model.config.experts is not None:
        raise UsageError(
            "a mixture of experts is not calibrated: it skips by choosing experts.",
            advice="Run it as it is; zeros of its activations are skipped all the same.",
        )


def windows_of(
    model: Model, ids: Sequence[int], *, max_tokens: int | None, least: int
) -> list[Window]:
    """Cut a text into windows; a last piece of fewer than `least` tokens is left out.

    Parameters
    ----------
    model : Model
    ids : sequence of int
        Tokens of the text.
    max_tokens : int, optional
        Use only so many.
    least : int

    Raises
    ------
    UsageError
        The text, the context or a step of the engine is shorter than `least`.
    """
    size = min(WINDOW, model.engine.n_ctx, model.engine.max_tokens)
    if size < least:
        raise UsageError(
            f"a window of the text has {size} tokens at most; {least} are needed.",
            advice="Let fewer tokens stay dense." if least > WINDOW else "Choose a larger context.",
        )
    tokens = np.asarray(ids[:max_tokens], np.int32)
    pieces = [tokens[i : i + size] for i in range(0, len(tokens), size)]
    found = [Window(piece) for piece in pieces if len(piece) >= least]
    if not found:
        raise UsageError(
            f"the text has {len(tokens)} tokens; at least {least} are needed.",
            advice="Take a longer text.",
        )
    return found
