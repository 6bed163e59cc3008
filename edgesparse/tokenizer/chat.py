"""Conversations to text and to parts that only the template can make special."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgesparse.errors import TemplateError
from edgesparse.tokenizer.split import SpecialSplitter

if TYPE_CHECKING:
    from edgesparse.tokenizer.template import ChatTemplate

__all__ = ["ChatEncoder", "Message"]

Message = Mapping[str, object]

_MAX_DEPTH = 64
_PRIVATE_USE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


class ChatEncoder:
    """A chat template bound to a vocabulary's control tokens.

    Parameters
    ----------
    source : str
        Jinja template; compiled at first use.
    splitter : SpecialSplitter
        The vocabulary's control literals.
    bos_token, eos_token : str
        Their literals, as template variables; empty when the model has none.
    """

    def __init__(
        self, source: str, splitter: SpecialSplitter, *, bos_token: str, eos_token: str
    ) -> None:
        self.source = source
        self._splitter = splitter
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}

    @cached_property
    def _template(self) -> ChatTemplate:
        from edgesparse.tokenizer.template import ChatTemplate

        return ChatTemplate(self.source)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        variables: Mapping[str, object],
    ) -> str:
        """Render the conversation."""
        data = _Cleaner(None, "").clean({"messages": list(messages), "variables": dict(variables)})
        return self._run(data, add_generation_prompt)

    def parts(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        variables: Mapping[str, object],
    ) -> Iterator[str | int]:
        """Render the conversation and cut it at the control tokens that the template wrote.

        Every control literal inside the data is broken by a private-use character that occurs
        nowhere else; after the cut the character is taken out again.
        """
        raw = {"messages": list(messages), "variables": dict(variables)}
        plain = _Cleaner(None, "")
        data = plain.clean(raw)
        mark = _unused_character(plain.characters | set(self.source))
        data = _Cleaner(self._splitter, mark).clean(data)
        for part in self._splitter.split(self._run(data, add_generation_prompt)):
            if isinstance(part, int):
                yield part
            elif text := part.replace(mark, ""):
                yield text

    def _run(self, data: dict[str, Any], add_generation_prompt: bool) -> str:
        variables: dict[str, Any] = {
            "tools": None,
            "documents": None,
            **self._tokens,
            **data["variables"],
            "messages": data["messages"],
            "add_generation_prompt": add_generation_prompt,
        }
        return self._template.render(variables)


class _Cleaner:
    """Copies data into plain Python values, disarming strings on the way."""

    def __init__(self, splitter: SpecialSplitter | None, mark: str) -> None:
        self._splitter = splitter
        self._mark = mark
        self.characters: set[str] = set()

    def clean(self, value: Any, depth: int = 0) -> Any:
        if depth > _MAX_DEPTH:
            raise TemplateError(f"chat messages are nested deeper than {_MAX_DEPTH} levels.")
        if isinstance(value, str):
            if self._splitter is not None:
                return self._splitter.disarm(value, self._mark)
            self.characters.update(value)
            return str(value)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, Mapping):
            return {
                self.clean(key, depth + 1): self.clean(item, depth + 1)
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.clean(item, depth + 1) for item in value]
        raise TemplateError(
            f"chat messages hold a {type(value).__name__}; "
            "expected text, numbers, lists and mappings."
        )


def _unused_character(used: set[str]) -> str:
    for block in _PRIVATE_USE:
        for code in block:
            if chr(code) not in used:
                return chr(code)
    raise TemplateError("the messages use every private-use character.")
