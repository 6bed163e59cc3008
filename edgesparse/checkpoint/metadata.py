"""Typed access to metadata: the file says what type a value has, and the file may lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeVar, overload

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint.gguf_header import MetadataValue
from edgesparse.checkpoint.source import shown
from edgesparse.checkpoint.strings import StringArray
from edgesparse.errors import ModelFormatError

__all__ = ["ArrayValue", "MetadataReader"]

ArrayValue = StringArray | npt.NDArray[np.generic] | list[int]
D = TypeVar("D")


class _Required:
    """Marks a getter call without a default."""


_REQUIRED: Final = _Required()


class MetadataReader:
    """Metadata of a model with getters that check type and range.

    Every getter returns `default` unchecked when the key is absent; without a default an absent
    key is an error. All raise `ModelFormatError` with the kinds ``missing``, ``type``, ``range``
    or ``value``, naming the key.
    """

    def __init__(self, path: str, metadata: dict[str, MetadataValue]) -> None:
        self.path = path
        self.metadata: Mapping[str, MetadataValue] = MappingProxyType(metadata)

    @overload
    def get_int(self, key: str, *, lo: int | None = None, hi: int | None = None) -> int: ...
    @overload
    def get_int(
        self, key: str, default: D, *, lo: int | None = None, hi: int | None = None
    ) -> int | D: ...
    def get_int(
        self,
        key: str,
        default: D | _Required = _REQUIRED,
        *,
        lo: int | None = None,
        hi: int | None = None,
    ) -> int | D:
        """Give an integer in ``[lo, hi]``; any stored width is accepted."""
        value = self.metadata.get(key)
        if value is None:
            return self._default(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._type_error(key, "an integer", value)
        self._check_range(key, value, lo, hi)
        return value

    @overload
    def get_float(self, key: str, *, lo: float | None = None, hi: float | None = None) -> float: ...
    @overload
    def get_float(
        self, key: str, default: D, *, lo: float | None = None, hi: float | None = None
    ) -> float | D: ...
    def get_float(
        self,
        key: str,
        default: D | _Required = _REQUIRED,
        *,
        lo: float | None = None,
        hi: float | None = None,
    ) -> float | D:
        """Give a finite number in ``[lo, hi]``; integers are accepted."""
        value = self.metadata.get(key)
        if value is None:
            return self._default(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._type_error(key, "a number", value)
        if not math.isfinite(value):
            raise self._error("value", key, f"expected a finite number, found {value}")
        self._check_range(key, value, lo, hi)
        return float(value)

    @overload
    def get_str(self, key: str) -> str: ...
    @overload
    def get_str(self, key: str, default: D) -> str | D: ...
    def get_str(self, key: str, default: D | _Required = _REQUIRED) -> str | D:
        """Give a string."""
        value = self.metadata.get(key)
        if value is None:
            return self._default(key, default)
        if not isinstance(value, str):
            raise self._type_error(key, "a string", value)
        return value

    @overload
    def get_bool(self, key: str) -> bool: ...
    @overload
    def get_bool(self, key: str, default: D) -> bool | D: ...
    def get_bool(self, key: str, default: D | _Required = _REQUIRED) -> bool | D:
        """Give a truth value."""
        value = self.metadata.get(key)
        if value is None:
            return self._default(key, default)
        if not isinstance(value, bool):
            raise self._type_error(key, "a bool", value)
        return value

    @overload
    def get_array(self, key: str, *, kind: str = "") -> ArrayValue: ...
    @overload
    def get_array(self, key: str, default: D, *, kind: str = "") -> ArrayValue | D: ...
    def get_array(
        self, key: str, default: D | _Required = _REQUIRED, *, kind: str = ""
    ) -> ArrayValue | D:
        """Give an array whose elements are of `kind`: ``str``, ``int``, ``float``, ``bool``."""
        value = self.metadata.get(key)
        if value is None:
            return self._default(key, default)
        if not isinstance(value, (StringArray, np.ndarray, list)):
            raise self._type_error(key, "an array", value)
        found = _element_kind(value)
        if kind and found != kind:
            raise self._error("type", key, f"expected an array of {kind}, found one of {found}")
        return value

    def _error(self, kind: str, field: str, detail: str) -> ModelFormatError:
        return ModelFormatError(kind, shown(field), detail, path=shown(self.path, 400))

    def _default(self, key: str, default: D | _Required) -> D:
        if isinstance(default, _Required):
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


def _element_kind(value: ArrayValue) -> str:
    if isinstance(value, StringArray):
        return "str"
    if isinstance(value, list):
        return "int"
    return {"i": "int", "u": "int", "f": "float", "b": "bool"}[value.dtype.kind]
