"""What goes into an answer and what comes out: options, statistics, stream items, results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgesparse.errors import UsageError
from edgesparse.sampling.options import SamplingOptions

__all__ = ["Chunk", "FinishReason", "Float32", "GenerationOptions", "Result", "Stats"]

Float32 = npt.NDArray[np.float32]
FinishReason = Literal["stop", "length", "repetition", "cancelled"]
LogitsProcessor = Callable[[Sequence[int], Float32], Float32]

_ALIASES = {
    "temp": "temperature",
    "predict": "max_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "repetition_penalty": "repeat_penalty",
    "penalty_last_n": "repeat_last_n",
}
_SAMPLING = frozenset(item.name for item in fields(SamplingOptions))


@dataclass(frozen=True)
class GenerationOptions:
    """How an answer is made and when it ends.

    Attributes
    ----------
    sampling : SamplingOptions
        How tokens are chosen.
    max_tokens : int or None
        Tokens at most; None (or −1) means the rest of the context.
    stop : tuple of str
        Strings that end the answer and are not part of it.
    loop_guard : bool
        End an answer that repeats one n-gram over and over, with finish reason ``"repetition"``.
    ignore_eog : bool
        Go on after tokens that end an answer.
    logprobs : int or None
        None: no log-probabilities; n: of the chosen token and of the n most likely ones.
    logits_processors : tuple of callable
        Called in order with (tokens so far, (n_vocab,) float32 logits); return the new logits.

    Raises
    ------
    UsageError
        A value is out of its range.
    """

    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    loop_guard: bool = True
    ignore_eog: bool = False
    logprobs: int | None = None
    logits_processors: tuple[LogitsProcessor, ...] = ()

    def __post_init__(self) -> None:
        stop: object = self.stop
        if isinstance(stop, str):
            stop = (stop,)
        stop = tuple(stop) if isinstance(stop, Iterable) else ()
        if not all(isinstance(item, str) and item for item in stop):
            raise UsageError("stop: expected one or more strings that are not empty.")
        object.__setattr__(self, "stop", stop)
        if self.max_tokens == -1:
            object.__setattr__(self, "max_tokens", None)
        _check_count("max_tokens", self.max_tokens)
        _check_count("logprobs", self.logprobs)
        object.__setattr__(self, "logits_processors", tuple(self.logits_processors))

    def updated(self, **changes: Any) -> GenerationOptions:
        """Return a copy with some values changed.

        Parameters
        ----------
        **changes
            Fields of this class and of `SamplingOptions`, by their names or the common aliases
            (``temp``, ``n_predict``, …). ``stop=None`` means no stop strings.

        Raises
        ------
        UsageError
            An unknown name, or a value out of its range.
        """
        own: dict[str, Any] = {}
        sampling: dict[str, Any] = {}
        for given, value in changes.items():
            name = _ALIASES.get(given, given)
            if name in _SAMPLING:
                sampling[name] = value
            elif name in _OWN:
                own[name] = () if name == "stop" and value is None else value
            else:
                known = ", ".join(sorted(_SAMPLING | (_OWN - {"sampling"})))
                raise UsageError(f"there is no option {given!r}.", advice=f"Known: {known}.")
        if sampling:
            own["sampling"] = replace(own.get("sampling", self.sampling), **sampling)
        return replace(self, **own)


_OWN = frozenset(item.name for item in fields(GenerationOptions))


@dataclass(frozen=True)
class Stats:
    """What an answer cost so far.

    Attributes
    ----------
    prompt_tokens : int
        Tokens of the whole prompt.
    reused_tokens : int
        How many of them were in the cache already.
    generation_tokens : int
        Tokens chosen, the one that ended the answer included.
    prefill_s : float
        Seconds until the first logits.
    decode_s : float
        Seconds spent on the rest; time that the caller keeps the stream waiting does not count.
    seed : int
        Seed of the sampler: with it the answer can be had again.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    generation_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    seed: int = 0

    @property
    def prompt_tps(self) -> float:
        """Prompt tokens computed per second."""
        return _rate(self.prompt_tokens - self.reused_tokens, self.prefill_s)

    @property
    def generation_tps(self) -> float:
        """Tokens per second after the first one, which came with the prompt's logits."""
        return _rate(self.generation_tokens - 1, self.decode_s)

    @property
    def peak_memory(self) -> float:
        """Largest resident set of the process so far, in GB (10⁹); 0 where it cannot be known."""
        try:
            import resource
        except ImportError:
            return 0.0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9

    def to_dict(self) -> dict[str, Any]:
        """Return counts, seconds and rates by name."""
        return {
            **asdict(self),
            "prompt_tps": self.prompt_tps,
            "generation_tps": self.generation_tps,
        }


@dataclass(frozen=True)
class Chunk:
    """One item of a stream: what a token added to the text.

    Attributes
    ----------
    text : str
        New text; empty while a character or a possible stop string is incomplete.
    token : int or None
        The token; None in the last item, which only ends the answer.
    logprob : float or None
        Its log-probability, if asked for.
    top_logprobs : mapping of int to float
        Those of the most likely tokens, if asked for.
    finish_reason : str or None
        In the last item: ``"stop"`` (the model ended, or a stop string), ``"length"``
        (`max_tokens` or a full context), ``"repetition"`` or ``"cancelled"``.
    stats : Stats
        So far.
    """

    text: str
    token: int | None
    stats: Stats
    finish_reason: FinishReason | None = None
    logprob: float | None = None
    top_logprobs: Mapping[int, float] = field(default_factory=dict)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return self.stats.prompt_tokens

    @property
    def prompt_tps(self) -> float:
        """Prompt tokens computed per second."""
        return self.stats.prompt_tps

    @property
    def generation_tokens(self) -> int:
        """Tokens chosen so far."""
        return self.stats.generation_tokens

    @property
    def generation_tps(self) -> float:
        """Tokens per second so far."""
        return self.stats.generation_tps

    @property
    def peak_memory(self) -> float:
        """Largest resident set of the process so far, in GB (10⁹)."""
        return self.stats.peak_memory


@dataclass(frozen=True)
class Result:
    """A complete answer.

    Attributes
    ----------
    text : str
        The answer, without what ended it.
    ids : tuple of int
        Every token chosen, the one that ended the answer included.
    finish_reason : str
        As in `Chunk`.
    stats : Stats
        Counts and times.
    logprobs : tuple of float
        One per token, if asked for.
    """

    text: str
    ids: tuple[int, ...]
    finish_reason: FinishReason
    stats: Stats
    logprobs: tuple[float, ...] = ()

    @classmethod
    def collect(cls, chunks: Iterable[Chunk]) -> Result:
        """Run a stream to its end."""
        items = list(chunks)
        last = items[-1]
        return cls(
            text="".join(item.text for item in items),
            ids=tuple(item.token for item in items if item.token is not None),
            finish_reason=last.finish_reason or "cancelled",
            stats=last.stats,
            logprobs=tuple(item.logprob for item in items if item.logprob is not None),
        )

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, fit for JSON."""
        data = {
            "text": self.text,
            "ids": list(self.ids),
            "finish_reason": self.finish_reason,
            "stats": self.stats.to_dict(),
        }
        return {**data, "logprobs": list(self.logprobs)} if self.logprobs else data


def _rate(count: int, seconds: float) -> float:
    return count / seconds if count > 0 and seconds > 0 else 0.0


def _check_count(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageError(f"{name}: expected a whole number of at least 0, found {value!r}.")
