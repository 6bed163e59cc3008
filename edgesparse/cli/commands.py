"""Slash commands of a conversation: a table of names and functions on the `Repl`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgesparse.cli.answering import speed_details
from edgesparse.errors import UsageError

if TYPE_CHECKING:
    from edgesparse.cli.repl import Repl

__all__ = ["COMMANDS", "Command", "obey", "words"]

_NUMBERS = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repeat_penalty": float,
    "repeat_last_n": int,
    "presence_penalty": float,
    "frequency_penalty": float,
    "seed": int,
    "max_tokens": int,
}
_ALIASES = {"temp": "temperature", "num_predict": "max_tokens", "n_predict": "max_tokens"}


class Command(NamedTuple):
    """One row of the table."""

    names: tuple[str, ...]
    arguments: str
    summary: str
    run: Callable[[Repl, str], None]


def obey(repl: Repl, line: str) -> None:
    """Carry a line that starts with a slash out.

    Raises
    ------
    UsageError
        No such command, or its arguments are wrong.
    """
    name, _, rest = line[1:].partition(" ")
    for command in COMMANDS:
        if name in command.names:
            command.run(repl, rest.strip())
            return
    raise UsageError(f"there is no command /{name}.", advice="/help lists the commands.")


def words() -> list[str]:
    """List what can stand at the start of a line, for completion."""
    shows = [f"/show {what}" for what in ("info", "parameters", "system", "template")]
    sets = [f"/set parameter {name}" for name in _NUMBERS]
    return [f"/{name}" for command in COMMANDS for name in command.names] + shows + sets


def _exit(repl: Repl, rest: str) -> None:
    repl.leaving = True


def _help(repl: Repl, rest: str) -> None:
    rows = [("/" + ", /".join(c.names) + " " + c.arguments, c.summary) for c in COMMANDS]
    rows.append(('"""', "begins and ends a message of several lines"))
    width = max(len(left) for left, _ in rows)
    repl.terminal.note("\n".join(f"{left:<{width}}  {summary}" for left, summary in rows))


def _clear(repl: Repl, rest: str) -> None:
    repl.session.reset()
    repl.terminal.note("The conversation is forgotten.")


def _undo(repl: Repl, rest: str) -> None:
    dropped = repl.session.undo()
    repl.terminal.note("The last exchange is forgotten." if dropped else "Nothing was said yet.")


def _regen(repl: Repl, rest: str) -> None:
    repl.regenerate()


def _read(repl: Repl, rest: str) -> None:
    if not rest:
        raise UsageError("/read needs a file.")
    try:
        names = shlex.split(rest)
        text = "\n".join(Path(os.path.expanduser(name)).read_text("utf-8") for name in names)
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be read ({error.strerror}).") from None
    except ValueError:
        raise UsageError(f"{rest}: not a text file in UTF-8.") from None
    repl.pending += text + "\n"
    repl.terminal.note(f"{len(text)} characters go in front of the next message.")


def _set(repl: Repl, rest: str) -> None:
    what, _, value = rest.partition(" ")
    value = value.strip()
    if what == "parameter":
        _set_parameter(repl, value)
    elif what == "system":
        _system(repl, value)
    elif what == "verbose":
        repl.verbose = value.lower() not in ("off", "0", "false")
    else:
        raise UsageError("expected /set parameter NAME VALUE, /set system TEXT or /set verbose.")


def _set_parameter(repl: Repl, rest: str) -> None:
    name, _, value = rest.partition(" ")
    name = _ALIASES.get(name, name)
    session = repl.session
    if name == "stop":
        session.options = session.options.updated(stop=tuple(shlex.split(value)))
        return
    if name not in _NUMBERS:
        known = ", ".join((*_NUMBERS, "stop"))
        raise UsageError(f"there is no parameter {name!r}.", advice=f"Known: {known}.")
    try:
        number = _NUMBERS[name](value)
    except ValueError:
        raise UsageError(f"{name}: expected a number, found {value!r}.") from None
    session.options = session.options.updated(**{name: number})


def _system(repl: Repl, rest: str) -> None:
    if not rest:
        repl.terminal.note(repl.session.system or "No system prompt is set.")
        return
    repl.session.system = rest.strip('"')
    repl.terminal.note("The system prompt is set.")


def _show(repl: Repl, rest: str) -> None:
    if rest == "info":
        repl.terminal.note(repl.describe())
    elif rest == "parameters":
        options = repl.session.options
        values = {name: getattr(options.sampling, name, None) for name in _NUMBERS}
        values |= {"max_tokens": options.max_tokens, "stop": " ".join(options.stop) or None}
        repl.terminal.note(
            "\n".join(f"{n:<18}{'–' if v is None else v}" for n, v in values.items())
        )
    elif rest == "system":
        _system(repl, "")
    elif rest == "template":
        repl.terminal.note(repl.template())
    else:
        raise UsageError("expected /show info, parameters, system or template.")


def _stats(repl: Repl, rest: str) -> None:
    session = repl.session
    text = f"{'context:':<22}{session.cached_tokens} of {session.capacity} tokens"
    if repl.last is not None:
        text = f"{speed_details(repl.last, repl.quality)}\n{text}"
    repl.terminal.note(text)


def _save(repl: Repl, rest: str) -> None:
    if not rest:
        raise UsageError("/save needs a file name.")
    repl.session.save(os.path.expanduser(rest))
    repl.terminal.note(f"Saved to {rest}.")


def _load(repl: Repl, rest: str) -> None:
    if not rest:
        raise UsageError("/load needs a file name.")
    repl.session.load(os.path.expanduser(rest))
    repl.terminal.note(f"{len(repl.session.history)} messages loaded.")


COMMANDS = (
    Command(("exit", "bye", "quit"), "", "leave", _exit),
    Command(("help", "?"), "", "list the commands", _help),
    Command(("clear", "reset"), "", "forget the conversation, keep the system prompt", _clear),
    Command(("regen",), "", "answer the last message again", _regen),
    Command(("undo",), "", "drop the last exchange", _undo),
    Command(("read",), "FILE…", "put text from files in front of the next message", _read),
    Command(("set",), "WHAT VALUE", "set parameter NAME VALUE, system TEXT, verbose [off]", _set),
    Command(("system",), "[TEXT]", "show or set the system prompt", _system),
    Command(("show",), "WHAT", "show info, parameters, system or template", _show),
    Command(("stats",), "", "cost of the last answer, use of the context", _stats),
    Command(("save",), "FILE", "write the conversation to a file", _save),
    Command(("load",), "FILE", "go on with a saved conversation", _load),
)
