"""Perplexity of a text under a model, by the definition of llama.cpp's ``llama-perplexity``.

The text is cut into windows of `n_ctx` tokens that do not overlap; a last piece that is too short
is left out. Each window starts afresh. Where the model wants a BOS token, it takes the place of the
window's first token. Of every window only the second half is scored, so that each scored token has
at least half a window of context: positions n_ctx/2 … n_ctx − 2 predict their successors.
Thresholds, where the model was loaded with them, apply to the second half, as if it were generated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgesparse.errors import UsageError

if TYPE_CHECKING:
    from edgesparse.model import Model

__all__ = [
    "Estimate",
    "Misses",
    "candidate_misses",
    "log_probabilities",
    "perplexity",
    "windows",
]

_PIECE = 64
"""Positions whose logits exist at one time: 64 × 128k × 4 bytes is 33 MB."""


@dataclass(frozen=True)
class Estimate:
    """Perplexity over the windows so far.

    Attributes
    ----------
    perplexity : float
        exp of the mean negative log-likelihood.
    uncertainty : float
        Standard error of `perplexity`.
    nll : float
        Mean negative log-likelihood, in nats per token.
    n_scored : int
        Tokens that were predicted.
    n_windows, of_windows : int
        Windows that are done, and that there are.
    """

    perplexity: float
    uncertainty: float
    nll: float
    n_scored: int
    n_windows: int
    of_windows: int


@dataclass(frozen=True)
class Misses:
    """What a two-stage head did not propose.

    Attributes
    ----------
    best : int
        Positions whose best token was no candidate: what greedy decoding would get wrong.
    top : int
        Tokens among the `top_k` best of their position that were no candidates.
    n : int
        Positions tried.
    top_k : int
        As many as top-k sampling looks at by default.
    """

    best: int
    top: int
    n: int
    top_k: int


def perplexity(
    model: Model,
    ids: Sequence[int] | npt.NDArray[np.int32],
    n_ctx: int = 512,
    *,
    max_windows: int | None = None,
) -> Estimate:
    """Score a text and return the final estimate.

    Parameters
    ----------
    model : Model
    ids : sequence of int
        The text's tokens, with BOS where the model wants one.
    n_ctx : int
        Tokens in a window.
    max_windows : int, optional
        Stop after this many.

    Raises
    ------
    UsageError
        The text is shorter than two windows, or a window does not fit into the model's context.
    """
    # Never empty: a text of fewer than two windows is refused.
    return list(windows(model, ids, n_ctx, max_windows=max_windows))[-1]


def require_windows(model: Model, n_tokens: int, n_ctx: int) -> None:
    """Refuse a text that cannot be scored.

    Raises
    ------
    UsageError
        It is shorter than two windows, or a window does not fit into the model's context.
    """
    if not 8 <= n_ctx <= model.engine.n_ctx:
        raise UsageError(
            f"a window must have between 8 and {model.engine.n_ctx} tokens, not {n_ctx}.",
            advice="Load the model with a larger n_ctx for longer windows.",
        )
    if n_tokens < 2 * n_ctx:
        raise UsageError(
            f"the text has {n_tokens} tokens; {2 * n_ctx} are needed for windows of {n_ctx}.",
            advice="Take a longer text or shorter windows.",
        )


def windows(
    model: Model,
    ids: Sequence[int] | npt.NDArray[np.int32],
    n_ctx: int = 512,
    *,
    max_windows: int | None = None,
) -> Iterator[Estimate]:
    """Score window after window; yield the estimate so far after each. As `perplexity`."""
    tokens = np.ascontiguousarray(ids, np.int32)
    engine, bos = model.engine, _leading_token(model)
    require_windows(model, len(tokens), n_ctx)
    if max_windows is not None and max_windows < 1:
        raise UsageError(f"the number of windows must be positive, not {max_windows}.")
    count = len(tokens) // n_ctx
    count = count if max_windows is None else min(count, max_windows)
    total, squares, n_scored = 0.0, 0.0, 0
    cache = engine.new_cache(n_ctx)
    for window in range(count):
        piece = tokens[window * n_ctx : (window + 1) * n_ctx].copy()
        if bos is not None:
            piece[0] = bos
        half = n_ctx // 2
        engine.forward(cache, piece[:half], 0, outputs="none")
        for begin in range(half, n_ctx - 1, _PIECE):
            end = min(begin + _PIECE, n_ctx - 1)
            logits = engine.forward(cache, piece[begin:end], begin, outputs="all", thresholds=True)
            nll = -log_probabilities(logits, piece[begin + 1 : end + 1])
            total += float(nll.sum())
            squares += float((nll * nll).sum())
            n_scored += end - begin
        yield _estimate(total, squares, n_scored, window + 1, count)


def candidate_misses(
    model: Model,
    ids: Sequence[int] | npt.NDArray[np.int32],
    n_ctx: int = 512,
    *,
    max_windows: int | None = None,
    max_positions: int = 512,
    top_k: int = 40,
) -> Misses:
    """Count how often a two-stage head fails to propose the best tokens.

    The scored positions of `windows`, one after the other; each is decoded on its own as in
    generation, and once more with every logit.
    """
    tokens = np.ascontiguousarray(ids, np.int32)
    engine, bos, half = model.engine, _leading_token(model), n_ctx // 2
    cache = engine.new_cache(n_ctx)
    count = len(tokens) // n_ctx
    count = count if max_windows is None else min(count, max_windows)
    top_k = min(top_k, engine.n_vocab)
    missed_best = missed_top = n = 0
    for window in range(count):
        piece = tokens[window * n_ctx : (window + 1) * n_ctx].copy()
        if bos is not None:
            piece[0] = bos
        engine.forward(cache, piece[:half], 0, outputs="none")
        for position in range(half, n_ctx - 1):
            if n == max_positions:
                return Misses(missed_best, missed_top, n, top_k)
            token = piece[position : position + 1]
            logits = engine.forward(cache, token, position)[0]
            best, top = int(logits.argmax()), np.argpartition(-logits, top_k - 1)[:top_k]
            missed = engine.forward(cache, token, position, exact=False)[0] == -np.inf
            missed_best += bool(missed[best])
            missed_top += int(missed[top].sum())
            n += 1
    return Misses(missed_best, missed_top, n, top_k)


def log_probabilities(
    logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """Take the log-probability of one target per row.

    Parameters
    ----------
    logits : (n, n_vocab) float32
    targets : (n,) int32

    Returns
    -------
    (n,) float64
        Natural logarithms; sums over the vocabulary are in double precision.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    sums = np.exp(shifted).sum(axis=1, dtype=np.float64)
    chosen = shifted[np.arange(len(targets)), targets].astype(np.float64)
    result: npt.NDArray[np.float64] = chosen - np.log(sums)
    return result


def _leading_token(model: Model) -> int | None:
    tokenizer = model.tokenizer
    return tokenizer.bos_id if tokenizer.add_bos else None


def _estimate(total: float, squares: float, n: int, done: int, count: int) -> Estimate:
    mean = total / n
    variance = squares / n - mean * mean
    error = math.sqrt(max(0.0, variance) / (n - 1))
    value = math.exp(mean)
    return Estimate(value, error * value, mean, n, done, count)
