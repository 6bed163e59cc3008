"""From which share of zeros on bit slices lie by columns: the same bits either way.

By columns an input of zero saves reading its column; by rows sums are looked up, which takes less
time for the fewer bits. A choice is the share of zeros from which skipping is faster.
"""

from __future__ import annotations

from edgesparse.formats.weight import Format

__all__ = ["COLUMN_TOPICS", "NEVER", "column_shares", "format_of", "shown"]

NEVER = 1.0
"""More zeros than an input has that is worth a product."""

COLUMN_TOPICS = {"bs2n": 0.35, "bs3n": 0.3, "bs4n": 0.1}
"""Topics of `edgesparse.tuning`, with what counts where nothing was measured."""


def format_of(topic: str) -> Format:
    """Return the format by rows that a topic is about."""
    return Format[topic.upper()].row_format


def column_shares(isa: str, threads: int) -> dict[Format, float]:
    """Say for every format by rows from which share of zeros on its columns are skipped."""
    from edgesparse.tuning import lookup

    return {format_of(topic): float(lookup(topic, isa, threads).value) for topic in COLUMN_TOPICS}


def shown(share: float) -> str:
    """Put a choice into words."""
    if share >= NEVER:
        return "by rows"
    return "by columns" if share <= 0 else f"by columns from {share:.0%} zeros on"
