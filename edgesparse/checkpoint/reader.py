"""`Checkpoint`: one opened model, whatever its container; metadata by key, tensors by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint.gguf_header import MetadataValue
from edgesparse.checkpoint.source import SourceFile, shown
from edgesparse.checkpoint.strings import StringArray
from edgesparse.checkpoint.types import TensorInfo
from edgesparse.errors import MemoryBudgetError, ModelFormatError

__all__ = ["Checkpoint"]

_REQUIRED: Any = object()


class Checkpoint:
    """Named tensors and metadata of an opened model.

    Reads are positional and exact, so threads may share one checkpoint. Use it as a context
    manager, or call `close`.

    Attributes
    ----------
    path : str
        What was opened.
    kind : str
        ``"gguf"`` or ``"safetensors"``.
    n_bytes : int
        Size of all weight files.
    metadata : mapping of str to value
        GGUF-style keys for both kinds. Values are bool, int, float, str, list of int, 1-D arrays
        or `StringArray`. Keys under ``edgesparse.`` are derived: ``rope_style`` ("norm" pairs
        neighbours, "neox" pairs halves), ``norm_offset`` (add to norm weights), ``container``.
    tensors : dict of str to TensorInfo
        By canonical name, in file order.
    warnings : list of str
        What is odd about the file but does not stop it from being read.
    tokenizer_json, tokenizer_model : bytes or None
        ``tokenizer.json`` or ``tokenizer.model`` of a Hugging Face folder.
    """

    def __init__(
        self,
        path: str,
        kind: str,
        files: Sequence[SourceFile],
        metadata: dict[str, MetadataValue],
        tensors: dict[str, TensorInfo],
        warnings: list[str],
        *,
        tokenizer_json: bytes | None = None,
        tokenizer_model: bytes | None = None,
    ) -> None:
        self.path = path
        self.kind = kind
        self.n_bytes = sum(file.n_bytes for file in files)
        self.metadata: Mapping[str, MetadataValue] = MappingProxyType(metadata)
        self.tensors = tensors
        self.warnings = warnings
        self.tokenizer_json = tokenizer_json
        self.tokenizer_model = tokenizer_model
        self._files = tuple(files)

    # -- metadata -------------------------------------------------------------------------------

    def get_int(
        self, key: str, default: Any = _REQUIRED, *, lo: int | None = None, hi: int | None = None
    ) -> Any:
        """Give an integer; any integer width is accepted, also a float without a fraction.

        Parameters
        ----------
        key : str
            Metadata key.
        default : object, optional
            Returned unchecked when the key is absent.
        lo, hi : int, optional
            Inclusive range.

        Raises
        ------
        ModelFormatError
            ``missing``, ``type`` or ``range``, naming the key.
        """
        value = self.metadata.get(key)
        if value is None:
            return self._default(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._type_error(key, "an integer", value)
        self._check_range(key, value, lo, hi)
        return value

    def get_float(
        self,
        key: str,
        default: Any = _REQUIRED,
        *,
        lo: float | None = None,
        hi: float | None = None,
    ) -> Any:
        """Give a finite float (integers are accepted); see `get_int`."""
        value = self.metadata.get(key)
        if value is None:
            return self._default(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._type_error(key, "a number", value)
        if not math.isfinite(value):
            raise self._error("value", key, f"expected a finite number, found {value}")
        self._check_range(key, value, lo, hi)
        return float(value)

    def get_str(self, key: str, default: Any = _REQUIRED) -> Any:
        """Give a string; see `get_int`."""
        value = self.metadata.get(key)
        if value is None:
            return self._default(key, default)
        if not isinstance(value, str):
            raise self._type_error(key, "a string", value)
        return value

    def get_bool(self, key: str, default: Any = _REQUIRED) -> Any:
        """Give a truth value; see `get_int`."""
        value = self.metadata.get(key)
        if value is None:
            return self._default(key, default)
        if not isinstance(value, bool):
            raise self._type_error(key, "a bool", value)
        return value

    def get_array(self, key: str, default: Any = _REQUIRED, *, kind: str = "") -> Any:
        """Give an array: `StringArray`, 1-D numpy array, or list.

        Parameters
        ----------
        kind : str, optional
            Required element kind: ``"str"``, ``"int"``, ``"float"`` or ``"bool"``.

        Raises
        ------
        ModelFormatError
            ``missing`` or ``type``, naming the key.
        """
        value = self.metadata.get(key)
        if value is None:
            return self._default(key, default)
        if not isinstance(value, (StringArray, np.ndarray, list)):
            raise self._type_error(key, "an array", value)
        found = _element_kind(value)
        if kind and found != kind:
            raise self._error("type", key, f"expected an array of {kind}, found one of {found}")
        return value

    # -- tensors --------------------------------------------------------------------------------

    def info(self, name: str) -> TensorInfo:
        """Describe a tensor.

        Raises
        ------
        ModelFormatError
            ``missing`` when there is none of that name.
        """
        found = self.tensors.get(name)
        if found is None:
            raise self._error("missing", name, "the model has no such tensor")
        return found

    def read(self, name: str) -> npt.NDArray[np.uint8]:
        """Copy all bytes of a tensor, shape ``(n_bytes,)``.

        Raises
        ------
        ModelFormatError
            ``missing`` or ``truncated``.
        MemoryBudgetError
            The tensor does not fit into memory.
        """
        return self.read_range(name, 0, self.info(name).n_bytes)

    def read_range(self, name: str, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Copy bytes ``[start, stop)`` of a tensor; errors as in `read`."""
        self._check_span(self.info(name), start, stop)
        try:
            out = np.empty(stop - start, dtype=np.uint8)
        except MemoryError:
            raise MemoryBudgetError(
                f"{shown(name)}: no memory for {stop - start} bytes.",
                advice="Close other programs or choose a smaller model.",
            ) from None
        self.read_into(name, out, start)
        return out

    def read_into(self, name: str, buffer: Any, start: int = 0) -> None:
        """Fill a writable buffer from byte `start` of a tensor; errors as in `read`.

        Parameters
        ----------
        name : str
            Canonical tensor name.
        buffer : writable buffer
            Any C-contiguous array; its length decides how much is read.
        start : int
            First byte within the tensor.
        """
        info = self.info(name)
        view = memoryview(buffer)
        if view.nbytes == 0:
            self._check_span(info, start, start)
            return
        view = view.cast("B")
        self._check_span(info, start, start + view.nbytes)
        self._files[info.file].read_into(view, info.offset + start, name)

    def check_unchanged(self) -> None:
        """Make sure that no file changed since opening; call it after loading.

        Raises
        ------
        ModelFormatError
            ``truncated``.
        """
        for file in self._files:
            file.check_unchanged()

    def close(self) -> None:
        """Close the files; closing twice is harmless."""
        for file in self._files:
            file.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Checkpoint({self.path!r}, {self.kind}, {len(self.tensors)} tensors)"

    # -- errors ---------------------------------------------------------------------------------

    def _error(self, kind: str, field: str, detail: str) -> ModelFormatError:
        return ModelFormatError(kind, shown(field), detail, path=shown(self.path, 400))

    def _default(self, key: str, default: Any) -> Any:
        if default is _REQUIRED:
            raise self._error("missing", key, "the key is required and absent")
        return default

    def _type_error(self, key: str, expected: str, value: object) -> ModelFormatError:
        found = type(value).__name__ if isinstance(value, (StringArray, np.ndarray)) else value
        return self._error("type", key, f"expected {expected}, found {shown(found)}")

    def _check_range(self, key: str, value: float, lo: float | None, hi: float | None) -> None:
        if (lo is not None and value < lo) or (hi is not None and value > hi):
            low = "-inf" if lo is None else lo
            high = "inf" if hi is None else hi
            raise self._error("range", key, f"expected {low} to {high}, found {value}")

    def _check_span(self, info: TensorInfo, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= info.n_bytes:
            detail = f"bytes {start} to {stop} of a tensor of {info.n_bytes}"
            raise self._error("range", info.name, detail)


def _element_kind(value: StringArray | npt.NDArray[np.generic] | list[int]) -> str:
    if isinstance(value, StringArray):
        return "str"
    if isinstance(value, list):
        return "int"
    kind = cast(str, value.dtype.kind)
    return {"i": "int", "u": "int", "f": "float", "b": "bool"}[kind]
