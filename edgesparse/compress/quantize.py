"""`quantize_model`: a dense model with its layers' matrices in few bits, written as GGUF.

Matrices of 1 to 4 bits are written as bit slices (`edgesparse.checkpoint.slices`), the usual types
of GGUF as the `gguf` package rounds them; rows that are no whole blocks of 32 become F16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgesparse.cancel import CancelToken
from edgesparse.checkpoint import Checkpoint
from edgesparse.compress.gguf_out import write_gguf
from edgesparse.compress.gguf_quantized import quantized_tensors
from edgesparse.compress.layers import Matrix, Progress, compress_layers
from edgesparse.compress.rounded import kept_values, round_matrix
from edgesparse.compress.target import Target
from edgesparse.compress.work import Work
from edgesparse.config import ModelConfig
from edgesparse.errors import UsageError
from edgesparse.plan.plan import Plan

__all__ = ["METHODS", "MatrixReport", "check_quantizable", "quantize_model"]

METHODS = ("rtn", "gptq")


@dataclass(frozen=True)
class MatrixReport:
    """What became of one matrix.

    Attributes
    ----------
    name : str
    n_bytes : int
        In the new file.
    error : float
        Share of the squared numbers that is lost; with a text, of the squared outputs.
    """

    name: str
    n_bytes: int
    error: float


def check_quantizable(
    config: ModelConfig, target: Target, method: str, source: str, outliers: float = 0.0
) -> str | None:
    """Return a warning, or None.

    Raises
    ------
    UsageError
        A mixture of experts, a method that the type has no use for, outliers of a ternary model.
    """
    if outliers and target.is_ternary:
        raise UsageError(f"{target.name} has no outliers: its numbers are -1, 0, 1 times a scale.")
    if method not in METHODS:
        raise UsageError(f"method must be rtn or gptq, not {method!r}.")
    if config.experts is not None:
        raise UsageError(f"{source}: a mixture of experts cannot be quantised layer by layer.")
    if method == "gptq" and not target.bits:
        raise UsageError(
            f"{target.name} is rounded to the nearest; GPTQ is for w1 to w4.",
            advice="Leave out --method, or choose a type such as w4_g128.",
        )
    if target.is_ternary and not config.architecture.startswith("bitnet"):
        return (
            "this model was not trained ternary: rounded to -1, 0 and 1 it will talk nonsense; "
            "w2_g64 is the smallest type that usually makes sense"
        )
    if target.bits == 1:
        return "single bits are for models that were trained so; expect nonsense from others"
    return None


def quantize_model(
    checkpoint: Checkpoint,
    config: ModelConfig,
    plan: Plan,
    output: Path,
    target: Target,
    work: Work,
    *,
    method: str = "rtn",
    outliers: float = 0.0,
    windows: Sequence[npt.NDArray[np.int32]] = (),
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> tuple[list[MatrixReport], int]:
    """Quantise a model and write it, whole or not at all.

    Parameters
    ----------
    checkpoint, config, plan
        The model, its plan unfused and without thresholds.
    output : Path
    target : Target
    work : Work
        Where finished matrices are kept, and found if an earlier run was interrupted.
    method : {"rtn", "gptq"}
    outliers : float
        Share of every matrix that is kept in a side matrix, see `take_outliers`.
    windows : sequence of int32 ndarray
        Text for GPTQ, see `compress_layers`.
    progress, cancel
        See `compress_layers`.

    Returns
    -------
    reports : list of MatrixReport
    n_bytes : int
        Of the file.

    Raises
    ------
    Cancelled
        What is finished stays in `work`.
    UsageError
        A matrix that the type cannot hold; a model that has outliers already.
    """
    if any(info.has_outliers for info in checkpoint.tensors.values()):
        raise UsageError(
            f"{checkpoint.path} is quantised already, with outliers.",
            advice="Quantise the model that it was made of.",
        )
    reports: list[MatrixReport] = []

    def change(matrix: Matrix) -> npt.NDArray[np.float32]:
        stored = work.get(matrix.name)
        if stored is None:
            stored = round_matrix(matrix, target, method, outliers)
            work.put(matrix.name, stored)
        n_bytes = target.n_bytes(*matrix.weight.shape) + int(stored.get("side_bytes", 0))
        reports.append(MatrixReport(matrix.name, n_bytes, float(stored["error"])))
        return kept_values(stored, target, matrix.weight.shape)

    compress_layers(
        *(checkpoint, config, plan, windows if method == "gptq" else (), change),
        with_hessian=method == "gptq",
        is_done=work.has,
        progress=progress,
        cancel=cancel,
    )
    changed = [report.name for report in reports]
    tensors, extra = quantized_tensors(checkpoint, config, plan, target, work, changed)
    n_bytes = write_gguf(output, checkpoint, tensors, extra, folder=work.folder)
    return reports, n_bytes
