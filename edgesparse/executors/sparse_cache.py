"""Reading a cache whose older rows are sparse, in numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.executors.kv_cache import KVCache
from edgesparse.plan.plan import Plan
from edgesparse.plan.sparse_rows import SparseRows

__all__ = ["n_sparse_of", "widen_cache"]

Float32 = npt.NDArray[np.float32]


def n_sparse_of(
    sparse: SparseRows | None, positions: npt.NDArray[np.int32]
) -> npt.NDArray[np.int64]:
    """Return how many rows are sparse to tokens at these positions; none without pruning."""
    if sparse is None:
        return np.zeros(len(positions), np.int64)
    return np.array([sparse.n_sparse(int(p)) for p in positions], np.int64)


def widen_cache(
    plan: Plan, cache: KVCache, layer: int, n_sparse: int, end: int
) -> tuple[Float32, Float32]:
    """Return a layer's keys and values at positions [0, end) as float32.

    Parameters
    ----------
    n_sparse : int
        Of a pruned cache: rows that are read sparse; the others must be among the latest.

    Returns
    -------
    keys, values : float32 ndarray, shape (n_kv_heads, end, head_dim)
    """
    found = []
    for rows, recent, kind in (
        (cache.keys, cache.recent_keys, plan.cache_type_k),
        (cache.values, cache.recent_values, plan.cache_type_v),
    ):
        if recent is None:
            found.append(kind.widen(rows.read(layer, 0, end), plan.head_dim))
            continue
        assert plan.sparse_rows is not None
        n_recent = plan.sparse_rows.n_recent
        latest = np.concatenate(recent.chunks(layer), axis=1)
        whole = latest[:, np.arange(n_sparse, end) % n_recent]
        parts = [kind.widen(whole, plan.head_dim)]
        if n_sparse:
            pruned = rows.read(layer, 0, n_sparse)
            parts.insert(0, plan.sparse_rows.widen(pruned, plan.head_dim))
        found.append(np.concatenate(parts, axis=1))
    return found[0], found[1]
