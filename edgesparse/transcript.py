"""Saved conversations: a small JSON file, written whole or not at all, read with suspicion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgesparse.errors import UsageError
from edgesparse.whole_file import replace_file

__all__ = ["read_transcript", "write_transcript"]

SavedTurn = tuple[str, str, tuple[int, ...]]
"""The user's message, the answer, the answer's tokens."""

_FORMAT = "edgesparse-conversation"
_VERSION = 1
_MAX_BYTES = 64 << 20


def write_transcript(path: Path, system: str | None, turns: Sequence[SavedTurn]) -> None:
    """Write a conversation through a temporary file beside `path`.

    Raises
    ------
    UsageError
        The file cannot be written.
    """
    data = {
        "format": _FORMAT,
        "version": _VERSION,
        "system": system,
        "turns": [
            {"user": user, "answer": answer, "tokens": list(tokens)}
            for user, answer, tokens in turns
        ],
    }
    try:
        replace_file(path, json.dumps(data, ensure_ascii=True), private=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}).") from None


def read_transcript(path: Path) -> tuple[str | None, list[SavedTurn]]:
    """Read a conversation: its system prompt and its turns.

    Raises
    ------
    UsageError
        The file is missing, too large, or not a saved conversation.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from None
    if len(raw) > _MAX_BYTES:
        raise _not_saved(path, f"it is larger than {_MAX_BYTES >> 20} MiB")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        raise _not_saved(path, "it is not JSON") from None
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise _not_saved(path, f"it has no format {_FORMAT!r}")
    if data.get("version") != _VERSION:
        raise _not_saved(path, f"expected version {_VERSION}, found {data.get('version')!r}")
    system, turns = data.get("system"), data.get("turns")
    if not (system is None or isinstance(system, str)) or not isinstance(turns, list):
        raise _not_saved(path, "its system prompt or its turns have the wrong type")
    return system, [_turn(path, index, turn) for index, turn in enumerate(turns)]


def _turn(path: Path, index: int, turn: Any) -> SavedTurn:
    if isinstance(turn, dict):
        user, answer, tokens = turn.get("user"), turn.get("answer"), turn.get("tokens")
        if (
            isinstance(user, str)
            and isinstance(answer, str)
            and isinstance(tokens, list)
            and all(type(token) is int and token >= 0 for token in tokens)
        ):
            return user, answer, tuple(tokens)
    raise _not_saved(path, f"turn {index} is malformed")


def _not_saved(path: Path, why: str) -> UsageError:
    return UsageError(f"{path}: not a saved conversation: {why}.")
