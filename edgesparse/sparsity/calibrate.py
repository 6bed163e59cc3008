"""`calibrate`: from a model and a text to `Thresholds`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgesparse.errors import UsageError
from edgesparse.plan.sparsify import require_silu
from edgesparse.sparsity.fingerprint import fingerprint
from edgesparse.sparsity.gates import chess_factors, gate_histograms, mean_squares
from edgesparse.sparsity.histogram import Histogram
from edgesparse.sparsity.passes import Window, require_dense, windows_of
from edgesparse.sparsity.teal import Shares, greedy_shares, input_histograms
from edgesparse.sparsity.thresholds import DENSE_TOKENS, METHODS, Thresholds

if TYPE_CHECKING:
    from edgesparse.model import Model

__all__ = ["ALLOCATIONS", "calibrate_thresholds", "teal_thresholds"]

ALLOCATIONS = ("greedy", "uniform")
MAX_SPARSITY = 0.9

Progress = Callable[[int, int], None]


def calibrate_thresholds(
    model: Model,
    ids: Sequence[int],
    *,
    method: str,
    sparsity: float,
    allocation: str = "greedy",
    max_tokens: int | None = None,
    dense_tokens: int = DENSE_TOKENS,
    text_sha256: str = "",
    progress: Progress | None = None,
) -> Thresholds:
    """Choose thresholds so that `sparsity` of the elements are ignored.

    Parameters
    ----------
    model : Model
        Loaded with fused=False.
    ids : sequence of int
        Tokens of a text like those that the model will meet.
    method : {"teal", "cats", "chess"}
    sparsity : float
        In (0, 0.9].
    allocation : {"greedy", "uniform"}
        TEAL: how the sparsity is spread over the ops of a layer.
    max_tokens : int, optional
        Use only the beginning of the text.
    dense_tokens : int
        Positions at the start of a sequence that stay dense.
    text_sha256 : str
        Kept in the file.
    progress : callable, optional
        progress(done, of), for the slow part.

    Raises
    ------
    UsageError
        A parameter is out of range, the text is too short, the model's plan is fused, it is a
        mixture of experts, or has no SiLU, which the thresholds of cats and chess are for.
    """
    if method not in METHODS:
        raise UsageError(f"method must be one of {', '.join(METHODS)}, not {method!r}.")
    if allocation not in ALLOCATIONS:
        raise UsageError(f"allocation must be greedy or uniform, not {allocation!r}.")
    if not 0 < sparsity <= MAX_SPARSITY:
        raise UsageError(f"sparsity must be above 0 and at most {MAX_SPARSITY}, not {sparsity}.")
    if dense_tokens < 0:
        raise UsageError(f"dense_tokens must not be negative, but is {dense_tokens}.")
    require_dense(model)
    if method != "teal":
        require_silu(model.config.glu, method)
    windows = windows_of(model, ids, max_tokens=max_tokens, least=dense_tokens + 64)
    print_of = fingerprint(model.config, model.parameters.vectors)
    if method == "teal":
        histograms = input_histograms(model, windows, dense_tokens)
        if allocation == "greedy":
            shares = greedy_shares(model, windows, histograms, [sparsity], dense_tokens, progress)[
                0
            ]
        else:
            shares = dict.fromkeys(histograms, sparsity)
        return teal_thresholds(print_of, sparsity, histograms, shares, dense_tokens, text_sha256)
    entries, achieved = (_cats if method == "cats" else _chess)(
        model, windows, sparsity, dense_tokens
    )
    return Thresholds(print_of, method, sparsity, entries, achieved, dense_tokens, text_sha256)


def teal_thresholds(
    model_fingerprint: str,
    sparsity: float,
    histograms: dict[str, Histogram],
    shares: Shares,
    dense_tokens: int = DENSE_TOKENS,
    text_sha256: str = "",
) -> Thresholds:
    """Turn the share of each op into a threshold."""
    found = {name: histograms[name].quantile(share) for name, share in shares.items()}
    achieved = {name: histograms[name].share_below(found[name]) for name in found}
    return Thresholds(
        model_fingerprint, "teal", sparsity, found, achieved, dense_tokens, text_sha256
    )


_Entries = tuple[dict[str, "float | np.ndarray"], dict[str, float]]


def _cats(model: Model, windows: Sequence[Window], sparsity: float, dense_tokens: int) -> _Entries:
    histograms = gate_histograms(model, windows, dense_tokens)
    found = {name: each.quantile(sparsity) for name, each in histograms.items()}
    achieved = {name: each.share_below(found[name]) for name, each in histograms.items()}
    return dict(found), achieved


def _chess(model: Model, windows: Sequence[Window], sparsity: float, dense_tokens: int) -> _Entries:
    squares = mean_squares(model, windows, dense_tokens)
    roots = {name: np.sqrt(each).astype(np.float32) for name, each in squares.items()}
    scores = gate_histograms(model, windows, dense_tokens, roots)
    entries: dict[str, float | np.ndarray] = {}
    achieved: dict[str, float] = {}
    for name, histogram in scores.items():
        entries[name] = chess_factors(roots[name], histogram, sparsity)
        achieved[name] = histogram.share_below(histogram.quantile(sparsity))
    for name, histogram in input_histograms(model, windows, dense_tokens).items():
        if name.endswith(".attn_output"):
            entries[name] = histogram.quantile(sparsity)
            achieved[name] = histogram.share_below(float(entries[name]))
    return entries, achieved
