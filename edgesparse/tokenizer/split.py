"""Find special-token literals in text."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import pairwise

__all__ = ["SpecialSplitter"]


class SpecialSplitter:
    """Leftmost-longest search for a fixed set of literals.

    Parameters
    ----------
    literals : Mapping[str, int]
        Id of each literal, all of two characters or more.
    """

    def __init__(self, literals: Mapping[str, int]) -> None:
        self.literals = dict(literals)
        self._edges: tuple[frozenset[str], frozenset[str], int] | None = None

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        return _compile(self.literals)

    def split(self, text: str) -> Iterator[str | int]:
        """Alternate runs of plain text (`str`, never empty) and special ids (`int`)."""
        if self._pattern is None:
            if text:
                yield text
            return
        start = 0
        for match in self._pattern.finditer(text):
            if match.start() > start:
                yield text[start : match.start()]
            yield self.literals[match.group()]
            start = match.end()
        if start < len(text):
            yield text[start:]

    def disarm(self, text: str, mark: str) -> str:
        """Put `mark` inside every literal of `text`, so that none is found in it any more.

        A text that ends in the middle of a literal, or begins with the end of one, is marked at
        that edge: whatever a template writes beside it cannot complete the literal.
        """
        if self._pattern is None or not text:
            return text
        cuts: list[int] = []
        match = self._pattern.search(text)
        while match is not None:
            cuts.append(match.start() + 1)
            match = self._pattern.search(text, match.start() + 1)
        prefixes, suffixes, longest = self._literal_edges()
        reach = range(1, min(longest, len(text)) + 1)
        if any(text[:k] in suffixes for k in reach):
            cuts.append(0)
        if any(text[-k:] in prefixes for k in reach):
            cuts.append(len(text))
        if not cuts:
            return text
        bounds = [0, *sorted(cuts), len(text)]
        return mark.join(text[a:b] for a, b in pairwise(bounds))

    def _literal_edges(self) -> tuple[frozenset[str], frozenset[str], int]:
        if self._edges is None:
            longest = max(map(len, self.literals))
            prefixes = {x[:k] for x in self.literals for k in range(1, len(x))}
            suffixes = {x[k:] for x in self.literals for k in range(1, len(x))}
            # Whitespace at an edge is left alone: a mark there would defeat a template's `trim`.
            self._edges = (
                frozenset(x for x in prefixes if not x.isspace()),
                frozenset(x for x in suffixes if not x.isspace()),
                longest,
            )
        return self._edges


def _compile(literals: Mapping[str, int]) -> re.Pattern[str] | None:
    if not literals:
        return None
    # Two levels, first two characters and then the rest: text that merely repeats a common
    # first character is rejected without trying thousands of alternatives.
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for literal in literals:
        groups[literal[:2]].append(literal[2:])
    branches = []
    for head, tails in sorted(groups.items()):
        tails.sort(key=len, reverse=True)
        branches.append(re.escape(head) + "(?:" + "|".join(map(re.escape, tails)) + ")")
    return re.compile("|".join(branches))
