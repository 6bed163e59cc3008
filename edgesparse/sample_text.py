"""The text to calibrate on when none is given."""

from __future__ import annotations

from pathlib import Path

from edgesparse.errors import UsageError

__all__ = ["sample_text"]


def sample_text(*, short: bool = False) -> str:
    """Return English: the beginning of a narrative, then the help topics that come with Python.

    Parameters
    ----------
    short : bool
        Only the narrative: 6 kB instead of some 450.

    Raises
    ------
    UsageError
        This Python was installed without help topics.
    """
    narrative = Path(__file__).with_name("sample.txt").read_text(encoding="utf-8")
    if short:
        return narrative
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UsageError(
            "this Python has no help topics to calibrate on.", advice="Name a text with -f FILE."
        ) from None
    return "\n\n".join([narrative.strip(), *(topics[name].strip() for name in sorted(topics))])
