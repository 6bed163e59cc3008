"""`Repl`: one conversation between a person (or a pipe) and a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgesparse.cli.answering import StartAnswer, print_answer, speed_details, speed_line
from edgesparse.cli.commands import obey
from edgesparse.cli.terminal import Terminal
from edgesparse.errors import EdgesparseError

if TYPE_CHECKING:
    from edgesparse.answer import Stats
    from edgesparse.chat import Session
    from edgesparse.model import Model

__all__ = ["Repl"]


class Repl:
    """Says lines to a model, carries slash commands out.

    Attributes
    ----------
    session : Session
        The conversation.
    terminal : Terminal
        Where text goes.
    verbose : bool
        Print all figures behind an answer instead of the speed line.
    pending : str
        Text that `/read` put in front of the next message.
    leaving : bool
        The conversation is over.
    last : Stats or None
        Cost of the last answer.
    """

    def __init__(
        self, model: Model, session: Session, terminal: Terminal, *, verbose: bool = False
    ) -> None:
        self._model = model
        self.session = session
        self.terminal = terminal
        self.verbose = verbose
        self.pending = ""
        self.leaving = False
        self.last: Stats | None = None

    def run(self, messages: Iterator[str]) -> None:
        """Go through messages until they end or one says to leave.

        Raises
        ------
        EdgesparseError
            Not in an interactive conversation, which goes on after an error.
        KeyboardInterrupt
            Ctrl-C in a conversation that is not interactive.
        """
        for message in messages:
            try:
                self.handle(message)
            except EdgesparseError as error:
                if not self.terminal.interactive:
                    raise
                self.terminal.note(f"error: {error}")
            if self.leaving:
                return

    def handle(self, message: str) -> None:
        """Carry one message out."""
        if message.startswith("/") and "\n" not in message:
            obey(self, message)
            return
        text, self.pending = self.pending + message, ""
        self._answer(
            lambda cancel, progress: self.session.stream(text, cancel=cancel, on_prefill=progress)
        )

    def regenerate(self) -> None:
        """Answer the last message again."""
        self._answer(
            lambda cancel, progress: self.session.regenerate(cancel=cancel, on_prefill=progress)
        )

    def describe(self) -> str:
        """Say what is being run."""
        engine: Any = self._model.engine
        plan = engine.plan
        return (
            f"{self._model.info.name}: {plan.architecture}, {plan.n_layers} layers\n"
            f"vocabulary {plan.n_vocab}, context {engine.n_ctx} tokens; "
            f"{engine.executor_name} executor, threads: {engine.n_threads}"
        )

    def template(self) -> str:
        """Give the chat template in use."""
        tokenizer = self._model.tokenizer
        return tokenizer.chat_template or f"built-in template '{tokenizer.template_source}'"

    @property
    def quality(self) -> str:
        """What the model gives up as it was loaded, in words."""
        return self._model.info.quality

    def _answer(self, start: StartAnswer) -> None:
        terminal = self.terminal
        result = print_answer(terminal, start)
        if not result.text.endswith("\n"):
            terminal.write("\n")
        self.last = result.stats
        if result.finish_reason == "repetition":
            advice = "; '/set parameter repeat_penalty 1.1' makes that rarer"
            penalised = self.session.options.sampling.repeat_penalty > 1.0
            terminal.note(f"(stopped: the answer repeats itself{'' if penalised else advice})")
        elif result.finish_reason == "length":
            terminal.note("(stopped: the limit or the end of the context is reached)")
        elif result.finish_reason == "cancelled":
            if not terminal.interactive:
                raise KeyboardInterrupt
            kept = "" if result.text else "; this message is not part of the conversation"
            terminal.note(f"(stopped{kept})")
        if self.verbose:
            terminal.note(speed_details(result.stats, self.quality))
        elif terminal.interactive and result.ids:
            terminal.note(speed_line(result.stats))
