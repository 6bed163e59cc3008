"""From which share of zeros on bit slices and blocks lie by columns: the same bits either way.

By columns an input of zero saves reading its column. By rows sums of bit slices are looked up,
which takes less time for the fewer bits, and blocks come from memory in order, which is faster. A
choice is the share of zeros from which skipping is faster: another where weights come from memory
than for a small model, which caches hold.
"""

from __future__ import annotations

from edgesparse.formats.weight import Format

__all__ = ["COLUMN_TOPICS", "NEVER", "column_shares", "format_of", "is_small", "shown"]

_SMALL = " small"

NEVER = 1.0
"""More zeros than an input has that is worth a product."""

SMALL_BYTES = 128 << 20
"""Models of smaller files are small."""

COLUMN_TOPICS = {
    **dict.fromkeys(("q8n", "q4n", "q8n small", "q4n small"), 0.0),
    **{"bs2n": 0.45, "bs3n": 0.35, "bs4n": 0.1},
    **{"bs2n small": 0.55, "bs3n small": 0.55, "bs4n small": 0.3},
}
"""Topics of `edgesparse.tuning`, with what counts where nothing was measured."""


def format_of(topic: str) -> Format:
    """Return the format by rows that a topic is about."""
    return Format[topic.removesuffix(_SMALL).upper()].row_format


def is_small(topic: str) -> bool:
    """Tell whether a topic is about small models."""
    return topic.endswith(_SMALL)


def column_shares(isa: str, threads: int, model_bytes: int) -> dict[Format, float]:
    """Say for every format by rows from which share of zeros on its columns are skipped."""
    from edgesparse.tuning import lookup

    shares = {
        format_of(topic): float(lookup(topic, isa, threads).value)
        for topic in COLUMN_TOPICS
        if is_small(topic) == (model_bytes < SMALL_BYTES)
    }
    # Minima beside the steps are read alike by rows and by columns.
    return shares | {Format.Q8M: shares[Format.Q8], Format.Q4M: shares[Format.Q4]}


def shown(share: float) -> str:
    """Put a choice into words."""
    if share >= NEVER:
        return "by rows"
    return "by columns" if share <= 0 else f"by columns from {share:.0%} zeros on"
