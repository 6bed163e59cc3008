"""Keys and values of one sequence, in chunks of positions."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.plan.cache_type import CHUNK, CacheType
from edgesparse.plan.plan import Plan
from edgesparse.plan.sparse_rows import SparseRows

__all__ = ["CacheRows", "KVCache"]

Int32 = npt.NDArray[np.int32]


class CacheRows:
    """Keys or values of one sequence: rows of one head at one position.

    Chunk after chunk of `CHUNK` positions (the last one may be shorter), each chunk
    [n_layers][n_kv_heads][positions]: a context takes memory as it grows, in one piece.

    Attributes
    ----------
    data : uint8 ndarray, shape (n_layers * n_kv_heads * capacity * row_bytes,)
    kind : CacheType or SparseRows
    """

    def __init__(
        self,
        data: npt.NDArray[np.uint8],
        plan: Plan,
        kind: CacheType | SparseRows,
        capacity: int,
    ) -> None:
        self.data, self.kind = data, kind
        self._planes = (plan.n_layers, plan.n_kv_heads)
        self._row_items = kind.row_items(plan.head_dim)
        self._capacity = capacity

    def chunks(self, layer: int) -> list[npt.NDArray[Any]]:
        """View a layer's chunks: each (n_kv_heads, positions, row_items) of the kind's dtype."""
        views = []
        begin = 0
        for first in range(0, self._capacity, CHUNK):
            shape = (*self._planes, min(CHUNK, self._capacity - first), self._row_items)
            n_bytes = int(np.prod(shape)) * self.kind.dtype.itemsize
            chunk = self.data[begin : begin + n_bytes].view(self.kind.dtype).reshape(shape)
            views.append(chunk[layer])
            begin += n_bytes
        return views

    def read(self, layer: int, begin: int, end: int) -> npt.NDArray[Any]:
        """Copy a layer's positions [begin, end): (n_kv_heads, end - begin, row_items)."""
        first, last = begin // CHUNK, -(-end // CHUNK)
        rows = np.concatenate(self.chunks(layer)[first:last], axis=1)
        return rows[:, begin - first * CHUNK : end - first * CHUNK]

    def write(self, layer: int, positions: Int32, rows: npt.NDArray[Any]) -> None:
        """Store rows (n_kv_heads, n_positions, row_items) at positions of a layer."""
        for index, chunk in enumerate(self.chunks(layer)):
            mine = positions // CHUNK == index
            chunk[:, positions[mine] - index * CHUNK] = rows[:, mine]


class KVCache:
    """Keys and values of one sequence.

    Attributes
    ----------
    keys, values : CacheRows
        Zero pages until written, so an unused context costs no memory.
    recent_keys, recent_values : CacheRows, optional
        Where those are pruned: the latest rows as they were, position p in row p mod their number.
    raw : uint8 ndarray
        All their bytes.
    capacity : int
        Positions that fit.
    """

    def __init__(self, plan: Plan, capacity: int) -> None:
        kinds = _kinds(plan)
        n_planes = plan.n_layers * plan.n_kv_heads
        sizes = [n_planes * capacity * kind.row_bytes(plan.head_dim) for kind in kinds]
        n_first = n_planes * min(capacity, CHUNK)
        sparse = plan.sparse_rows
        n_recent = 0 if sparse is None else sparse.n_recent
        types = (plan.cache_type_k, plan.cache_type_v)
        recent = [n_planes * n_recent * kind.row_bytes(plan.head_dim) for kind in types]
        # Private: shared anonymous memory gets no huge pages.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        memory = mmap.mmap(-1, max(1, sum(sizes) + sum(recent)), flags=flags)
        for kind, begin, size in zip(kinds, (0, sizes[0]), sizes, strict=True):
            # The first chunk goes without: short conversations should not pay for huge pages.
            _use_huge_pages(memory, begin + n_first * kind.row_bytes(plan.head_dim), begin + size)
        self.raw: npt.NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
        split = np.split(self.raw[: sum(sizes) + sum(recent)], np.cumsum([*sizes, *recent])[:-1])
        self.keys, self.values = (
            CacheRows(part, plan, kind, capacity)
            for part, kind in zip(split[:2], kinds, strict=True)
        )
        self.recent_keys, self.recent_values = (
            CacheRows(part, plan, kind, n_recent) if n_recent else None
            for part, kind in zip(split[2:], types, strict=True)
        )
        self.capacity = capacity
        self._sparse = sparse

    def fits(self, plan: Plan) -> bool:
        """Whether rows and their number are those of a plan."""
        n_rows = plan.n_layers * plan.n_kv_heads * self.capacity
        return all(
            rows.kind == kind and rows.data.nbytes == n_rows * kind.row_bytes(plan.head_dim)
            for rows, kind in zip((self.keys, self.values), _kinds(plan), strict=True)
        )

    def reusable(self, n_held: int, n_wanted: int) -> int:
        """How many of the first `n_wanted` of `n_held` tokens need not be computed again."""
        return n_wanted if self._sparse is None else self._sparse.reusable(n_held, n_wanted)


def _kinds(plan: Plan) -> list[CacheType | SparseRows]:
    """How a plan's keys and values are stored."""
    return [plan.sparse_rows or kind for kind in (plan.cache_type_k, plan.cache_type_v)]


def _use_huge_pages(memory: mmap.mmap, begin: int, end: int) -> None:
    """Ask for huge pages, where there are any: attention reads faster from them."""
    begin = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    if begin < end and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE, begin, end - begin)
