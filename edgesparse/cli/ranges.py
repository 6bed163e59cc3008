"""Lists of numbers as llama-bench takes them: ``1,2,8``, ``1-4``, ``1-8+2``, ``1-8*2``."""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgesparse.errors import UsageError

__all__ = ["number_pairs", "whole_numbers"]

_RANGE = re.compile(r"(\d{1,9})-(\d{1,9})(?:([+*])(\d{1,9}))?")
_MAX_COUNT = 1000


def whole_numbers(texts: Iterable[str], flag: str, *, least: int = 0) -> list[int]:
    """Read a flag that may be repeated; equal numbers count once, the order stays.

    Raises
    ------
    UsageError
        Something else than such a list, a number below `least`, or a range without an end.
    """
    numbers: list[int] = []
    for part in (part.strip() for text in texts for part in text.split(",")):
        if part:
            numbers += _expand(part, flag)
    bad = [number for number in numbers if number < least]
    if bad:
        raise UsageError(f"{flag} takes numbers from {least} on, not {bad[0]}.")
    return list(dict.fromkeys(numbers))


def number_pairs(texts: Iterable[str], flag: str) -> list[tuple[int, int]]:
    """Read a flag whose values are two positive numbers: ``512,128``.

    Raises
    ------
    UsageError
        A value is something else.
    """
    pairs = []
    for text in texts:
        numbers = [part.strip() for part in text.split(",")]
        if len(numbers) != 2 or not all(n.isascii() and n.isdecimal() and int(n) for n in numbers):
            raise UsageError(f"{flag} takes two positive numbers as in 512,128, not {text!r}.")
        pairs.append((int(numbers[0]), int(numbers[1])))
    return pairs


def _expand(part: str, flag: str) -> list[int]:
    if part.isascii() and part.isdecimal() and len(part) <= 9:
        return [int(part)]
    found = _RANGE.fullmatch(part)
    if found is None:
        raise UsageError(
            f"{flag} takes whole numbers separated by commas, not {part!r}.",
            advice="Ranges are first-last, first-last+step or first-last*factor.",
        )
    first, last, step = int(found[1]), int(found[2]), int(found[4] or 1)
    grows = step > 1 and first > 0 if found[3] == "*" else step > 0
    if not grows or last < first:
        raise UsageError(f"{flag}: the range {part!r} does not grow to its end.")
    numbers: list[int] = []
    while first <= last:
        if len(numbers) == _MAX_COUNT:
            raise UsageError(f"{flag}: the range {part!r} has more than {_MAX_COUNT} numbers.")
        numbers.append(first)
        first = first * step if found[3] == "*" else first + step
    return numbers
