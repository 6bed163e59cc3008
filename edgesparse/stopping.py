"""When an answer ends before the model says so: stop strings and the loop guard."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["LoopGuard", "StopMatcher"]


class StopMatcher:
    """Finds stop strings in text that comes in pieces, and never lets part of one through.

    The result does not depend on where the pieces are cut: the stop string that is complete first
    wins, of two that end together the longer one.

    Parameters
    ----------
    stops : sequence of str
        Non-empty strings.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max((len(stop) for stop in self._stops), default=0)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Take a piece; give what can no longer be part of a stop string."""
        if not self._stops:
            return text
        held = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return held[: min(found)[1]]
        keep = min(len(held), self._longest - 1)
        while keep and not any(stop.startswith(held[-keep:]) for stop in self._stops):
            keep -= 1
        cut = len(held) - keep
        self._held = held[cut:]
        return held[:cut]

    def flush(self) -> str:
        """Give what was held back, when the text ends without a stop string."""
        held, self._held = self._held, ""
        return held


class LoopGuard:
    """Notices that the tail of an answer is one n-gram over and over.

    It speaks up after `REPEATS` copies of an n-gram of up to `LONGEST` tokens that cover more than
    `SPAN` tokens, so that rulers, tables and choruses pass.
    """

    LONGEST = 64
    REPEATS = 4
    SPAN = 64

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._runs = [0] * self.LONGEST

    def push(self, token: int) -> bool:
        """Take a token; tell whether the answer is in a loop."""
        before = self._tokens[: -self.LONGEST - 1 : -1]
        self._tokens.append(token)
        looping = False
        for index, other in enumerate(before):
            # runs[p - 1] counts how many tokens in a row equalled the one p places before.
            if other != token:
                self._runs[index] = 0
                continue
            self._runs[index] += 1
            if self._runs[index] >= max((self.REPEATS - 1) * (index + 1), self.SPAN):
                looping = True
        return looping
