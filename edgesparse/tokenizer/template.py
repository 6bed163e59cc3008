"""Compile and render a chat template, an untrusted program, within limits.

Output equals that of the usual environment of chat templates (Jinja with ``trim_blocks``,
``lstrip_blocks``, loop controls, ``raise_exception``, ``strftime_now`` and an unescaped
``tojson``), or there is a `TemplateError`; never a different text.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from jinja2 import Template, TemplateSyntaxError
from jinja2.exceptions import TemplateError as JinjaError

from edgesparse.errors import TemplateError
from edgesparse.tokenizer.fuel import Limits, Meter
from edgesparse.tokenizer.rewrite import rewrite
from edgesparse.tokenizer.sandbox import ChatEnvironment

__all__ = ["ChatTemplate"]

_ADVICE = "Choose another template, e.g. --chat-template chatml."


class ChatTemplate:
    """A compiled chat template; renderings from several threads take turns.

    Parameters
    ----------
    source : str
        Jinja text from a model file or the command line, never from a request.
    limits : Limits, optional
        What a rendering may use.

    Raises
    ------
    TemplateError
        If the text is too large, does not parse, or uses what chat templates may not.
    """

    def __init__(self, source: str, limits: Limits | None = None) -> None:
        self._limits = limits if limits is not None else Limits()
        self._lock = threading.Lock()
        if len(source) > self._limits.source:
            raise TemplateError(
                f"the chat template has {len(source)} characters, at most {self._limits.source} "
                "are accepted.",
                advice=_ADVICE,
            )
        self._environment = environment = ChatEnvironment(self._limits)
        try:
            tree = environment.parse(source)
            rewrite(tree, self._limits, filters=environment.filters, tests=environment.tests)
            code = environment.compile(tree)
            self._template: Template = environment.template_class.from_code(
                environment, code, environment.globals
            )
        except TemplateSyntaxError as error:
            raise TemplateError(
                f"chat template, line {error.lineno}: {error.message}.", advice=_ADVICE
            ) from error
        except (JinjaError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise TemplateError(
                f"the chat template does not compile: {type(error).__name__}: {str(error)[:200]}.",
                advice=_ADVICE,
            ) from error

    def render(self, variables: Mapping[str, Any]) -> str:
        """Text of the template for `variables`, which hold plain values only.

        Raises
        ------
        TemplateError
            If the template fails or exceeds its limits.
        """
        with self._lock:
            meter = self._environment.meter = Meter(self._limits)
            template = self._template
            parts: list[str] = []
            length = 0
            try:
                for part in template.root_render_func(template.new_context(dict(variables))):
                    parts.append(part)
                    length += len(part)
                    if length > self._limits.text:
                        meter.text(length)
            except TemplateError:
                raise
            except Exception as error:  # whatever a hostile template manages to provoke
                line = self._line(error.__traceback__)
                raise TemplateError(
                    f"chat template, line {line}: {type(error).__name__}: {str(error)[:300]}.",
                    advice=_ADVICE,
                ) from error
        return "".join(parts)

    def _line(self, traceback: TracebackType | None) -> int:
        line = 0
        while traceback is not None:
            if traceback.tb_frame.f_globals.get("environment") is self._environment:
                line = self._template.get_corresponding_lineno(traceback.tb_lineno)
            traceback = traceback.tb_next
        return line
