"""Causal grouped-query attention over the cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgesparse.ops.numerics import LANES, dot16, exp, lanes16
from edgesparse.plan.cache_type import CHUNK

__all__ = ["attention"]

Float32 = npt.NDArray[np.float32]


class Part(NamedTuple):
    """What attention makes of one chunk: arrays (n_kv_heads, group, 1 or head_dim)."""

    top: Float32
    weight: Float32
    values: Float32


def attention(
    q: Float32,
    keys: npt.NDArray[np.floating],
    values: npt.NDArray[np.floating],
    positions: npt.NDArray[np.int32],
    scale: float,
    window: int = 0,
) -> Float32:
    """Attend every token to its sequence's positions up to its own.

    Parameters
    ----------
    q : float32 ndarray, shape (n_tokens, n_heads, head_dim)
    keys, values : float16 or float32 ndarray, shape (n_kv_heads, n_positions, head_dim)
        One layer of one sequence's cache, as `CacheType.widen` gives it, with the step's own keys
        already stored.
    positions : int32 ndarray, shape (n_tokens,)
    scale : float
        Factor on the dot products.
    window : int
        Attend to the last `window` positions only; 0: to all.

    Returns
    -------
    float32 ndarray, shape (n_tokens, n_heads, head_dim)
    """
    n_heads, n_kv_heads = q.shape[1], keys.shape[0]
    out = np.empty_like(q)
    for t, p in enumerate(positions):
        first = max(0, int(p) + 1 - window) if window else 0
        grouped = q[t].reshape(n_kv_heads, n_heads // n_kv_heads, 1, -1)
        total: Part | None = None
        for begin in range(first // CHUNK * CHUNK, int(p) + 1, CHUNK):
            rows = slice(max(first, begin), min(int(p) + 1, begin + CHUNK))
            part = _attend_chunk(grouped, keys[:, rows], values[:, rows], scale, rows.start - begin)
            total = part if total is None else _merge(total, part)
        assert total is not None
        out[t] = (total.values * (np.float32(1) / total.weight)).reshape(n_heads, -1)
    return out


def _attend_chunk(
    q: Float32,
    keys: npt.NDArray[np.floating],
    values: npt.NDArray[np.floating],
    scale: float,
    lane: int,
) -> Part:
    """Attend to rows of one chunk, of which the first counts in lane `lane`."""
    k, v = keys[:, None].astype(np.float32), values[:, None].astype(np.float32)
    scores = dot16(q, k) * np.float32(scale)
    top = scores.max(axis=-1, keepdims=True)
    e = exp(scores - top)
    total = np.zeros((*q.shape[:2], q.shape[-1]), np.float32)
    for j in range(e.shape[-1]):
        total += e[..., j, None] * v[:, :, j]
    shifted = np.zeros((*e.shape[:-1], lane % LANES + e.shape[-1]), np.float32)
    shifted[..., lane % LANES :] = e
    return Part(top, lanes16(shifted)[..., None], total)


def _merge(total: Part, part: Part) -> Part:
    """Add the part of a later chunk."""
    top = np.maximum(total.top, part.top)
    f, g = exp(total.top - top), exp(part.top - top)
    return Part(top, total.weight * f + part.weight * g, total.values * f + part.values * g)
