"""Which format the matrix that makes the logits is stored in: the choices of ``--head``.

In a ternary model the head is the largest matrix by far that is not ternary, and every token reads
all of it. `AUTO` is the smallest format that kept perplexity within 0.5 % of the unrounded head on
every model measured (bench/LOG.md); where the head is the embedding too, its rounded rows were part
of these. q6 does so on some models and is there to be asked for. What is rounded says so in the
weight's note.
"""

from __future__ import annotations

from typing import Final

from edgesparse.checkpoint import TensorInfo
from edgesparse.choices import HEADS
from edgesparse.errors import UsageError
from edgesparse.formats.choose import choose, is_roundable
from edgesparse.formats.weight import Format, storage_bytes

__all__ = ["AUTO", "TWO_STAGE", "head_override", "parse_head"]

AUTO: Final = Format.Q8
"""What ``auto`` rounds a larger head to."""

TWO_STAGE: Final = "two-stage"
"""As ``auto``, with a coarse copy beside it that proposes candidates while generating."""


def parse_head(name: str) -> str:
    """Return `name` if there is such a choice.

    Raises
    ------
    UsageError
        There is none.
    """
    if name not in HEADS:
        raise UsageError(f"there is no head {name!r}.", advice=f"A head can be {', '.join(HEADS)}.")
    return name


def head_override(info: TensorInfo, head: str) -> Format | None:
    """Give the format that a head is to be rounded to; None: as the file has it.

    Parameters
    ----------
    info : TensorInfo
        The head in its file.
    head : str
        One of `HEADS`. ``exact`` keeps what the file has; ``auto`` and ``two-stage`` round to
        `AUTO` what takes more bytes otherwise and can be rounded; a format is what it says, or an
        error of `choose`.
    """
    parse_head(head)
    if head == "exact":
        return None
    if head not in ("auto", TWO_STAGE):
        return Format[head.upper()]
    kept = choose(info).format
    sizes = [storage_bytes(fmt, info.n_rows, info.n_cols) for fmt in (kept, AUTO)]
    return AUTO if is_roundable(info) and sizes[1] < sizes[0] else None
