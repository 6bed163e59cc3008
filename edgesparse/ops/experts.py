"""Mixture of experts: which experts a token uses, and what their outputs amount to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.ops.numerics import exp, lanes16, sequential_sum

__all__ = ["combine", "logistic", "route"]

Float32 = npt.NDArray[np.float32]


def route(scores: Float32, n_used: int, *, normalize: bool) -> Float32:
    """Choose the experts with the highest scores (the lower number of equals).

    Parameters
    ----------
    scores : float32 ndarray, shape (n_tokens, n_experts)
        Output of the router.
    n_used : int
    normalize : bool
        Weights are the softmax over the chosen scores (Mixtral, Qwen3-MoE) rather than over all
        (Qwen2-MoE).

    Returns
    -------
    float32 ndarray, shape (n_tokens, 2 n_used)
        Numbers of the experts, ascending, then their weights.
    """
    chosen = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :n_used], axis=1)
    powers = exp(scores - scores.max(axis=1, keepdims=True))
    weights = np.take_along_axis(powers, chosen, axis=1)
    total = sequential_sum(weights.T) if normalize else lanes16(powers)
    return np.concatenate([chosen.astype(np.float32), weights / total[:, None]], axis=1)


def logistic(x: Float32) -> Float32:
    """Return 1 / (1 + exp(-x))."""
    return np.asarray(np.float32(1) / (np.float32(1) + exp(-x)), np.float32)


def combine(
    dst: Float32, rows: Float32, weights: Float32, shared: Float32 | None, gate: Float32 | None
) -> None:
    """Add the weighted sum of the chosen experts' outputs, and of the shared one, to dst.

    Parameters
    ----------
    dst : float32 ndarray, shape (n_tokens, width)
    rows : float32 ndarray, shape (n_tokens, n_used, width)
    weights : float32 ndarray, shape (n_tokens, n_used)
    shared : float32 ndarray, shape (n_tokens, width), or None
    gate : float32 ndarray, shape (n_tokens,), or None
        Its weight is the logistic function of this; None: 1.
    """
    total = sequential_sum(np.moveaxis(rows * weights[:, :, None], 1, 0))
    if shared is not None:
        total = total + (shared if gate is None else logistic(gate)[:, None] * shared)
    dst += total
