"""A meter for programs that cannot be trusted: steps, sizes, depth and processor time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any

from edgesparse.errors import TemplateError

__all__ = ["Limits", "Meter"]

_CHARS_PER_STEP = 32
_STEPS_PER_CLOCK = 512


@dataclass(frozen=True)
class Limits:
    """What a chat template may use.

    Attributes
    ----------
    steps : int
        Units of work in one rendering; a loop turn, a call or 32 characters handled cost one or
        more.
    text : int
        Characters of the output and of every string on the way.
    range : int
        Length of one ``range``.
    calls : int
        Depth of macro calls.
    cpu_seconds : float
        Processor time of the rendering thread.
    source : int
        Characters of the template.
    nodes, nesting : int
        Size and depth of its syntax tree.
    """

    steps: int = 1_000_000
    text: int = 4 << 20
    range: int = 10_000
    calls: int = 32
    cpu_seconds: float = 0.2
    source: int = 256 << 10
    nodes: int = 50_000
    nesting: int = 100


class Meter:
    """Counts one rendering against `Limits`; every method raises `TemplateError` at a limit."""

    __slots__ = ("_deadline", "_next_clock", "depth", "limits", "steps")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.steps = 0
        self.depth = 0
        self._next_clock = _STEPS_PER_CLOCK
        self._deadline = time.thread_time() + limits.cpu_seconds

    def charge(self, steps: int = 1) -> None:
        """Spend `steps`."""
        self.steps += steps
        if self.steps < self._next_clock:
            return
        self._next_clock = self.steps + _STEPS_PER_CLOCK
        if self.steps > self.limits.steps:
            raise TemplateError(
                f"the chat template takes more than {self.limits.steps} steps.", advice=_ADVICE
            )
        if time.thread_time() > self._deadline:
            raise TemplateError(
                f"the chat template takes more than {self.limits.cpu_seconds} s.", advice=_ADVICE
            )

    def text(self, length: int) -> None:
        """Spend the handling of a string of `length` characters."""
        if length > self.limits.text:
            raise TemplateError(
                f"the chat template makes a text longer than {self.limits.text} characters.",
                advice=_ADVICE,
            )
        self.charge(1 + length // _CHARS_PER_STEP)

    def items(self, count: int) -> None:
        """Spend the handling of `count` items; checked before they are made."""
        self.charge(1 + count)

    def weigh(self, value: Any) -> None:
        """Spend the handling of `value` with all it holds.

        A list that holds another one twice is counted twice, as printing or comparing would.
        """
        if isinstance(value, str):
            self.text(len(value))
            return
        stack = [(value, 0)]
        while stack:
            item, depth = stack.pop()
            if isinstance(item, str):
                self.text(len(item))
                continue
            self.charge()
            if isinstance(item, Mapping):
                children: list[Any] = [*item.keys(), *item.values()]
            elif isinstance(item, (list, tuple, set)):
                children = list(item)
            else:
                continue
            if depth >= 64:
                raise TemplateError("the chat template nests lists too deeply.", advice=_ADVICE)
            stack.extend((child, depth + 1) for child in children)

    def iterate(self, values: Any) -> Any:
        """`values` for a loop: charged at once if the length is known, else item by item."""
        if isinstance(values, Sized):
            self.items(len(values))
            return values
        if isinstance(values, Iterable):
            return self._counted(values)
        return values  # not iterable: the loop itself reports it

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self.charge()
            yield value


_ADVICE = "Choose another template, e.g. --chat-template chatml."
