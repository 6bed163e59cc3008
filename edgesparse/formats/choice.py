"""`Choice`: the storage format of a matrix and the reason for it."""

from __future__ import annotations

from dataclasses import dataclass

from edgesparse.formats.weight import Format, Slices

__all__ = ["Choice"]


@dataclass(frozen=True)
class Choice:
    """A storage format and the reason for it.

    Attributes
    ----------
    format : Format
        Storage format.
    note : str
        Empty when the choice is the obvious one and exact.
    is_rounded : bool
        Whether stored values differ from what the file's own rule gives.
    slices : Slices, optional
        How steps are stored: bs1 to bs4 only.
    is_sorted : bool
        Whether columns are stored in another order than the file's, see `Weight.order`.
    """

    format: Format
    note: str = ""
    is_rounded: bool = False
    slices: Slices | None = None
    is_sorted: bool = False
