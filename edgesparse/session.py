"""`CachedSequence`: the tokens of one conversation and the keys and values computed for them.

Only what is new is computed: a prompt that begins like the tokens already held reuses them. Next
file: ``generate.py``, which turns prompts into answers on top of this.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgesparse.cancel import CancelToken
from edgesparse.errors import Cancelled, ContextOverflow, UsageError
from edgesparse.executors.base import CancelFlag, KVCache

__all__ = ["CachedSequence", "EngineLike", "OnPrefill"]

Float32 = npt.NDArray[np.float32]
OnPrefill = Callable[[int, int], None]
"""Called with (tokens computed, tokens to compute) while a prompt is read."""

_FIRST_CHUNK = 64
_CHUNK_S = 1.0
"""Chunks grow until one takes this long, which is what a progress report may wait for and what a
stop may throw away; the stop itself waits for one op only. Large chunks unpack weights less
often."""


class EngineLike(Protocol):
    """The part of `edgesparse.engine.Engine` that sequences need."""

    @property
    def n_ctx(self) -> int:
        """Positions that a cache holds."""

    @property
    def n_vocab(self) -> int:
        """Length of a row of logits."""

    @property
    def max_tokens(self) -> int:
        """Tokens in one step, at most."""

    def new_cache(self, capacity: int | None = None) -> KVCache:
        """Make an empty cache."""

    def forward(
        self,
        cache: KVCache,
        tokens: Sequence[int] | npt.NDArray[np.int32],
        start: int,
        *,
        outputs: Literal["last", "all", "none"] = "last",
        cancel: CancelFlag | None = None,
        chunk: int | None = None,
        thresholds: bool = False,
        exact: bool = True,
    ) -> Float32:
        """Run tokens at positions `start`…; give logits (1 or n or 0, n_vocab)."""


class CachedSequence:
    """One sequence of tokens with its cache; one thread at a time.

    Parameters
    ----------
    engine : Engine
        Computes; may be shared by any number of sequences.
    capacity : int, optional
        Positions; the engine's context by default.

    Attributes
    ----------
    tokens : list of int
        Tokens whose keys and values are in the cache.
    capacity : int
        Positions that fit.
    exact : bool
        Whether answers need every logit; False lets a two-stage head leave out all but its
        candidates.
    """

    def __init__(self, engine: EngineLike, capacity: int | None = None) -> None:
        self.engine = engine
        self.tokens: list[int] = []
        self.exact = True
        self._cache = engine.new_cache(capacity)
        self.capacity = self._cache.capacity
        self._busy = threading.Lock()

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the sequence for one answer.

        Raises
        ------
        UsageError
            Another answer is being made.
        """
        if not self._busy.acquire(blocking=False):
            raise UsageError(
                "this conversation is already making an answer.",
                advice="Finish or close that stream first, or give each thread its own chat.",
            )
        try:
            yield
        finally:
            self._busy.release()

    def prefill(
        self,
        prompt: Sequence[int],
        *,
        cancel: CancelToken | None = None,
        on_prefill: OnPrefill | None = None,
    ) -> tuple[Float32, int]:
        """Make the sequence equal to `prompt`, computing only what is not held already.

        Parameters
        ----------
        prompt : sequence of int
            At least one token and fewer than `capacity`.
        cancel : CancelToken, optional
            Stops within one op; chunks that were finished are kept.
        on_prefill : callable, optional
            Told about progress before the first and after every chunk.

        Returns
        -------
        logits : (n_vocab,) float32
            Scores of the token that follows.
        n_reused : int
            Tokens that were not computed again; the last one always is, for its logits.

        Raises
        ------
        Cancelled
            `cancel` was set.
        ContextOverflow
            The prompt leaves no room for an answer.
        UsageError
            The prompt is empty.
        """
        prompt = list(prompt)
        if not prompt:
            raise UsageError("the prompt has no tokens.", advice="Give at least one word.")
        if len(prompt) >= self.capacity:
            raise ContextOverflow(
                f"the prompt has {len(prompt)} tokens and the context holds {self.capacity}, "
                "one of which the answer needs.",
                advice="Shorten the prompt, clear the conversation, or ask for a larger context.",
                n_prompt=len(prompt),
                n_ctx=self.capacity,
            )
        n_reused = min(_common_prefix(self.tokens, prompt), len(prompt) - 1)
        n_reused = self._cache.reusable(len(self.tokens), n_reused)
        del self.tokens[n_reused:]
        n_new = len(prompt) - n_reused
        chunk = min(_FIRST_CHUNK, self.engine.max_tokens)
        while True:
            if on_prefill is not None:
                on_prefill(len(self.tokens) - n_reused, n_new)
            begin = time.perf_counter()
            done = len(self.tokens)
            is_last = done + chunk >= len(prompt)
            logits = self._run(prompt[done : done + chunk], is_last, cancel, generated=False)
            if is_last:
                break
            if time.perf_counter() - begin < _CHUNK_S / 2:
                chunk = min(2 * chunk, self.engine.max_tokens)
        if on_prefill is not None:
            on_prefill(n_new, n_new)
        return logits[0], n_reused

    def extend(self, token: int, *, cancel: CancelToken | None = None) -> Float32:
        """Append one token; give the (n_vocab,) logits of the token that follows.

        Raises
        ------
        Cancelled
            `cancel` was set; the sequence is as before.
        ContextOverflow
            The sequence is full.
        """
        if len(self.tokens) >= self.capacity:
            raise ContextOverflow(
                f"the context of {self.capacity} tokens is full.",
                n_prompt=len(self.tokens) + 1,
                n_ctx=self.capacity,
            )
        logits: Float32 = self._run([token], True, cancel, generated=True)[0]
        return logits

    def clear(self) -> None:
        """Forget all tokens."""
        self.tokens.clear()

    def _run(
        self, tokens: list[int], is_last: bool, cancel: CancelToken | None, *, generated: bool
    ) -> Float32:
        if cancel is not None and cancel.cancelled:
            raise Cancelled("stopped on request.")
        logits = self.engine.forward(
            self._cache,
            np.asarray(tokens, np.int32),
            len(self.tokens),
            outputs="last" if is_last else "none",
            cancel=None if cancel is None else cancel.flag,
            chunk=len(tokens),
            thresholds=generated,
            exact=self.exact,
        )
        self.tokens += tokens
        return logits


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
