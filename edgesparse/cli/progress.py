"""`Progress`: a bar with the time that is left, for work that takes minutes."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgesparse.cli.terminal import Terminal

__all__ = ["Progress"]

_WIDTH = 20


class Progress:
    """One line on a terminal that is replaced as the work goes on.

    Parameters
    ----------
    terminal : Terminal
    what : str
        The work, such as ``prune``.
    unit : str
        What it is counted in, such as ``layer``.
    """

    def __init__(self, terminal: Terminal, what: str, unit: str) -> None:
        self._terminal, self._what, self._unit = terminal, what, unit
        self._seen: deque[tuple[float, float]] = deque()

    def show(self, done: float, of: int) -> None:
        """Say how far the work is.

        Parameters
        ----------
        done : float
            Units that are done; a fraction of the present one counts.
        of : int
            All units.
        """
        share = min(1.0, done / of)
        bar = "█" * round(_WIDTH * share) + "░" * (_WIDTH - round(_WIDTH * share))
        left = self._seconds_left(done, of)
        clock = "" if left is None else f", {int(left) // 60}:{int(left) % 60:02d} left"
        number = min(of, int(done) + 1)
        self._terminal.progress(f"{self._what} {bar} {self._unit} {number} of {of}{clock}")

    def _seconds_left(self, done: float, of: int) -> float | None:
        """Go by the latest tenth: what an earlier run has finished takes no time."""
        now = time.monotonic()
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][1] <= done - max(2.0, of / 10):
            self._seen.popleft()
        began, first = self._seen[0]
        return (now - began) / (done - first) * (of - done) if done - first >= 0.5 else None

    def clear(self) -> None:
        """Take the line away."""
        self._terminal.progress("")
