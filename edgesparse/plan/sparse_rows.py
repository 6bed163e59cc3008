"""`SparseRows`: keys and values of which only the largest elements are kept (Mustafar).

Mustafar (arXiv 2505.22913) drops the smallest elements of every key and value, token by token and
head by head, and keeps the latest tokens whole. One row, of one head at one
position, is a bitmap and the elements that its set bits stand for::

    |  8 · ceil(head_dim / 64) bytes: bit i, least significant first, is element i  |
    |  n_kept halfs: those elements in ascending order                              |

All rows are as long: exactly floor(head_dim · sparsity) elements are dropped, of equal magnitudes
those that come first. Keys are pruned as they are stored, that is after their rotation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.errors import UsageError

__all__ = ["GROUP", "STEP_TOKENS", "WINDOW", "SparseRows"]

WINDOW = 32
"""Positions before a token's own that it always sees whole."""

GROUP = 64
"""Positions turn sparse together, so many at a time; `ES_KV_GROUP`."""

RECENT = 256
"""Whole rows that a sequence holds, in a ring: one chunk."""

STEP_TOKENS = 128
"""Tokens of a step, at most: with what precedes them they have to fit into the ring."""

_WORD = 64


@dataclass(frozen=True)
class SparseRows:
    """How rows are pruned, and when.

    Attributes
    ----------
    sparsity : float
        Share of a row's elements that is dropped, in (0, 1).
    head_dim : int
    window : int
        A token at position p reads whole rows at p − window + 1 … p at least.
    n_recent : int
        Whole rows that are held, the latest ones.
    """

    sparsity: float
    head_dim: int
    window: int = WINDOW
    n_recent: int = RECENT

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1 or self.n_kept == self.head_dim:
            raise UsageError(
                f"kv_sparsity must be above 0 and below 1, and drop at least one of "
                f"{self.head_dim} elements, not {self.sparsity}.",
                advice="0.5 halves keys and values; 0 switches it off.",
            )

    @property
    def n_kept(self) -> int:
        """Elements that a row keeps."""
        return self.head_dim - int(self.head_dim * self.sparsity + 1e-6)

    @property
    def bitmap_bytes(self) -> int:
        """Bytes of a row's bitmap."""
        return -(-self.head_dim // _WORD) * (_WORD // 8)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """One row."""
        fields = [("bitmap", np.uint8, (self.bitmap_bytes,)), ("kept", np.float16, (self.n_kept,))]
        return np.dtype(fields)

    @property
    def name(self) -> str:
        """For reports."""
        return f"f16, {self.sparsity:.0%} sparse"

    def row_items(self, head_dim: int) -> int:
        """Elements of `dtype` in one row."""
        return 1

    def row_bytes(self, head_dim: int) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize

    def n_sparse(self, position: int) -> int:
        """Rows [0, n) are sparse to a token at `position`: whole groups outside its window."""
        return max(0, position + 1 - self.window) // GROUP * GROUP

    def reusable(self, n_held: int, n_wanted: int) -> int:
        """How many of `n_wanted` tokens count when `n_held` were computed: all of them, or none.

        Going far back would need whole rows that later ones have replaced.
        """
        return n_wanted if self.n_sparse(n_wanted) >= n_held - self.n_recent else 0

    def prune(self, halfs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Turn whole rows of halfs (…, head_dim) into sparse ones (…, 1)."""
        magnitudes = halfs.view(np.uint16) & np.uint16(0x7FFF)
        order = np.argsort(magnitudes, axis=-1, kind="stable")
        kept = np.sort(order[..., self.head_dim - self.n_kept :], axis=-1)
        bits = np.zeros((*halfs.shape[:-1], self.bitmap_bytes * 8), bool)
        np.put_along_axis(bits, kept, True, axis=-1)
        rows = np.zeros(halfs.shape[:-1], self.dtype)
        rows["bitmap"] = np.packbits(bits, axis=-1, bitorder="little")
        rows["kept"] = np.take_along_axis(halfs, kept, axis=-1)
        return rows[..., None]

    def widen(self, rows: npt.NDArray[Any], head_dim: int) -> npt.NDArray[np.float32]:
        """Return sparse rows (…, 1) as float32 (…, head_dim), +0 where an element was dropped."""
        row = rows[..., 0]
        bits = np.unpackbits(row["bitmap"], axis=-1, bitorder="little")[..., :head_dim].astype(bool)
        wide = np.zeros(bits.shape, np.float32)
        wide[bits] = row["kept"].astype(np.float32).reshape(-1)
        return wide
