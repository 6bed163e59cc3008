"""The file that a calibration is kept in: JSON, written whole or not at all, read with suspicion.

::

    {"format": "edgesparse-calibration", "version": 1,
     "method": "teal", "model": "<fingerprint>", "sparsity": 0.4, "dense_tokens": 16,
     "text_sha256": "…",
     "ops": {"blk.0.qkv": {"threshold": 0.53, "achieved": 0.4}, …}}

CHESS has ``"factors": […]`` in the place of a threshold. SparseInfer's file has ``"recall"`` in
that of ``"sparsity"``, and its ops hold ``"alpha"``. ``thresholds.py`` and ``alphas.py`` say what
the entries mean.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint.source import SourceFile, shown
from edgesparse.checkpoint.strict_json import JsonObject, parse_json
from edgesparse.errors import CalibrationError, ModelFormatError, UsageError
from edgesparse.whole_file import replace_file

__all__ = ["CalibrationObject", "check_model", "mismatch", "read_calibration", "write_calibration"]

FORMAT = "edgesparse-calibration"
VERSION = 1
MAX_BYTES = 256 << 20
MAX_OPS = 1 << 14


class CalibrationObject(JsonObject):
    """A `JsonObject` whose errors are `CalibrationError`."""

    def error(self, kind: str, key: str, detail: str) -> ModelFormatError:
        """Make the error for one key."""
        where = f"{self.where} {shown(key)}".strip()
        return CalibrationError(kind, where, detail, path=shown(self.path, 400))

    def child(self, key: str) -> CalibrationObject:
        """Give a nested object; required."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self.error("type", key, f"expected an object, found {shown(value)}")
        if len(value) > MAX_OPS:
            raise self.error("limit", key, f"{len(value)} entries, at most {MAX_OPS} are read")
        return CalibrationObject(value, f"{self.where} {shown(key)}".strip(), self.path)

    def floats(self, key: str, lo: float, hi: float, most: int) -> npt.NDArray[np.float32]:
        """Give a list of at most `most` numbers in ``[lo, hi]`` as float32."""
        value = self.values.get(key)
        if not isinstance(value, list) or not all(type(item) in (int, float) for item in value):
            raise self.error("type", key, "expected a list of numbers")
        if not 1 <= len(value) <= most:
            raise self.error("range", key, f"expected 1 to {most} numbers, found {len(value)}")
        numbers = np.array(value, np.float64)
        if not ((numbers >= lo) & (numbers <= hi)).all():
            raise self.error("range", key, f"a number is not within {lo:g} and {hi:g}")
        return np.ascontiguousarray(numbers, np.float32)


def read_calibration(path: str | os.PathLike[str]) -> CalibrationObject:
    """Read the file and check its head.

    Raises
    ------
    ModelNotFound
        There is no such file.
    CalibrationError
        It is no calibration of this version, or broken; NaN and infinities count as broken.
    """
    name = os.fspath(path)
    file = SourceFile(name)
    try:
        if file.n_bytes > MAX_BYTES:
            detail = f"{file.n_bytes} bytes, at most {MAX_BYTES} are read"
            raise CalibrationError("limit", "file", detail, path=shown(name, 400))
        raw = file.read_at(0, file.n_bytes, "file")
    finally:
        file.close()
    try:
        values = parse_json(raw, "file", name)
    except ModelFormatError as error:
        raise CalibrationError(error.kind, error.field, error.detail, path=error.path) from None
    top = CalibrationObject(values, "", name)
    if top.text("format") != FORMAT:
        raise CalibrationError(
            "layout",
            "format",
            f"expected {FORMAT!r}, found {shown(top.values.get('format'))}",
            path=shown(name, 400),
            advice="'edgesparse calibrate' writes such files.",
        )
    top.integer("version", VERSION, VERSION)
    return top


def write_calibration(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write the file through a temporary one beside it.

    Raises
    ------
    UsageError
        It cannot be written.
    """
    path = Path(path)
    text = json.dumps({"format": FORMAT, "version": VERSION, **content}, indent=1, allow_nan=False)
    try:
        replace_file(path, text + "\n", shared=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}).") from None


def check_model(found: str, expected: str, path: str = "") -> None:
    """Refuse a calibration whose fingerprint is not that of the model.

    Raises
    ------
    CalibrationError
    """
    if found != expected:
        raise mismatch(
            "model", "model", f"made for a model {shown(found)}, this one is {expected}", path
        )


def mismatch(kind: str, field: str, detail: str, path: str = "") -> CalibrationError:
    """Make the error for a calibration that does not belong to the model."""
    return CalibrationError(
        kind,
        shown(field),
        detail,
        path=shown(path, 400) if path else "",
        advice="Make one for this model with 'edgesparse calibrate'.",
    )
