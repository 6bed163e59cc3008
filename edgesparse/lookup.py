"""Whether products with bit slices look sums up (lut) or multiply (mad): the same bits either way.

Looking up costs the same for every token; multiplying unpacks the codes once for all tokens of a
step. So a choice is a number: from how many tokens in a step on codes are unpacked and multiplied.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from edgesparse.errors import UsageError
from edgesparse.formats.weight import Format, Weight

__all__ = [
    "FORCED",
    "LONG_ROWS",
    "NEVER",
    "SLICE_TOPICS",
    "forced_tokens",
    "kernel_lines",
    "mad_tokens",
    "shown",
    "topic_of",
]

NEVER = 2**31 - 1
"""More tokens than a step has: always look up."""
LONG_ROWS = 4096
"""Rows of more columns have tables that outgrow a first-level cache: 8 bytes for a column."""
FORCED = "EDGESPARSE_KERNEL"
"""The reason for a choice that this variable made."""

SLICE_TOPICS = {
    f"{fmt.name.lower()}{suffix}": float(default)
    for fmt, default in (
        (Format.BS1, NEVER),
        (Format.BS2, 16),
        (Format.BS3, 8),
        (Format.BS4, 8),
        (Format.BST, 16),
    )
    for suffix in ("", " long")
}
"""Topics of `edgesparse.tuning`, with what counts where nothing was measured."""


def topic_of(fmt: Format, k: int) -> str:
    """Name the topic of `edgesparse.tuning` that decides for matrices of `k` columns."""
    return fmt.name.lower() + (" long" if k > LONG_ROWS else "")


def forced_tokens() -> int | None:
    """Return what ``EDGESPARSE_KERNEL`` (``lut``, ``mad``) makes of `mad_tokens`, None without it.

    Raises
    ------
    UsageError
        The variable has another value.
    """
    forced = os.environ.get("EDGESPARSE_KERNEL", "")
    if forced not in ("", "lut", "mad"):
        raise UsageError(
            f"EDGESPARSE_KERNEL={forced!r} is no kind of kernel.", advice="Set it to lut or mad."
        )
    return {"": None, "lut": NEVER, "mad": 1}[forced]


def mad_tokens(fmt: Format, k: int, isa: str, threads: int) -> int:
    """Say from how many tokens in a step on codes are unpacked and multiplied.

    Raises
    ------
    UsageError
        As `forced_tokens`.
    """
    forced = forced_tokens()
    if forced is not None:
        return forced
    from edgesparse.tuning import lookup

    return max(1, min(int(lookup(topic_of(fmt, k), isa, threads).value), NEVER))


def kernel_lines(weights: Iterable[Weight], isa: str, threads: int) -> dict[str, str]:
    """Say for every topic that `weights` belong to what is done, and why."""
    from edgesparse.tuning import lookup

    lines = {}
    for weight in weights:
        topic = topic_of(weight.format, weight.k)
        is_planes = weight.format.is_sliced and not weight.format.is_column
        if is_planes and topic not in lines:
            answer = lookup(topic, isa, threads)
            reason = answer.reason if forced_tokens() is None else FORCED
            lines[topic] = f"{shown(mad_tokens(weight.format, weight.k, isa, threads))}: {reason}"
    return lines


def shown(n_tokens: float) -> str:
    """Put a choice into words."""
    if n_tokens >= NEVER:
        return "lut"
    return "mad" if n_tokens <= 1 else f"lut, mad from {n_tokens:.0f} tokens on"
