"""Names that command lines and `load` take; nothing is imported, so that a parser costs nothing."""

from __future__ import annotations

__all__ = ["HEADS", "WEIGHTS"]

WEIGHTS = (
    *("auto", "dense", "q8", "q4", "bmp8", "bmp4", "csr", "nm8", "nm4"),
    *("slices", "blocks"),
)
"""Storage of a model's layers that are not ternary."""

HEADS = ("auto", "exact", "q8", "q6", "q4", "two-stage")
"""Storage of the matrix that makes the logits (`edgesparse.formats.head`)."""
