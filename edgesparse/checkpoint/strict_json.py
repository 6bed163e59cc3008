"""JSON from untrusted files: the standard parser behind limits it lacks.

The standard library accepts NaN, duplicate keys, 1e999 and lone surrogates, and its memory grows
twenty-fold on empty lists. Size, depth and number of containers are checked on the bytes first.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from typing import Any, TypeVar

import numpy as np

from edgesparse.checkpoint.source import SourceFile, shown
from edgesparse.errors import ModelFormatError, ModelNotFound

__all__ = ["JsonObject", "parse_json", "read_json_file"]

N = TypeVar("N", int, float)

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_MAX_DIGITS = 20
_STEP = 1 << 20


class _RefusedError(ValueError):
    """A value that the grammar allows and these files must not hold."""


def parse_json(
    raw: bytes,
    field: str,
    path: str,
    *,
    max_depth: int = 32,
    max_containers: int = 200_000,
    counts_only: bool = False,
) -> dict[str, Any]:
    """Parse a JSON object strictly.

    Parameters
    ----------
    raw : bytes
        Text.
    field, path : str
        Named in errors.
    max_depth, max_containers : int
        Limits on nesting and on the number of objects and lists.
    counts_only : bool
        Refuse fractions and negative numbers.

    Raises
    ------
    ModelFormatError
        ``value`` when it is not such JSON, ``limit`` past a limit, ``duplicate`` for a repeated
        key, ``type`` when the top is not an object.
    """

    def fail(kind: str, detail: str) -> ModelFormatError:
        return ModelFormatError(kind, shown(field), detail, path=shown(path, 400))

    n_containers, depth = _shape(raw)
    if depth > max_depth:
        raise fail("limit", f"nested {depth} deep, at most {max_depth} is read")
    if n_containers > max_containers:
        raise fail("limit", f"{n_containers} lists and objects, at most {max_containers} are read")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            counts = Counter(key for key, _ in items)
            twice = counts.most_common(1)[0][0]
            raise fail("duplicate", f"the key {shown(twice)} occurs twice")
        return found

    def integer(text: str) -> int:
        if len(text) > _MAX_DIGITS or (counts_only and text.startswith("-")):
            raise _RefusedError(f"the number {shown(text)}")
        return int(text)

    def fraction(text: str) -> float:
        value = float(text)
        if counts_only or not math.isfinite(value):
            raise _RefusedError(f"the number {shown(text)}")
        return value

    def constant(text: str) -> float:
        raise _RefusedError(f"the constant {text}")

    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=pairs,
            parse_int=integer,
            parse_float=fraction,
            parse_constant=constant,
        )
        if _SURROGATE.search(raw):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise fail("value", "the text is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise fail("value", f"not the expected JSON: {shown(str(error))}") from None
    if not isinstance(value, dict):
        raise fail("type", "the top of the JSON is not an object")
    return value


def read_json_file(
    name: str, folder: str, dir_fd: int, max_bytes: int, *, max_containers: int = 200_000
) -> JsonObject | None:
    """Read an optional JSON file of a model folder; None when it is absent.

    Raises
    ------
    ModelFormatError
        ``limit`` when larger than `max_bytes`, else as in `parse_json`.
    """
    raw = read_small_file(name, folder, dir_fd, max_bytes)
    if raw is None:
        return None
    path = os.path.join(folder, name)
    return JsonObject(parse_json(raw, name, path, max_containers=max_containers), name, path)


def read_small_file(name: str, folder: str, dir_fd: int, max_bytes: int) -> bytes | None:
    """Read an optional side file of a model folder; None when it is absent."""
    path = os.path.join(folder, name)
    try:
        file = SourceFile(name, dir_fd=dir_fd, shown_path=path)
    except ModelNotFound:
        return None
    try:
        if file.n_bytes > max_bytes:
            detail = f"{file.n_bytes} bytes, at most {max_bytes} are read"
            raise ModelFormatError("limit", name, detail, path=shown(path, 400))
        return file.read_at(0, file.n_bytes, name)
    finally:
        file.close()


class JsonObject:
    """Typed access to a parsed object; errors name the key and the file.

    Absent keys and null both give the default.
    """

    def __init__(self, values: dict[str, Any], where: str, path: str) -> None:
        self.values = values
        self.where = where
        self.path = path

    def error(self, kind: str, key: str, detail: str) -> ModelFormatError:
        """Make the error for one key."""
        return ModelFormatError(
            kind, f"{self.where} {shown(key)}", detail, path=shown(self.path, 400)
        )

    def integer(self, key: str, lo: int, hi: int, default: int | None = None) -> int:
        """Give an integer in ``[lo, hi]``; required without a default."""
        value = self.values.get(key)
        if value is None:
            return self._absent(key, default)
        if type(value) is not int:
            raise self.error("type", key, f"expected an integer, found {shown(value)}")
        if not lo <= value <= hi:
            raise self.error("range", key, f"expected {lo} to {hi}, found {value}")
        return value

    def number(self, key: str, lo: float, hi: float, default: float | None = None) -> float:
        """Give a finite number in ``[lo, hi]``; required without a default."""
        value = self.values.get(key)
        if value is None:
            return self._absent(key, default)
        if type(value) not in (int, float):
            raise self.error("type", key, f"expected a number, found {shown(value)}")
        if not lo <= value <= hi:
            raise self.error("range", key, f"expected {lo} to {hi}, found {value}")
        return float(value)

    def text(self, key: str, default: str = "") -> str:
        """Give a string."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.error("type", key, f"expected a string, found {shown(value)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Give a bool."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error("type", key, f"expected true or false, found {shown(value)}")
        return value

    def child(self, key: str) -> JsonObject | None:
        """Give a nested object."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error("type", key, f"expected an object, found {shown(value)}")
        return JsonObject(value, f"{self.where} {shown(key)}", self.path)

    def texts(self, key: str) -> list[str]:
        """Give a list of strings, empty when absent."""
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error("type", key, "expected a list of strings")
        return list(value)

    def _absent(self, key: str, default: N | None) -> N:
        if default is None:
            raise self.error("missing", key, "the key is required and absent")
        return default


def _shape(raw: bytes) -> tuple[int, int]:
    """Count the brackets that open outside strings, and their greatest depth.

    Linear and without an object per token: escaped quotes are dropped, then the parity of the
    quotes passed tells inside from outside.
    """
    text = np.frombuffer(raw.replace(b"\\\\", b"").replace(b'\\"', b""), dtype=np.uint8)
    n_containers = depth = deepest = parity = 0
    for begin in range(0, len(text), _STEP):
        part = text[begin : begin + _STEP]
        quotes = np.cumsum(part == ord('"'), dtype=np.uint8)
        outside = (quotes + np.uint8(parity)) & 1 == 0
        opens = outside & ((part == ord("[")) | (part == ord("{")))
        closes = outside & ((part == ord("]")) | (part == ord("}")))
        n_containers += int(np.count_nonzero(opens))
        level = np.cumsum(opens.astype(np.int8) - closes.astype(np.int8), dtype=np.int32)
        deepest = max(deepest, depth + int(level.max()))
        depth += int(level[-1])
        parity = (parity + int(quotes[-1])) & 1
    return n_containers, deepest
