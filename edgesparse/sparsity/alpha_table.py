"""The sign predictor over a range of alphas: what it finds, what it saves, what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgesparse.perplexity import perplexity
from edgesparse.sparsity.alphas import ALPHA_ONE, SparseInferTable
from edgesparse.sparsity.apply import predicted
from edgesparse.sparsity.fingerprint import fingerprint
from edgesparse.sparsity.predictor import PredictorCost, predictor_cost
from edgesparse.sparsity.sparseinfer import Outcome, judge_alphas

if TYPE_CHECKING:
    from edgesparse.model import Model

__all__ = ["AlphaRow", "AlphaTable", "compare_alphas"]

_LEAST_WINDOW = 8


@dataclass(frozen=True)
class AlphaRow:
    """One alpha, the same in every layer.

    Attributes
    ----------
    alpha : float
    outcome : Outcome
        Over the gates of all layers.
    layers : mapping of str to Outcome
        By name of the op that computes the gate.
    cost : PredictorCost
        Bytes of a token.
    perplexity : float or None
        With predicted gates; None where the text is too short to score.
    """

    alpha: float
    outcome: Outcome
    layers: Mapping[str, Outcome]
    cost: PredictorCost
    perplexity: float | None


@dataclass(frozen=True)
class AlphaTable:
    """Every alpha, and the model without prediction.

    Attributes
    ----------
    rows : tuple of AlphaRow
    dense_perplexity : float or None
    n_scored : int
        Tokens of the perplexities.
    n_judged : int
        Tokens of the predictor's shares, at most.
    """

    rows: tuple[AlphaRow, ...]
    dense_perplexity: float | None
    n_scored: int
    n_judged: int


def compare_alphas(
    model: Model,
    ids: Sequence[int],
    alphas: Sequence[float],
    *,
    n_judged: int,
    n_ctx: int,
    scored: bool = True,
    progress: Callable[[str], None] = lambda text: None,
) -> AlphaTable:
    """Judge the predictor with each alpha on a text, and score the text with its predictions.

    Parameters
    ----------
    model : Model
        Loaded with fused=False.
    ids : sequence of int
        Of the text; all of it is scored.
    alphas : sequence of float
    n_judged : int
        Tokens for precision and recall.
    n_ctx : int
        Tokens of a window of the perplexity (`edgesparse.perplexity`); a text shorter than two of
        them is halved.
    scored : bool
        False leaves perplexity out.
    progress : callable
        Told what is being done.

    Raises
    ------
    UsageError
        The gate of the model makes no zeros, or the text is shorter than 64 tokens.
    """
    progress("votes of all layers")
    whole = [round(alpha * ALPHA_ONE) for alpha in alphas]
    judged = judge_alphas(model, ids, whole, max_tokens=n_judged)
    n_ctx = min(n_ctx, model.engine.n_ctx, len(ids) // 2)
    scored = scored and n_ctx >= _LEAST_WINDOW
    dense = perplexity(model, ids, n_ctx) if scored else None
    rows = []
    for i, (alpha, (outcome, layers)) in enumerate(zip(whole, judged, strict=True)):
        progress(f"alpha {i + 1} of {len(whole)}")
        table = SparseInferTable(
            fingerprint(model.config, model.parameters.vectors),
            dict.fromkeys(layers, alpha),
            outcome.kept,
            skipped={name: each.skipped for name, each in layers.items()},
            skipped_tiles={name: each.skipped_tiles for name, each in layers.items()},
        )
        cost = predictor_cost(model.engine.plan, model.parameters.weights, table, reloaded=True)
        found = None
        if scored:
            with predicted(model, table):
                found = perplexity(model, ids, n_ctx).perplexity
        rows.append(AlphaRow(alpha / ALPHA_ONE, outcome, layers, cost, found))
    progress("")
    return AlphaTable(
        tuple(rows),
        None if dense is None else dense.perplexity,
        0 if dense is None else dense.n_scored,
        min(n_judged, len(ids)),
    )
