"""The Jinja environment of chat templates: immutable sandbox, short lists of names, a meter.

The sandbox of Jinja keeps a template away from Python's internals. It does not bound time or
memory, so every loop, call, operator, filter, slice and printed value passes through a `Meter`;
what could make something large is measured before it is made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import wraps
from typing import Any, NoReturn, cast

from jinja2 import Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from markupsafe import Markup

from edgesparse.errors import TemplateError
from edgesparse.tokenizer.fuel import Limits, Meter

__all__ = ["ChatEnvironment"]

_STR_METHOD_NAMES = """
    capitalize count endswith find index isalnum isalpha isascii isdecimal isdigit islower
    isnumeric isspace istitle isupper join lower lstrip partition removeprefix removesuffix
    replace rfind rindex rpartition rsplit rstrip split splitlines startswith strip swapcase
    title upper
"""
_METHODS: tuple[tuple[type, frozenset[str]], ...] = (
    (str, frozenset(_STR_METHOD_NAMES.split())),
    (Mapping, frozenset({"get", "items", "keys", "values"})),
    (list, frozenset({"count", "index"})),
    (tuple, frozenset({"count", "index"})),
)
# Filters whose cost does not depend on the size of what they are given, and lazy ones, which
# are paid for by whoever takes the items.
_CHEAP_FILTERS = frozenset({"count", "d", "default", "first", "last", "length", "safe"})
_LAZY_FILTERS = frozenset(
    {"items", "list", "map", "reject", "rejectattr", "reverse", "select", "selectattr"}
)
_WEIGHED_FILTER_NAMES = """
    abs capitalize dictsort e escape float groupby indent int join lower max min replace
    sort string title trim unique upper
"""
_WEIGHED_FILTERS = frozenset(_WEIGHED_FILTER_NAMES.split())
_NUMBER_TESTS = frozenset({"divisibleby", "even", "odd"})
_MAX_INT_BITS = 4096
_MAX_INDENT = 64
_ESCAPE_GROWTH = 6
_DATE_FORMAT = re.compile(r"(?:[^%]|%-?[a-zA-Z%]){0,64}")


class _Generation(Extension):
    """``{% generation %}``, which marks trained text, means nothing when rendering."""

    tags = {"generation"}  # noqa: RUF012 - the name and type that Jinja reads

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Guard:
    """A function of the environment that instrumented templates call."""

    __slots__ = ("run",)

    def __init__(self, run: Callable[..., Any]) -> None:
        self.run = run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Environment of one template; `meter` is replaced for each rendering.

    Parameters
    ----------
    limits : Limits
        What a rendering may use.
    """

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self, limits: Limits) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # nothing of the template is evaluated before the meter runs
            extensions=[loopcontrols, _Generation],
            finalize=self._finalize,
            cache_size=0,
        )
        self.limits = limits
        self.meter = Meter(limits)
        self.guard_concat = _Guard(self._concat)
        self.guard_iterate = _Guard(self._iterate)
        self.guard_slice = _Guard(self._slice)
        self.guard_spend = _Guard(self._spend)
        self.guard_weigh = _Guard(self._weighed)
        self.globals = {
            "range": self._range,
            "namespace": Namespace,
            "dict": dict,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }
        self._functions = tuple(self.globals.values())
        known = _CHEAP_FILTERS | _LAZY_FILTERS | _WEIGHED_FILTERS
        self.filters = {
            name: self._guarded_filter(name, function)
            for name, function in self.filters.items()
            if name in known
        }
        self.filters["tojson"] = self._tojson
        self.tests = {
            name: self._guarded_test(name, cast(Callable[..., Any], function))
            for name, function in self.tests.items()
            if name not in ("filter", "test")
        }

    # Names -----------------------------------------------------------------------------------

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may read an attribute: data, and methods from a short list."""
        if not super().is_safe_attribute(obj, attr, value):
            return False
        for kind, names in _METHODS:
            if isinstance(obj, kind):
                return attr in names
        return isinstance(obj, (LoopContext, Namespace))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """No string formatting: a width in a format makes strings of any size."""
        return None

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`obj[argument]`, the key paid for (a hash walks through nested tuples)."""
        if not isinstance(argument, int):
            self.meter.weigh(argument)
        return super().getitem(obj, argument)

    # Operations ------------------------------------------------------------------------------

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call `__obj` if it is a guard, a macro, a listed function or a listed method."""
        if type(__obj) is _Guard:
            return __obj.run(*args)
        meter = __self.meter
        meter.charge(4)
        owner = getattr(__obj, "__self__", None)
        if isinstance(__obj, (Macro, LoopContext)):
            if meter.depth >= meter.limits.calls:
                raise TemplateError(
                    f"the chat template nests more than {meter.limits.calls} macro calls."
                )
            meter.depth += 1
            try:
                result = super().call(__context, __obj, *args, **kwargs)
            finally:
                meter.depth -= 1
        else:
            if isinstance(owner, (str, Mapping, list, tuple)):
                args = __self._measure_method(owner, __obj.__name__, args)
            elif not (
                any(__obj == function for function in __self._functions)
                or isinstance(owner, LoopContext)
                or isinstance(__obj, Undefined)
            ):
                raise SecurityError(f"a {type(__obj).__name__} cannot be called")
            meter.weigh(args)
            kwargs.pop("_loop_vars", None)
            kwargs.pop("_block_vars", None)
            meter.weigh(kwargs)
            result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, str):
            meter.text(len(result))
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an arithmetic operator whose result is small enough."""
        meter = self.meter
        meter.charge()
        if operator == "%" and isinstance(left, str):
            raise SecurityError("string formatting with % is not allowed")
        if operator == "+" and isinstance(left, (str, list, tuple)):
            if isinstance(left, str) and isinstance(right, str):
                self._text_growth(len(left) + len(right), left, right)
            elif isinstance(right, (list, tuple)):
                meter.items(len(left) + len(right))
        elif operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, (str, list, tuple)) and isinstance(times, int):
                    size = len(many) * max(times, 0)
                    (meter.text if isinstance(many, str) else meter.items)(size)
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length()
            bits = bits * right if operator == "**" else bits + right.bit_length()
            if bits > _MAX_INT_BITS:
                raise SecurityError("an integer grows too large")
        return super().call_binop(context, operator, left, right)

    @pass_context  # taking the context also keeps Jinja from printing constants at compile time
    def _finalize(self, _context: Context, value: Any) -> str:
        return self._printable(value)

    def _iterate(self, values: Any) -> Any:
        return self.meter.iterate(values)

    def _spend(self, steps: int) -> None:
        self.meter.charge(steps)

    def _slice(self, value: Any) -> Any:
        if isinstance(value, str):
            self.meter.text(len(value))
        elif isinstance(value, (list, tuple)):
            self.meter.items(len(value))
        return value

    def _weighed(self, value: Any) -> Any:
        self.meter.weigh(value)
        return value

    def _concat(self, *values: Any) -> str:
        parts = [self._printable(value) for value in values]
        self.meter.text(sum(map(len, parts)))
        return "".join(parts)

    def _range(self, *args: int) -> range:
        values = range(*args)
        if len(values) > self.limits.range:
            raise TemplateError(
                f"the chat template makes a range of {len(values)}, at most {self.limits.range} "
                "are allowed."
            )
        return values

    def _printable(self, value: Any) -> str:
        if not isinstance(
            value, (str, int, float, list, tuple, dict, Undefined, range, type(None))
        ):
            raise SecurityError(f"a {type(value).__name__} cannot be printed")
        self.meter.weigh(value)
        text = str(value)
        self.meter.text(len(text))
        return text

    # Methods, filters, tests -----------------------------------------------------------------

    def _measure_method(self, owner: Any, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        meter = self.meter
        if isinstance(owner, str):
            meter.text(len(owner))
            if name == "replace" and len(args) >= 2:
                self._measure_replace(owner, *args[:2])
            elif name in ("split", "rsplit", "splitlines"):
                meter.items(len(owner) // 2)
            elif name == "join" and args:
                parts = list(meter.iterate(args[0]))
                self._measure_join(parts, owner)
                return (parts,)
        elif name in ("count", "index"):
            meter.weigh(owner)
        return args

    def _measure_replace(self, text: Any, old: Any, new: Any) -> None:
        if isinstance(text, str) and isinstance(old, str):
            size = len(str(new)) if isinstance(new, (str, int, float)) else 0
            self._text_growth(len(text) + text.count(old) * size, text, new)

    def _measure_join(self, parts: list[Any], separator: Any) -> None:
        self.meter.weigh(parts)
        size = sum(len(part) for part in parts if isinstance(part, str))
        size += len(str(separator)) * len(parts)
        self._text_growth(size, separator, *parts[:1])

    def _text_growth(self, size: int, *values: Any) -> None:
        escaped = any(isinstance(value, Markup) for value in values)
        self.meter.text(size * _ESCAPE_GROWTH if escaped else size)

    def _guarded_filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        first = int(getattr(function, "jinja_pass_arg", None) is not None)

        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            meter = self.meter
            meter.charge(4)
            lead, value, rest = args[:first], args[first], args[first + 1 :]
            meter.weigh((rest, kwargs))
            if name in _LAZY_FILTERS:
                value = meter.iterate(value)
            elif name in _WEIGHED_FILTERS:
                if isinstance(value, Iterator):
                    value = list(meter.iterate(value))
                meter.weigh(value)
            if name == "replace" and len(rest) >= 2:
                self._measure_replace(value, *rest[:2])
            elif name == "join" and isinstance(value, list):
                self._measure_join(value, rest[0] if rest else kwargs.get("d", ""))
            elif name == "indent":
                self._measure_indent(value, rest[0] if rest else kwargs.get("width", 4))
            result = function(*lead, value, *rest, **kwargs)
            if isinstance(result, str):
                meter.text(len(result))
            return result

        return guarded

    def _measure_indent(self, value: Any, width: Any) -> None:
        size = len(width) if isinstance(width, str) else int(width)
        if size > _MAX_INDENT:
            raise SecurityError(f"an indent of more than {_MAX_INDENT} is not allowed")
        self.meter.text(len(str(value)) + str(value).count("\n") * size)

    def _guarded_test(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def guarded(*args: Any) -> Any:
            self.meter.charge()
            if name in _NUMBER_TESTS and not all(isinstance(arg, (int, float)) for arg in args):
                raise SecurityError(f"the test {name} takes numbers")
            if len(args) > 1:
                self.meter.weigh(args)
            return function(*args)

        return guarded

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """JSON as chat templates expect it: not escaped for HTML, not for ASCII."""
        self.meter.weigh((value, separators))
        if indent is not None and not 0 <= int(indent) <= 16:
            raise SecurityError("an indent outside 0..16 is not allowed")
        encoder = json.JSONEncoder(
            ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )
        parts: list[str] = []
        length = 0
        for part in encoder.iterencode(value):
            parts.append(part)
            length += len(part)
            if length > self.limits.text:
                break
        self.meter.text(length)
        return "".join(parts)


def _raise_exception(message: Any = "") -> NoReturn:
    raise TemplateError(f"the chat template refuses the conversation: {str(message)[:500]}.")


def _strftime_now(pattern: Any) -> str:
    if not isinstance(pattern, str) or _DATE_FORMAT.fullmatch(pattern) is None:
        raise SecurityError("strftime_now takes a short date format")
    return datetime.now().strftime(pattern)
