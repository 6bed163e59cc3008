"""What the arguments `sparsity` and `predict` of `edgesparse.load` mean."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgesparse.config import ModelConfig
from edgesparse.errors import UsageError
from edgesparse.executors.base import Parameters
from edgesparse.plan.plan import Plan
from edgesparse.sparsity.alphas import SparseInferTable
from edgesparse.sparsity.automatic import automatic_thresholds, parse_share
from edgesparse.sparsity.calibration import load_calibration
from edgesparse.sparsity.fingerprint import fingerprint
from edgesparse.sparsity.predictor import add_predictor
from edgesparse.sparsity.thresholds import Thresholds

if TYPE_CHECKING:
    from edgesparse.model import Model

__all__ = ["read_predictor", "read_sparsity", "with_predictor"]


def read_sparsity(
    sparsity: float | str | os.PathLike[str] | Thresholds,
    config: ModelConfig,
    plan: Plan,
    vectors: Mapping[str, npt.NDArray[np.float32]],
    load: Callable[[], Model],
) -> tuple[Thresholds, str]:
    """Give the thresholds that `sparsity` names, after checking that they are for this model.

    Parameters
    ----------
    sparsity : float, path or Thresholds
        A share to be ignored, in (0, 0.9], is calibrated here and kept for the next time.
    config, plan, vectors
        Of the model.
    load : callable
        Loads the model with fused=False, to calibrate.

    Returns
    -------
    thresholds : Thresholds
    note : str
        What the user should know about them; may be empty.

    Raises
    ------
    UsageError
        A number that is no share, or a calibration of another kind.
    CalibrationError
        A file that is broken or was made for another model.
    """
    model, note, path = fingerprint(config, vectors), "", ""
    if isinstance(sparsity, Thresholds):
        thresholds = sparsity
    elif isinstance(sparsity, (int, float)) or _is_number(sparsity):
        share = parse_share(sparsity if isinstance(sparsity, (int, float)) else str(sparsity))
        thresholds, note = automatic_thresholds(share, model, load)
    else:
        thresholds, path = _read(sparsity), os.fspath(sparsity)
    thresholds.check(model, plan, path)
    return thresholds, note


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


def _read(path: str | os.PathLike[str]) -> Thresholds:
    calibration = load_calibration(path)
    if isinstance(calibration, Thresholds):
        return calibration
    raise UsageError(
        f"{os.fspath(path)} is a calibration of a predictor, not of thresholds.",
        advice="'edgesparse calibrate' makes thresholds with the method teal.",
    )


def _is_number(text: str | os.PathLike[str]) -> bool:
    """Whether a text is a number and no file has that name."""
    try:
        float(os.fspath(text))
    except ValueError:
        return False
    return not Path(text).exists()
