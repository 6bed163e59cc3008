"""`load_calibration`: read either kind of calibration back."""

from __future__ import annotations

import os
from typing import TypeAlias

from edgesparse.checkpoint.source import shown
from edgesparse.sparsity.alphas import SparseInferTable, read_alphas
from edgesparse.sparsity.calibration_file import read_calibration
from edgesparse.sparsity.thresholds import METHODS, Thresholds, read_thresholds

__all__ = ["Calibration", "load_calibration"]

Calibration: TypeAlias = Thresholds | SparseInferTable


def load_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Read a calibration file; its own `check` then compares it with a model.

    Raises
    ------
    ModelNotFound
        There is no such file.
    CalibrationError
        It is no calibration, or broken.
    """
    top = read_calibration(path)
    method = top.text("method")
    if method == "sparseinfer":
        return read_alphas(top)
    if method in METHODS:
        return read_thresholds(top)
    known = ", ".join((*METHODS, "sparseinfer"))
    raise top.error("value", "method", f"expected one of {known}, found {shown(method)}")
