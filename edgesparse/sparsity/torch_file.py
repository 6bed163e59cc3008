"""`read_torch_file`: numbers out of a ``.pt`` file, without torch and without running anything.

Such a file is a zip archive of one pickle and the bytes of each storage. A pickle is a program; the
interpreter here knows the few instructions that build dicts, lists and tuples of numbers, texts and
float tensors. Every other instruction, and every name that is not on the list, is an error.
"""

from __future__ import annotations

import io
import os
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint.source import SourceFile, shown
from edgesparse.errors import CalibrationError

__all__ = ["read_torch_file"]

MAX_BYTES = 256 << 20
MAX_ENTRIES = 1 << 14
MAX_INSTRUCTIONS = 1 << 20
MAX_NUMBERS = 1 << 24

_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bf16",
}
_REBUILD = "torch._utils _rebuild_tensor_v2"
_DICT = "collections OrderedDict"
_NAMES = {_REBUILD, _DICT, *(f"torch {name}" for name in _STORAGES)}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = frozenset(
    ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BININT", "BININT1", "BININT2", "LONG1")
) | {"BINFLOAT"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


# What `zipfile` raises for broken archives, encrypted ones (RuntimeError) and unknown methods.
_BROKEN = (zipfile.BadZipFile, ValueError, EOFError, RuntimeError, OSError, struct.error)


@dataclass(frozen=True)
class _Name:
    """A name on the list; nothing is imported for it."""

    text: str


@dataclass(frozen=True)
class _Storage:
    """The numbers of one storage."""

    values: npt.NDArray[np.float32]


class _Mark:
    pass


def read_torch_file(path: str | os.PathLike[str]) -> Any:
    """Read a file that ``torch.save`` wrote.

    Parameters
    ----------
    path : path
        A zip archive, as torch 1.6 and later write.

    Returns
    -------
    dict, list, tuple, number, str, bool, None or float32 ndarray
        Nested; tensors are float32 arrays of their own.

    Raises
    ------
    ModelNotFound
        There is no such file.
    CalibrationError
        It is no such archive, too large, broken, or holds anything else.
    """
    name = os.fspath(path)
    file = SourceFile(name)
    try:
        if file.n_bytes > MAX_BYTES:
            raise _error("limit", "file", f"{file.n_bytes} bytes, at most {MAX_BYTES}", name)
        raw = file.read_at(0, file.n_bytes, "file")
    finally:
        file.close()
    return _Interpreter(_entries(raw, name), name).run()


def _entries(raw: bytes, path: str) -> dict[str, bytes]:
    """Take the archive apart; nothing in it may be compressed or there twice."""
    found: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            infos = archive.infolist()
            if len(infos) > MAX_ENTRIES:
                raise _error("limit", "archive", f"{len(infos)} entries", path)
            if sum(info.file_size for info in infos) > len(raw):
                raise _error("limit", "archive", "its entries overlap or are compressed", path)
            for info in infos:
                if info.compress_type != zipfile.ZIP_STORED:
                    raise _error("unsupported", info.filename, "a compressed entry", path)
                key = info.filename.partition("/")[2]
                if key in found:
                    raise _error("duplicate", info.filename, "the entry is there twice", path)
                found[key] = archive.read(info)
    except _BROKEN as error:
        raise _error("layout", "archive", f"no archive of torch ({error})", path) from None
    if "data.pkl" not in found:
        raise _error("missing", "data.pkl", "no archive of torch", path)
    if found.get("byteorder", b"little").strip() != b"little":
        raise _error("unsupported", "byteorder", "the file is big-endian", path)
    return found


class _Interpreter:
    """A stack machine for the instructions of one pickle."""

    def __init__(self, entries: dict[str, bytes], path: str) -> None:
        self._entries = entries
        self._path = path
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._n_numbers = 0

    def run(self) -> Any:
        try:
            for n, (opcode, argument, _) in enumerate(
                pickletools.genops(self._entries["data.pkl"])
            ):
                if n > MAX_INSTRUCTIONS:
                    raise self._fail("limit", "more instructions than a table of numbers needs")
                if opcode.name == "STOP":
                    return self._plain(self._pop())
                self._step(opcode.name, argument)
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError) as error:
            raise self._fail("layout", f"the pickle is broken ({error})") from None
        raise self._fail("truncated", "the pickle does not end")

    def _step(self, name: str, argument: Any) -> None:
        stack, memo = self._stack, self._memo
        if name in ("PROTO", "FRAME"):
            return
        if name in _VALUES:
            stack.append(argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            stack.append(_Mark())
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _TUPLES:
            stack.append(tuple([self._pop() for _ in range(_TUPLES[name])][::-1]))
        elif name == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif name in ("SETITEM", "SETITEMS", "APPEND", "APPENDS"):
            self._extend(name)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self._name(argument)
        elif name == "BINPERSID":
            stack.append(self._storage(self._pop()))
        elif name == "REDUCE":
            arguments = self._pop()
            stack.append(self._call(self._pop(), arguments))
        else:
            raise self._fail("unsupported", f"the instruction {name} has no place among numbers")

    def _pop(self) -> Any:
        return self._stack.pop()

    def _to_mark(self) -> list[Any]:
        items: list[Any] = []
        while not isinstance(item := self._pop(), _Mark):
            items.append(item)
        return items[::-1]

    def _extend(self, name: str) -> None:
        if name.startswith("APPEND"):
            items = self._to_mark() if name == "APPENDS" else [self._pop()]
            target = self._stack[-1]
            if not isinstance(target, list):
                raise TypeError("appending to something else than a list")
            target.extend(items)
            return
        items = self._to_mark() if name == "SETITEMS" else [self._pop() for _ in range(2)][::-1]
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError("items for something else than a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int)):
                raise TypeError("a key that is neither a text nor a number")
            target[key] = value

    def _name(self, argument: Any) -> None:
        if argument is None:
            name, module = self._pop(), self._pop()
            argument = f"{module} {name}"
        if argument not in _NAMES:
            raise self._fail("unsupported", f"{shown(argument)} may not be used: not a number")
        self._stack.append(_Name(argument))

    def _call(self, function: Any, arguments: Any) -> Any:
        if function == _Name(_DICT) and arguments == ():
            return {}
        if function == _Name(_REBUILD) and isinstance(arguments, tuple) and len(arguments) >= 4:
            return self._tensor(*arguments[:4])
        raise self._fail("unsupported", "something else than a tensor is called for")

    def _storage(self, key: Any) -> _Storage:
        """Decode the storage that a persistent id names."""
        kind, storage, number, _, n = key
        if kind != "storage" or not isinstance(storage, _Name) or not isinstance(number, str):
            raise TypeError("a persistent id that names no storage")
        code = _STORAGES[storage.text.partition(" ")[2]]
        raw = self._entries[f"data/{number}"]
        width = 2 if code == "bf16" else np.dtype(code).itemsize
        if type(n) is not int or n < 0 or len(raw) != n * width:
            raise ValueError(f"storage {number} holds {len(raw)} bytes")
        self._count(n)
        if code == "bf16":
            wide = np.frombuffer(raw, "<u2").astype("<u4") << np.uint32(16)
            return _Storage(wide.view("<f4"))
        with np.errstate(over="ignore"):
            return _Storage(np.frombuffer(raw, code).astype(np.float32))

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any) -> npt.NDArray[np.float32]:
        numbers = (offset, *size, *stride)
        if not isinstance(storage, _Storage) or not all(
            type(item) is int and 0 <= item <= MAX_NUMBERS for item in numbers
        ):
            raise TypeError("a tensor that is no view of a storage")
        if len(size) != len(stride) or len(size) > 4:
            raise ValueError("a tensor with as many sizes as strides was expected")
        n = 1
        for length in size:
            n *= length
        self._count(n)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if n and last >= storage.values.size:
            raise ValueError("a tensor goes beyond its storage")
        index = np.full(size, offset, np.int64)
        for axis, (length, step) in enumerate(zip(size, stride, strict=True)):
            shape = [1] * len(size)
            shape[axis] = length
            index += (np.arange(length, dtype=np.int64) * step).reshape(shape)
        return np.asarray(storage.values[index] if n else np.empty(size), np.float32)

    def _count(self, n: int) -> None:
        self._n_numbers += n
        if self._n_numbers > MAX_NUMBERS:
            raise self._fail("limit", f"more than {MAX_NUMBERS} numbers")

    def _plain(self, value: Any) -> Any:
        if isinstance(value, (_Name, _Storage, _Mark)):
            raise TypeError("the result is no table of numbers")
        return value

    def _fail(self, kind: str, detail: str) -> CalibrationError:
        return _error(kind, "data.pkl", detail, self._path)


def _error(kind: str, field: str, detail: str, path: str) -> CalibrationError:
    return CalibrationError(
        kind,
        shown(field),
        detail,
        path=shown(path, 400),
        advice="Give a .pt file of tensors, dicts and lists, as torch.save writes it.",
    )
