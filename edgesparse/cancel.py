"""`CancelToken`: how any thread stops work that another one is doing."""

from __future__ import annotations

from edgesparse.executors.base import CancelFlag

__all__ = ["CancelToken"]


class CancelToken:
    """Stops a generation, also in the middle of reading its prompt.

    Give the same token to ``generate``, ``stream``, ``send`` or any number of them, and call
    `cancel` from any thread; the work ends after the op that is running and the answer so far is
    kept. A cancelled token stays cancelled: take a new one for the next request.

    Attributes
    ----------
    flag : CancelFlag
        What executors poll.
    """

    def __init__(self) -> None:
        self.flag = CancelFlag()

    def cancel(self) -> None:
        """Ask for a stop; asking twice is harmless."""
        self.flag.set()

    @property
    def cancelled(self) -> bool:
        """Whether a stop was asked for."""
        return self.flag.is_set()

    def __repr__(self) -> str:
        return f"CancelToken(cancelled={self.cancelled})"
