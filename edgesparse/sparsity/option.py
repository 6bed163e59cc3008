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
from edgesparse.plan.plan import Plan
from edgesparse.sparsity.alphas import SparseInferTable
from edgesparse.sparsity.automatic import automatic_thresholds, parse_share
from edgesparse.sparsity.calibration import Calibration, load_calibration
from edgesparse.sparsity.fingerprint import fingerprint
from edgesparse.sparsity.thresholds import Thresholds

if TYPE_CHECKING:
    from edgesparse.model import Model

__all__ = ["read_predictor", "read_sparsity"]


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
    if isinstance(sparsity, np.number):
        sparsity = sparsity.item()
    if sparsity == "":
        raise UsageError("sparsity takes a share (0.4, say) or a file, not an empty text.")
    if isinstance(sparsity, Thresholds):
        thresholds = sparsity
    elif isinstance(sparsity, (int, float)):
        thresholds, note = automatic_thresholds(parse_share(sparsity), model, load)
    elif not isinstance(sparsity, (str, os.PathLike)):
        raise UsageError(
            f"sparsity takes a share, a file or Thresholds, not {type(sparsity).__name__}."
        )
    elif _is_number(sparsity):
        share = parse_share(os.fspath(sparsity))
        thresholds, note = automatic_thresholds(share, model, load)
    else:
        thresholds, path = _read(sparsity), os.fspath(sparsity)
    thresholds.check(model, plan, path)
    return thresholds, note


def read_predictor(
    predict: str | os.PathLike[str] | SparseInferTable,
    config: ModelConfig,
    plan: Plan,
    vectors: Mapping[str, npt.NDArray[np.float32]],
) -> SparseInferTable:
    """Give the predictor that `predict` names, after checking that it is for this model.

    Parameters
    ----------
    predict : path or SparseInferTable
    config, plan, vectors
        Of the model.

    Raises
    ------
    UsageError
        A calibration of another kind, or no file is named.
    CalibrationError
        A file that is broken or was made for another model.
    """
    path = ""
    if isinstance(predict, SparseInferTable):
        table: Calibration = predict
    elif predict == "" or not isinstance(predict, (str, os.PathLike)):
        what = "an empty text" if predict == "" else type(predict).__name__
        raise UsageError(f"predict takes a file of 'edgesparse calibrate', not {what}.")
    else:
        table, path = load_calibration(predict), os.fspath(predict)
    if isinstance(table, Thresholds):
        raise UsageError(
            f"{path}: a calibration by {table.method}, not of a predictor.",
            advice="'edgesparse calibrate --method sparseinfer' makes one.",
        )
    table.check(fingerprint(config, vectors), plan, path)
    return table


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
