"""The text to calibrate on when none is given."""

from __future__ import annotations

from edgesparse.errors import UsageError

__all__ = ["sample_text"]


def sample_text() -> str:
    """Return 450 kB of technical English: the help topics that come with Python.

    Raises
    ------
    UsageError
        This Python was installed without them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UsageError(
            "this Python has no help topics to calibrate on.", advice="Name a text with -f FILE."
        ) from None
    return "\n\n".join(topics[name].strip() for name in sorted(topics))
