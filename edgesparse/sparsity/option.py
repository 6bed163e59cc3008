"""What the arguments `sparsity` and `predict` of `edgesparse.load` mean."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgesparse.config import ModelConfig
from edgesparse.errors import UsageError
from edgesparse.executors.base import Parameters
from edgesparse.plan.plan import Plan
from edgesparse.sparsity.alphas import SparseInferTable
from edgesparse.sparsity.calibration import load_calibration
from edgesparse.sparsity.fingerprint import fingerprint
from edgesparse.sparsity.predictor import add_predictor
from edgesparse.sparsity.thresholds import Thresholds

__all__ = ["read_predictor", "read_sparsity", "with_predictor"]


def read_sparsity(
    sparsity: float | str | os.PathLike[str] | Thresholds,
    config: ModelConfig,
    plan: Plan,
    vectors: Mapping[str, npt.NDArray[np.float32]],
) -> Thresholds:
    """Give the thresholds that `sparsity` names, after checking that they are for this model.

    Raises
    ------
    UsageError
        A number without a calibration, or a calibration of another kind.
    CalibrationError
        A file that is broken or was made for another model.
    """
    thresholds = _thresholds(sparsity)
    path = os.fspath(sparsity) if isinstance(sparsity, (str, os.PathLike)) else ""
    thresholds.check(fingerprint(config, vectors), plan, path)
    return thresholds


def read_predictor(path: str | os.PathLike[str]) -> SparseInferTable:
    """Read the predictor of a calibration file.

    Raises
    ------
    UsageError
        A calibration of another kind.
    CalibrationError
        A file that is broken.
    """
    table = load_calibration(path)
    if not isinstance(table, SparseInferTable):
        raise UsageError(
            f"{path}: a calibration by {table.method}, not of a predictor.",
            advice="'edgesparse calibrate --method sparseinfer' makes one.",
        )
    return table


def with_predictor(
    plan: Plan,
    parameters: Parameters,
    config: ModelConfig,
    table: SparseInferTable,
    path: str | os.PathLike[str],
    *,
    force: bool,
) -> tuple[Plan, Parameters]:
    """Put the predictor of the file at `path` in, after checking that it is for this model.

    Raises
    ------
    UsageError
        Prediction does not pay and is not forced.
    CalibrationError
        It was made for another model.
    """
    table.check(fingerprint(config, parameters.vectors), plan, str(path))
    return add_predictor(plan, parameters, table, force=force)


def _thresholds(sparsity: float | str | os.PathLike[str] | Thresholds) -> Thresholds:
    if isinstance(sparsity, Thresholds):
        return sparsity
    if isinstance(sparsity, (int, float)) or (_is_number(sparsity) and not Path(sparsity).exists()):
        raise UsageError(
            f"a sparsity of {sparsity} needs thresholds that were calibrated for this model.",
            advice="Make them with 'edgesparse calibrate' and name the file instead of the number.",
        )
    calibration = load_calibration(sparsity)
    if isinstance(calibration, Thresholds):
        return calibration
    raise UsageError(
        f"{os.fspath(sparsity)} is a calibration of a predictor, not of thresholds.",
        advice="'edgesparse calibrate' makes thresholds with the method teal.",
    )


def _is_number(text: str | os.PathLike[str]) -> bool:
    try:
        float(os.fspath(text))
    except ValueError:
        return False
    return True
