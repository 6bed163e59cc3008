"""Sampling settings that a model's author recommends, read from the model's own files.

Two places can hold them: ``general.sampling.*`` in GGUF metadata, and ``generation_config.json``
in the model's folder (Hugging Face's names). The metadata wins as a whole where both speak: it
belongs to this one file, a folder may hold several. What is odd becomes a warning: a setting that
cannot be used is no reason not to load a model.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesparse.checkpoint.source import SourceFile, shown
from edgesparse.checkpoint.strict_json import parse_json
from edgesparse.errors import EdgesparseError, ModelNotFound, UsageError
from edgesparse.sampling.options import SamplingOptions

if TYPE_CHECKING:
    from edgesparse.checkpoint import Checkpoint

__all__ = ["Recommended", "read_recommended"]

_JSON_NAME = "generation_config.json"
_JSON_BYTES = 4 << 20
_GGUF_PREFIX = "general.sampling."
_GGUF_KEYS = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
    "penalty_last_n": "repeat_last_n",
}
_JSON_KEYS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
    "penalty_last_n": "repeat_last_n",  # GGUF's name; the original penalty has no window
}
_INTEGERS = frozenset({"top_k", "repeat_last_n"})
_NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Recommended:
    """Changes to the default `SamplingOptions` that come with a model.

    Attributes
    ----------
    changes : mapping of str to number
        By the names of `SamplingOptions`; empty when the model says nothing.
    source : str
        Where they stand: ``"generation_config.json"`` or ``"GGUF metadata"``.
    warnings : tuple of str
        Settings that were ignored, and why.
    """

    changes: Mapping[str, float] = field(default_factory=lambda: _NOTHING)
    source: str = ""
    warnings: tuple[str, ...] = ()

    def under(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Put the recommendation under explicit options, which win whatever alias they use.

        A whole ``sampling`` among the options leaves nothing to recommend.
        """
        if "sampling" in options:
            return dict(options)
        return {**self.changes, **options}

    def describe(self, options: Mapping[str, Any]) -> str:
        """Say what is recommended and not decided by explicit `options`; empty if nothing is."""
        rest = {name: value for name, value in self.changes.items() if name not in options}
        if not rest or "sampling" in options:
            return ""
        listed = ", ".join(f"{name} {value:g}" for name, value in rest.items())
        return f"The model recommends ({self.source}): {listed}."


def read_recommended(checkpoint: Checkpoint) -> Recommended:
    """Read what an opened model recommends; never fails."""
    warnings: list[str] = []
    found = _from_metadata(checkpoint.metadata, warnings)
    if found:
        return Recommended(MappingProxyType(found), "GGUF metadata", tuple(warnings))
    path = checkpoint.path
    folder = path if checkpoint.kind == "safetensors" else os.path.dirname(path)
    found = _from_json(os.path.join(folder, _JSON_NAME), warnings)
    source = _JSON_NAME if found else ""
    return Recommended(MappingProxyType(found), source, tuple(warnings))


def _from_metadata(metadata: Mapping[str, Any], warnings: list[str]) -> dict[str, float]:
    found = {}
    for key, name in _GGUF_KEYS.items():
        value = metadata.get(_GGUF_PREFIX + key)
        if isinstance(value, float) and abs(value) < 1e30 and np.float32(value) == value:
            value = float(str(np.float32(value)))  # stored as float32: 0.95, not 0.949999988
        found.update(_checked(name, value, _GGUF_PREFIX + key, warnings))
    return found


def _from_json(path: str, warnings: list[str]) -> dict[str, float]:
    try:
        file = SourceFile(path)
    except ModelNotFound:
        return {}
    except EdgesparseError as error:
        warnings.append(f"The recommended settings are ignored: {error}")
        return {}
    try:
        if file.n_bytes > _JSON_BYTES:
            raise UsageError(f"{shown(path, 400)}: more than {_JSON_BYTES} bytes.")
        values = parse_json(file.read_at(0, file.n_bytes, _JSON_NAME), _JSON_NAME, path)
    except EdgesparseError as error:
        warnings.append(f"The recommended settings are ignored: {error}")
        return {}
    finally:
        file.close()
    return dict(_from_values(values, warnings))


def _from_values(values: Mapping[str, Any], warnings: list[str]) -> Iterator[tuple[str, float]]:
    do_sample = values.get("do_sample")
    if do_sample is not None and not isinstance(do_sample, bool):
        warnings.append(f"{_JSON_NAME}: do_sample is ignored: expected true or false.")
    for key, name in _JSON_KEYS.items():
        if do_sample is False and name not in ("repeat_penalty", "repeat_last_n"):
            continue  # settings of a draw that is not made
        checked = _checked(name, values.get(key), f"{_JSON_NAME}: {key}", warnings)
        yield from checked.items()
        if checked and name == "repeat_penalty":
            yield "repeat_last_n", -1  # this file's penalty sees the whole text
    if do_sample is False:
        yield "temperature", 0.0


def _checked(name: str, value: Any, where: str, warnings: list[str]) -> dict[str, float]:
    """Give ``{name: value}`` if that is a setting that can be used, else nothing."""
    if value is None:
        return {}
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        warnings.append(f"{where} is ignored: expected a number.")
        return {}
    if name in _INTEGERS and isinstance(value, float) and math.isfinite(value):
        value = int(value) if value.is_integer() else value
    try:
        SamplingOptions(**{name: value})
    except UsageError as error:
        warnings.append(f"{where} is ignored: {shown(error.message, 200)}")
        return {}
    return {name: value}
