"""A sequence of strings over one byte buffer: a vocabulary without 400,000 Python objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

__all__ = ["StringArray"]

_ITERATE = 4096
"""Strings decoded together while iterating."""


class StringArray(Sequence[str]):
    """Strings of a metadata array, decoded when asked for.

    Parameters
    ----------
    blob : bytes
        Bytes that hold all strings.
    starts, stops : (n,) integers
        String ``i`` is ``blob[starts[i]:stops[i]]``, valid UTF-8.
    """

    __slots__ = ("_blob", "_starts", "_stops")

    def __init__(
        self, blob: bytes, starts: npt.NDArray[np.integer[Any]], stops: npt.NDArray[np.integer[Any]]
    ) -> None:
        self._blob = blob
        self._starts = starts
        self._stops = stops

    @classmethod
    def pack(cls, strings: Sequence[str]) -> StringArray:
        """Store strings in one buffer; what cannot be UTF-8 becomes a question mark."""
        parts = [string.encode("utf-8", "replace") for string in strings]
        blob = b"".join(parts)
        edges: npt.NDArray[np.integer[Any]] = np.zeros(
            len(parts) + 1, np.int32 if len(blob) < 1 << 31 else np.int64
        )
        np.cumsum([len(part) for part in parts], out=edges[1:])
        return cls(blob, edges[:-1], edges[1:])

    def raw(self, index: int) -> bytes:
        """Give the UTF-8 bytes of one string."""
        return self._blob[int(self._starts[index]) : int(self._stops[index])]

    def to_list(self) -> list[str]:
        """Decode all strings."""
        blob = self._blob
        pairs = zip(self._starts.tolist(), self._stops.tolist(), strict=True)
        return [blob[start:stop].decode("utf-8") for start, stop in pairs]

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> StringArray: ...
    def __getitem__(self, index: int | slice) -> str | StringArray:
        if isinstance(index, slice):
            return StringArray(self._blob, self._starts[index], self._stops[index])
        return self.raw(index).decode("utf-8")

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), _ITERATE):
            yield from self[begin : begin + _ITERATE].to_list()

    def __repr__(self) -> str:
        return f"StringArray({len(self)} strings, {len(self._blob)} bytes)"
