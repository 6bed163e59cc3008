"""What a memory budget may change before it refuses: exact choices, from the cheapest to give up.

Each attempt is refused, or not, before its weights are allocated, so trying costs milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TypeVar

from edgesparse.errors import MemoryBudgetError
from edgesparse.formats.weight import Format

__all__ = ["Fit", "attempts", "first_that_fits"]

SMALL_CHUNK = 32
"""Tokens in a prompt's step when memory is tight; prompts are slower by a fifth or less."""

_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True)
class Fit:
    """Exact choices that cost memory.

    Attributes
    ----------
    ternary : Format
        Storage of ternary matrices.
    chunk : int
        Tokens in a step of a prompt.
    by_neurons : bool
        Matrices that meet zeros lie neuron by neuron, in two bits, so that zeros can be skipped.
    """

    ternary: Format
    chunk: int
    by_neurons: bool = True

    def given_up(self, preferred: Fit, stored: Collection[Format]) -> str:
        """Say what differs from the choice without a budget; empty if nothing does.

        `stored` holds the formats of the loaded matrices: a model may have no ternary ones.
        """
        parts = []
        if self.ternary is not preferred.ternary and self.ternary in stored:
            parts.append(f"ternary weights in {self.ternary.name.lower()}")
        if self.chunk != preferred.chunk:
            parts.append(f"prompts in steps of {self.chunk} tokens")
        if self.by_neurons != preferred.by_neurons:
            parts.append("inputs that are zero are not skipped")
        return f"to stay within the memory budget: {', '.join(parts)}" if parts else ""


def attempts(preferred: Fit, *, any_ternary: bool) -> list[Fit]:
    """List what to try, from the fastest to the smallest.

    Parameters
    ----------
    preferred : Fit
        The choice without a budget.
    any_ternary : bool
        The storage of ternary matrices was not asked for by name.
    """
    smallest = Format.T5 if any_ternary else preferred.ternary
    packed = replace(preferred, ternary=smallest)
    stepwise = replace(packed, chunk=min(packed.chunk, SMALL_CHUNK))
    return list(dict.fromkeys([preferred, packed, stepwise, replace(stepwise, by_neurons=False)]))


def first_that_fits(load: Callable[[Fit], _Loaded], fits: list[Fit]) -> tuple[_Loaded, Fit]:
    """Load with the first choice that is not refused.

    Raises
    ------
    MemoryBudgetError
        All are; it is the refusal of the smallest.
    """
    for fit in fits[:-1]:
        try:
            return load(fit), fit
        except MemoryBudgetError:
            continue
    return load(fits[-1]), fits[-1]
