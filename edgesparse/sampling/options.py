"""`SamplingOptions`: how the next token is chosen, checked on construction."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace

from edgesparse.errors import UsageError

__all__ = ["SamplingOptions"]

_MAX_SEED = (1 << 64) - 1


@dataclass(frozen=True)
class SamplingOptions:
    """Parameters of the sampler chain.

    Attributes
    ----------
    temperature : float
        Divides the logits that survived the filters; 0 or less takes the most likely token.
    top_k : int
        Keep the k most likely tokens; 0 or less keeps all.
    top_p : float
        Keep the smallest set of most likely tokens whose probability reaches p; 1 keeps all.
    min_p : float
        Keep tokens at least p times as likely as the most likely one; 0 keeps all.
    repeat_penalty : float
        Divides positive and multiplies negative logits of recent tokens; 1 changes nothing.
    repeat_last_n : int
        How many tokens are recent for the three penalties, prompt included; −1 means all.
    presence_penalty, frequency_penalty : float
        Subtracted from the logit of a recent token, once and once per occurrence.
    seed : int or None
        Same seed, same text. None (or −1) draws one for each answer; it is reported.

    Raises
    ------
    UsageError
        A value is out of its range.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        self._check("temperature", self.temperature, -math.inf, 100.0)
        self._check("top_p", self.top_p, 0.0, 1.0, low_open=True)
        self._check("min_p", self.min_p, 0.0, 1.0)
        self._check("repeat_penalty", self.repeat_penalty, 0.0, 100.0, low_open=True)
        self._check("presence_penalty", self.presence_penalty, -100.0, 100.0)
        self._check("frequency_penalty", self.frequency_penalty, -100.0, 100.0)
        self._check_int("top_k", self.top_k, -(1 << 31), (1 << 31) - 1)
        self._check_int("repeat_last_n", self.repeat_last_n, -1, (1 << 31) - 1)
        if self.seed == -1:
            object.__setattr__(self, "seed", None)
        if self.seed is not None:
            self._check_int("seed", self.seed, 0, _MAX_SEED)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature <= 0.0

    @property
    def penalises(self) -> bool:
        """Whether recent tokens change the logits at all."""
        neutral = (1.0, 0.0, 0.0)
        values = (self.repeat_penalty, self.presence_penalty, self.frequency_penalty)
        return self.repeat_last_n != 0 and values != neutral

    def seeded(self) -> SamplingOptions:
        """Return the same options with a seed, drawing one if there is none."""
        if self.seed is not None:
            return self
        return replace(self, seed=int.from_bytes(os.urandom(4), "little"))

    @staticmethod
    def _check(
        name: str, value: object, low: float, high: float, *, low_open: bool = False
    ) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UsageError(f"{name}: expected a number, found {value!r}.")
        inside = low < value <= high if low_open else low <= value <= high
        if not (math.isfinite(value) and inside):
            limits = f"at most {high:g}" if low == -math.inf else f"{low:g} to {high:g}"
            besides = f", {low:g} excluded" if low_open else ""
            raise UsageError(f"{name}: expected a number ({limits}{besides}), found {value!r}.")

    @staticmethod
    def _check_int(name: str, value: object, low: int, high: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise UsageError(f"{name}: expected a whole number, found {value!r}.")
        if not low <= value <= high:
            raise UsageError(f"{name}: expected {low} to {high}, found {value}.")
