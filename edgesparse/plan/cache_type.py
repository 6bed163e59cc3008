"""How keys and values lie in the KV cache."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.errors import UsageError

__all__ = ["BLOCK", "CACHE_TYPES", "CHUNK", "CacheType"]

BLOCK = 32
"""Elements of a q8_0 block; the last block of a row is filled with zeros."""

CHUNK = 256
"""Positions that are stored together and attended to together, with a maximum and sums of their
own; `ES_CACHE_CHUNK`."""

_HALF = np.dtype(np.float16)
_Q8_0 = np.dtype([("step", np.float16), ("codes", np.int8, (BLOCK,))])


class CacheType(IntEnum):
    """Storage of one head's keys or values at one position; values of `ES_CACHE_*`.

    F16 holds halfs. Q8_0 is lossy: blocks of 32 int8 codes with a half as their step, 34 bytes.
    """

    F16 = 0
    Q8_0 = 1

    @classmethod
    def parse(cls, name: str) -> CacheType:
        """Return the type that ``f16`` or ``q8_0`` names.

        Raises
        ------
        UsageError
            There is no such type.
        """
        if name not in CACHE_TYPES:
            raise UsageError(
                f"there is no cache type {name!r}.",
                advice=f"Keys and values can be stored as {' or '.join(CACHE_TYPES)}.",
            )
        return cls[name.upper()]

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Element of a cache array: a half, or a block."""
        return _Q8_0 if self is CacheType.Q8_0 else _HALF

    def row_items(self, head_dim: int) -> int:
        """Elements of `dtype` in one row."""
        return -(-head_dim // BLOCK) if self is CacheType.Q8_0 else head_dim

    def row_bytes(self, head_dim: int) -> int:
        """Bytes of one row: one head at one position."""
        return self.row_items(head_dim) * self.dtype.itemsize

    def widen(self, rows: npt.NDArray[Any], head_dim: int) -> npt.NDArray[np.float32]:
        """Return rows (…, row_items) as float32 (…, head_dim); exact."""
        if self is CacheType.F16:
            return np.asarray(rows, np.float32)
        step = rows["step"].astype(np.float32)[..., None]
        wide = rows["codes"].astype(np.float32) * step
        row: npt.NDArray[np.float32] = wide.reshape(*rows.shape[:-1], -1)
        return row[..., :head_dim]


CACHE_TYPES = tuple(kind.name.lower() for kind in CacheType)
"""Names that command lines and `load` take."""
