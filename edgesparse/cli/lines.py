"""Where a conversation's messages come from: a line editor, a bare terminal, or a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

__all__ = ["history_path", "messages", "reader"]

ReadLine = Callable[[str], str]
"""Gives the next line for a prompt; raises EOFError at the end."""

_QUOTES = '"""'


def messages(read: ReadLine) -> Iterator[str]:
    r"""Yield messages: lines, or several lines between triple quotes; empty ones are left out."""
    while True:
        try:
            text = read(">>> ")
        except EOFError:
            return
        if text.lstrip().startswith(_QUOTES):
            text = text.lstrip()[len(_QUOTES) :]
            while not text.rstrip().endswith(_QUOTES):
                try:
                    text += "\n" + read("... ")
                except EOFError:
                    text += _QUOTES
            text = text.rstrip()[: -len(_QUOTES)]
        if text.strip():
            yield text.strip("\n")


def reader(
    interactive: bool, on_screen: bool, words: Sequence[str] = (), *, color: bool = True
) -> ReadLine:
    """Choose how lines are read.

    Parameters
    ----------
    interactive, on_screen : bool
        Whether stdin and stdout are terminals.
    words : sequence of str
        Completed at the start of a line.
    color : bool
        Allow colours in the editor.
    """
    if not interactive:
        return _read_pipe
    if on_screen:
        try:
            return _editor(words, color)
        except ImportError:
            pass
    return _read_terminal


def history_path() -> Path | None:
    """Find the history file's place, private to the user; None when it is off or not writable."""
    if os.environ.get("EDGESPARSE_NOHISTORY", "") not in ("", "0"):
        return None
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    path = Path(state) / "edgesparse" / "history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError:
        return None
    return path


def _read_pipe(prompt: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def _read_terminal(prompt: str) -> str:
    sys.stderr.write(prompt)
    sys.stderr.flush()
    return _read_pipe(prompt)


def _editor(words: Sequence[str], color: bool) -> ReadLine:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.output import ColorDepth

    path = history_path()
    history: History = FileHistory(str(path)) if path is not None else InMemoryHistory()
    completer = WordCompleter(list(words), sentence=True)
    session: PromptSession[str] = PromptSession(
        history=history,
        completer=completer,
        complete_while_typing=False,
        color_depth=None if color else ColorDepth.DEPTH_1_BIT,
    )
    return session.prompt
