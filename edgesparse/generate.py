"""Prompt → answer: the loop of sample, decode, check for an end, compute the next logits.

`stream_tokens` is the loop; `stream` and `generate` are what `Model` offers on top of it, and
``chat.py`` the same for conversations.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesparse.answer import Chunk, FinishReason, Float32, GenerationOptions, Result, Stats
from edgesparse.cancel import CancelToken
from edgesparse.errors import Cancelled
from edgesparse.ops.two_stage import N_TILES
from edgesparse.sampling.sampler import Sampler, log_probabilities
from edgesparse.session import CachedSequence, EngineLike, OnPrefill
from edgesparse.stopping import LoopGuard, StopMatcher

if TYPE_CHECKING:
    from edgesparse.tokenizer.tokenizer import Tokenizer

__all__ = [
    "Chunk",
    "FinishReason",
    "GenerationOptions",
    "Result",
    "Stats",
    "generate",
    "prompt_tokens",
    "stream",
    "stream_tokens",
]


def generate(
    engine: EngineLike,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    *,
    cancel: CancelToken | None = None,
    **options: Any,
) -> Result:
    """Continue a raw prompt and return the whole answer; parameters as in `stream`."""
    return Result.collect(stream(engine, tokenizer, prompt, cancel=cancel, **options))


def stream(
    engine: EngineLike,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    *,
    cancel: CancelToken | None = None,
    on_prefill: OnPrefill | None = None,
    **options: Any,
) -> Iterator[Chunk]:
    """Continue a raw prompt (no chat template), token by token.

    Parameters
    ----------
    engine, tokenizer
        A loaded model's.
    prompt : str or sequence of int
        Text (BOS is added where the model wants it; literals of control tokens stay text) or ids.
    cancel : CancelToken, optional
        Ends the answer from any thread; closing the iterator does so too.
    on_prefill : callable, optional
        Told (done, total) while the prompt is read.
    **options
        See `GenerationOptions` and `SamplingOptions`.

    Raises
    ------
    ContextOverflow
        The prompt does not fit.
    UsageError
        An option is unknown or out of range, or the prompt is empty.
    """
    settings = GenerationOptions().updated(**options)
    ids = prompt_tokens(tokenizer, prompt)
    sequence = CachedSequence(engine)
    return stream_tokens(sequence, tokenizer, ids, settings, cancel=cancel, on_prefill=on_prefill)


def prompt_tokens(
    tokenizer: Tokenizer, prompt: str | Sequence[int], *, parse_special: bool = False
) -> list[int]:
    """Give the ids of a raw prompt: one BOS where the model wants it, never EOS.

    `parse_special` reads literals of control tokens as those tokens.
    """
    if not isinstance(prompt, str):
        return [int(token) for token in prompt]
    ids = tokenizer.encode(prompt, parse_special=parse_special)
    if ids[:1] == [tokenizer.bos_id]:
        return ids
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        ids.insert(0, tokenizer.bos_id)
    return ids


def stream_tokens(
    sequence: CachedSequence,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    options: GenerationOptions,
    *,
    cancel: CancelToken | None = None,
    on_prefill: OnPrefill | None = None,
    continuation: bool = True,
) -> Generator[Chunk, None, None]:
    """Answer `prompt` on a sequence whose cached prefix is reused.

    Yields one `Chunk` per token and a last one that ends the answer. The texts add up to the
    answer; an incomplete last character is left out. Closing the iterator early leaves the
    sequence usable. `continuation` keeps the space that some vocabularies put before a first word.

    Raises
    ------
    ContextOverflow, UsageError
        As `CachedSequence.prefill` and `CachedSequence.claim`, with the first item.
    """
    with sequence.claim():
        answer = _Answer(sequence, tokenizer, options, cancel, continuation)
        yield from answer.run(prompt, on_prefill)


def _needs_all(options: GenerationOptions) -> bool:
    """Tell whether an answer may look beyond the candidates of a two-stage head.

    Candidates hold the 256 best rows of the coarse pass; penalties only lower some of them.
    """
    sampling = options.sampling
    few = sampling.greedy or 1 <= sampling.top_k <= N_TILES
    return not few or bool(options.logits_processors) or options.logprobs is not None


class _Answer:
    """The state of one answer."""

    def __init__(
        self,
        sequence: CachedSequence,
        tokenizer: Tokenizer,
        options: GenerationOptions,
        cancel: CancelToken | None,
        continuation: bool,
    ) -> None:
        self.sequence = sequence
        self.options = options
        self.cancel = cancel
        self.sampler = Sampler(options.sampling)
        sequence.exact = _needs_all(options)
        self.matcher = StopMatcher(options.stop)
        self.guard = LoopGuard()
        self.decoder = tokenizer.stream(continuation=continuation)
        self.n_vocab = tokenizer.n_vocab
        self.ends = frozenset() if options.ignore_eog else tokenizer.eog_ids
        self.stats = Stats(seed=self.sampler.seed)
        self.tokens: list[int] = []

    def run(self, prompt: Sequence[int], on_prefill: OnPrefill | None) -> Iterator[Chunk]:
        self.tokens = list(prompt)
        self.stats = replace(self.stats, prompt_tokens=len(self.tokens))
        begin = time.perf_counter()
        try:
            logits, n_reused = self.sequence.prefill(
                self.tokens, cancel=self.cancel, on_prefill=on_prefill
            )
        except Cancelled:
            yield self._end("cancelled")
            return
        prefill_s = time.perf_counter() - begin
        self.stats = replace(self.stats, reused_tokens=n_reused, prefill_s=prefill_s)
        room = self.sequence.capacity - len(self.tokens)
        limit = self.options.max_tokens
        limit = room if limit is None else min(limit, room)
        for _ in range(limit):
            chunk, reason = self._choose(logits)
            yield chunk
            if reason is not None:
                yield self._end(reason)
                return
            if self.stats.generation_tokens == limit:
                break
            begin = time.perf_counter()
            try:
                logits = self.sequence.extend(self.tokens[-1], cancel=self.cancel)
            except Cancelled:
                yield self._end("cancelled")
                return
            self._spent(begin)
        yield self._end("length")

    def _choose(self, logits: Float32) -> tuple[Chunk, FinishReason | None]:
        """Take the next token; tell what it adds and whether it ends the answer."""
        begin = time.perf_counter()
        # Embeddings may have more rows than the vocabulary has tokens: those cannot be spoken.
        logits = logits[: self.n_vocab]
        for process in self.options.logits_processors:
            logits = np.asarray(process(self.tokens, logits), np.float32)
        token = self.sampler.sample(logits, self.tokens)
        logprob, top = None, dict[int, float]()
        if self.options.logprobs is not None:
            logprob, top = log_probabilities(logits, token, self.options.logprobs)
        self.tokens.append(token)
        self.stats = replace(self.stats, generation_tokens=self.stats.generation_tokens + 1)
        text = ""
        reason: FinishReason | None = None
        if token in self.ends:
            reason = "stop"
        else:
            text = self.matcher.push(self.decoder.push(token))
            looping = self.guard.push(token)
            if self.matcher.stopped:
                reason = "stop"
            elif looping and self.options.loop_guard:
                reason = "repetition"
        if self.stats.generation_tokens > 1:  # the first one counts as part of the prompt's time
            self._spent(begin)
        return Chunk(text, token, self.stats, logprob=logprob, top_logprobs=top), reason

    def _spent(self, begin: float) -> None:
        seconds = self.stats.decode_s + time.perf_counter() - begin
        self.stats = replace(self.stats, decode_s=seconds)

    def _end(self, reason: FinishReason) -> Chunk:
        return Chunk(self.matcher.flush(), None, self.stats, finish_reason=reason)
