"""`Session`: a conversation that keeps its keys and values, so that a turn costs what is new."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesparse.answer import Chunk, GenerationOptions, Result
from edgesparse.cancel import CancelToken
from edgesparse.errors import UsageError
from edgesparse.generate import stream_tokens
from edgesparse.session import CachedSequence, EngineLike, OnPrefill

if TYPE_CHECKING:
    from edgesparse.tokenizer.tokenizer import Tokenizer

__all__ = ["Session", "Turn"]


@dataclass(frozen=True)
class Turn:
    """One exchange.

    Attributes
    ----------
    user, answer : str
        What was said.
    sampled : tuple of int
        Tokens of the answer as the model chose them, without the one that ended it.
    rendered : tuple of int
        The prompt as the template writes it.
    prompt : tuple of int
        The prompt as it was run: earlier answers in the tokens that the model chose.
    """

    user: str
    answer: str
    sampled: tuple[int, ...] = ()
    rendered: tuple[int, ...] = ()
    prompt: tuple[int, ...] = ()


class Session:
    """A conversation with a model; one thread at a time.

    Parameters
    ----------
    engine, tokenizer
        A loaded model's; many sessions may share them.
    system : str, optional
        System prompt; without one the template's own default holds.
    load : path, optional
        A file that `save` wrote.
    **options
        Defaults for every answer; see `GenerationOptions` and `SamplingOptions`.
    """

    def __init__(
        self,
        engine: EngineLike,
        tokenizer: Tokenizer,
        system: str | None = None,
        *,
        load: str | Path | None = None,
        **options: Any,
    ) -> None:
        self.options = GenerationOptions().updated(**options)
        self._tokenizer = tokenizer
        self._sequence = CachedSequence(engine)
        self._turns: tuple[Turn, ...] = ()
        self._system = system
        if load is not None:
            self.load(load)

    # -- talking --------------------------------------------------------------------------------

    def send(self, text: str, *, cancel: CancelToken | None = None, **options: Any) -> Result:
        """Say something and return the whole answer; parameters as in `stream`."""
        return Result.collect(self.stream(text, cancel=cancel, **options))

    def stream(
        self,
        text: str,
        *,
        cancel: CancelToken | None = None,
        on_prefill: OnPrefill | None = None,
        **options: Any,
    ) -> Iterator[Chunk]:
        """Say something and return the answer as it is made.

        An answer that is cancelled, or whose iterator is closed, stays in the history as far as it
        got; one that has no text yet leaves the conversation as it was.

        Parameters
        ----------
        text : str
            The user's message; literals of control tokens in it stay text.
        cancel : CancelToken, optional
            Ends the answer from any thread, also while the prompt is read.
        on_prefill : callable, optional
            Told (done, total) while the new part of the prompt is read.
        **options
            Changes to the session's options for this answer.

        Raises
        ------
        ContextOverflow
            The conversation does not fit any more; it is as before.
        UsageError
            An option is wrong, or another answer is being made.
        TemplateError
            The model's chat template refuses the conversation.
        """
        settings = self.options.updated(**options)
        return self._answer(self._turns, text, settings, cancel, on_prefill)

    def regenerate(
        self,
        *,
        cancel: CancelToken | None = None,
        on_prefill: OnPrefill | None = None,
        **options: Any,
    ) -> Iterator[Chunk]:
        """Answer the last message again; the old answer goes when the new one has text.

        Raises
        ------
        UsageError
            Nothing was said yet.
        """
        if not self._turns:
            raise UsageError("there is no answer to make again.", advice="Say something first.")
        settings = self.options.updated(**options)
        last = self._turns[-1].user
        return self._answer(self._turns[:-1], last, settings, cancel, on_prefill)

    # -- the conversation -----------------------------------------------------------------------

    @property
    def history(self) -> list[dict[str, str]]:
        """The messages so far, the system prompt first: ``{"role": …, "content": …}``."""
        return self._messages(self._turns)

    @property
    def system(self) -> str | None:
        """The system prompt; setting it keeps the conversation."""
        return self._system

    @system.setter
    def system(self, text: str | None) -> None:
        self._system = text

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values are held."""
        return len(self._sequence.tokens)

    @property
    def capacity(self) -> int:
        """Tokens that the conversation can hold."""
        return self._sequence.capacity

    def reset(self) -> None:
        """Forget the conversation, keep the system prompt and the options."""
        with self._sequence.claim():
            self._turns = ()

    def undo(self) -> bool:
        """Drop the last exchange; tell whether there was one."""
        with self._sequence.claim():
            existed = bool(self._turns)
            self._turns = self._turns[:-1]
        return existed

    def save(self, path: str | Path) -> None:
        """Write the conversation to a JSON file, replacing it at once or not at all.

        The tokens of the answers are kept, so that `load` continues with the same bits; keys and
        values are computed again.

        Raises
        ------
        UsageError
            The file cannot be written.
        """
        from edgesparse.transcript import write_transcript

        turns = [(turn.user, turn.answer, turn.sampled) for turn in self._turns]
        write_transcript(Path(path), self._system, turns)

    def load(self, path: str | Path) -> None:
        """Replace the conversation by a saved one.

        Raises
        ------
        UsageError
            The file is missing or is not a saved conversation.
        """
        from edgesparse.transcript import read_transcript

        system, saved = read_transcript(Path(path))
        with self._sequence.claim():
            self._system = system
            turns: tuple[Turn, ...] = ()
            for user, answer, sampled in saved:
                rendered, prompt = self._prompt(turns, user)
                if any(token >= self._tokenizer.n_vocab for token in sampled):
                    sampled = ()  # another model's
                turn = Turn(user, answer, sampled, tuple(rendered), tuple(prompt))
                turns = (*turns, turn)
            self._turns = turns

    # -- inside ---------------------------------------------------------------------------------

    def _answer(
        self,
        turns: tuple[Turn, ...],
        user: str,
        options: GenerationOptions,
        cancel: CancelToken | None,
        on_prefill: OnPrefill | None,
    ) -> Iterator[Chunk]:
        rendered, prompt = self._prompt(turns, user)
        texts: list[str] = []
        sampled: list[int] = []
        finished = False
        chunks = stream_tokens(
            self._sequence,
            self._tokenizer,
            prompt,
            options,
            cancel=cancel,
            on_prefill=on_prefill,
            continuation=False,
        )
        try:
            for chunk in chunks:
                texts.append(chunk.text)
                if chunk.token is not None and chunk.token not in self._tokenizer.eog_ids:
                    sampled.append(chunk.token)
                if chunk.finish_reason not in (None, "cancelled"):
                    finished = True
                yield chunk
        finally:
            chunks.close()
            text = "".join(texts)
            if text or finished:
                turn = Turn(user, text, tuple(sampled), tuple(rendered), tuple(prompt))
                self._turns = (*turns, turn)

    def _messages(self, turns: Sequence[Turn]) -> list[dict[str, str]]:
        messages = []
        if self._system is not None:
            messages.append({"role": "system", "content": self._system})
        for turn in turns:
            messages.append({"role": "user", "content": turn.user})
            messages.append({"role": "assistant", "content": turn.answer})
        return messages

    def _prompt(self, turns: tuple[Turn, ...], user: str) -> tuple[list[int], list[int]]:
        """Give the prompt as the template writes it, and as it is to be run.

        An answer's text may have other tokens than those that the model chose. The chosen ones are
        what it has in its cache, so they are put in place of what the template's text encodes to,
        wherever both spell the same answer.
        """
        messages = [*self._messages(turns), {"role": "user", "content": user}]
        rendered = self._tokenizer.encode_chat(messages, add_generation_prompt=True)
        if not turns:
            return rendered, rendered
        last = turns[-1]
        start = len(last.rendered)
        if not last.sampled or tuple(rendered[:start]) != last.rendered:
            return rendered, rendered
        tail = rendered[start:]
        is_control = self._tokenizer.is_control
        end = next((i for i, token in enumerate(tail) if is_control(token)), len(tail))
        spelled = self._tokenizer.decode(tail[:end]).strip()
        if not spelled == self._tokenizer.decode(last.sampled).strip() == last.answer.strip():
            return rendered, rendered
        return rendered, [*last.prompt, *last.sampled, *tail[end:]]
