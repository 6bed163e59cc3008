"""Causal grouped-query attention over the cache."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.ops.numerics import dot16, exp, lanes16

__all__ = ["attention"]

Float32 = npt.NDArray[np.float32]


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
        k = keys[:, None, first : p + 1].astype(np.float32)
        v = values[:, None, first : p + 1].astype(np.float32)
        scores = dot16(grouped, k) * np.float32(scale)
        e = exp(scores - scores.max(axis=-1, keepdims=True))
        inverse = np.float32(1) / lanes16(e)
        total = np.zeros(grouped.shape[:2] + q.shape[2:], np.float32)
        for j in range(e.shape[-1]):
            total += e[..., j, None] * v[:, :, j]
        out[t] = (total * inverse[..., None]).reshape(n_heads, -1)
    return out
