"""`quantize_model`: a dense model with its layers' matrices in few bits, written as GGUF.

Matrices of 1 to 4 bits are written as bit slices (`edgesparse.checkpoint.slices`), the usual types
of GGUF as the `gguf` package rounds them; rows that are no whole blocks of 32 become F16. Embedding
and head become Q8_0, where they are floats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.cancel import CancelToken
from edgesparse.checkpoint import Checkpoint, TensorInfo, TensorType, dequantize, ternarize
from edgesparse.checkpoint.gguf_types import type_id
from edgesparse.checkpoint.outliers import VERSION as OUTLIERS_VERSION
from edgesparse.checkpoint.outliers import outliers_name
from edgesparse.checkpoint.slices import VERSION
from edgesparse.checkpoint.types import n_bytes_of
from edgesparse.compress.gguf_out import NewTensor, Rows, copied, model_tensors, write_gguf
from edgesparse.compress.grid import Rounded, round_gptq, round_nearest
from edgesparse.compress.layers import Matrix, compress_layers, read_matrix
from edgesparse.compress.outliers import Outliers, take_outliers
from edgesparse.compress.work import Work
from edgesparse.config import ModelConfig
from edgesparse.errors import UsageError
from edgesparse.formats.bitslice import pack_bitslice
from edgesparse.formats.csr import pack_csr
from edgesparse.plan.plan import Plan

__all__ = ["METHODS", "MatrixReport", "Target", "check_quantizable", "quantize_model"]

Float32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

METHODS = ("rtn", "gptq")
_SLICED = re.compile(r"w([1-4])_(?:g(32|64|128)|row)")
_STANDARD = {"q8_0": TensorType.Q8_0, "q4_0": TensorType.Q4_0, "q4_1": TensorType.Q4_1}
_TERNARY = ("t2", "tq2_0")
_FLOATS = (TensorType.F32, TensorType.F16, TensorType.BF16)
_FILE_TYPES = {"q8_0": 7, "q4_0": 2, "q4_1": 3, "t2": 37, "tq2_0": 37}
_GUESSED = 1024
"""LLAMA_FTYPE_GUESSED: a file whose types are in none of llama.cpp's lists."""


@dataclass(frozen=True)
class Target:
    """What matrices become.

    Attributes
    ----------
    name : str
        ``w4_g128``, ``q8_0``, ``t2``, …
    bits : int
        Of bit slices; 0 for the standard types.
    group : int
        Columns of a group, 0 for a row.
    type : TensorType or None
        The standard type, or None for bit slices.
    """

    name: str
    bits: int = 0
    group: int = 0
    type: TensorType | None = None

    @classmethod
    def parse(cls, name: str) -> Target:
        """Read a type's name.

        Raises
        ------
        UsageError
            There is no such type.
        """
        wanted = name.lower()
        found = _SLICED.fullmatch(wanted)
        if found:
            return cls(wanted, int(found[1]), int(found[2] or 0))
        if wanted in _STANDARD:
            return cls(wanted, type=_STANDARD[wanted])
        if wanted in _TERNARY:
            return cls(wanted, type=TensorType.TQ2_0)
        raise UsageError(
            f"{name} is no type to quantise to.",
            advice="Use w1 to w4 with _g32, _g64, _g128 or _row, such as w4_g128; q8_0, q4_0, "
            "q4_1; or t2 for a model that was trained ternary.",
        )

    @property
    def is_ternary(self) -> bool:
        """Whether numbers become -1, 0 and 1 times one scale."""
        return self.type is TensorType.TQ2_0

    def type_of(self, k: int) -> TensorType | None:
        """Return the standard type of a matrix whose rows have `k` columns, None for bit slices."""
        return TensorType.F16 if self.type and not self.is_ternary and k % 32 else self.type

    def columns(self, k: int) -> int:
        """Columns of a group in a row of `k`."""
        return min(self.group, k) if self.group else k


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
    progress: Callable[[int, int], None] | None = None,
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

    def change(matrix: Matrix) -> Float32:
        stored = work.get(matrix.name)
        if stored is None:
            stored = _round(matrix, target, method, outliers)
            work.put(matrix.name, stored)
        n_bytes = _n_bytes(target, *matrix.weight.shape) + int(stored.get("side_bytes", 0))
        reports.append(MatrixReport(matrix.name, n_bytes, float(stored["error"])))
        return _values(stored, target, matrix.weight.shape)

    compress_layers(
        *(checkpoint, config, plan, windows if method == "gptq" else (), change),
        with_hessian=method == "gptq",
        is_done=work.has,
        progress=progress,
        cancel=cancel,
    )
    tensors, extra = _tensors(checkpoint, config, plan, target, work, [r.name for r in reports])
    n_bytes = write_gguf(output, checkpoint, tensors, extra)
    return reports, n_bytes


def _round(
    matrix: Matrix, target: Target, method: str, outliers: float
) -> dict[str, npt.NDArray[np.generic]]:
    """Round one matrix: what `Work` keeps of it."""
    weight = matrix.weight
    side: dict[str, npt.NDArray[np.generic]] = {}
    if outliers:
        norms = matrix.norms if matrix.hessian.size else None
        weight, taken = take_outliers(weight, outliers, norms)
        side = _kept_outliers(taken)
    if target.bits:
        group = target.columns(weight.shape[1])
        if method == "gptq":
            found = round_gptq(weight, matrix.hessian, target.bits, group)
        else:
            found = round_nearest(weight, target.bits, group)
        made: dict[str, npt.NDArray[np.generic]] = {
            "codes": found.codes,
            "steps": found.steps,
            "zeros": found.zeros,
        }
    else:
        made = {"data": _encode(weight, target, matrix.name)}
    made |= side
    made["error"] = np.array(matrix.lost(_values(made, target, weight.shape)))
    return made


def _kept_outliers(outliers: Outliers) -> dict[str, npt.NDArray[np.generic]]:
    """Give the arrays that `Work` keeps of a side matrix; few numbers, so by their places."""
    places = np.flatnonzero(outliers.codes)
    size = np.array(pack_csr(*outliers).nbytes)
    codes = outliers.codes.reshape(-1)[places]
    return {"places": places, "side_codes": codes, "side_steps": outliers.steps, "side_bytes": size}


def _outliers(
    made: Mapping[str, npt.NDArray[np.generic]], shape: tuple[int, ...]
) -> Outliers | None:
    """Undo `_kept_outliers`."""
    if "places" not in made:
        return None
    codes = np.zeros(shape, np.int8)
    codes.reshape(-1)[np.asarray(made["places"], np.intp)] = np.asarray(made["side_codes"], np.int8)
    return Outliers(codes, np.asarray(made["side_steps"], np.float16))


def _values(
    made: Mapping[str, npt.NDArray[np.generic]], target: Target, shape: tuple[int, ...]
) -> Float32:
    """Return what a reader will make of a matrix."""
    side = _outliers(made, shape)
    base = _base_values(made, target, shape)
    return base if side is None else base + side.values


def _base_values(
    made: Mapping[str, npt.NDArray[np.generic]], target: Target, shape: tuple[int, ...]
) -> Float32:
    kind = target.type_of(shape[1])
    if kind is not None:
        return dequantize(kind, np.asarray(made["data"], np.uint8), shape)
    steps, zeros = (np.asarray(made[key], np.float32) for key in ("steps", "zeros"))
    return Rounded(
        np.asarray(made["codes"], np.uint8), steps, zeros, target.columns(shape[1])
    ).values


def _encode(weight: Float32, target: Target, name: str) -> U8:
    """Write a matrix in a standard type."""
    from gguf import GGMLQuantizationType, quants

    kind = target.type_of(weight.shape[1])
    if kind is None:
        raise ValueError(f"{target.name} is no type of GGUF")
    if target.is_ternary:
        if weight.shape[1] % 256:
            raise UsageError(
                f"{name}: rows of {weight.shape[1]} weights do not fall into blocks of 256.",
                advice=f"{target.name} cannot hold this model; w2_g64 and its like take any shape.",
            )
        codes, scale = ternarize(weight)
        weight = codes.astype(np.float32) * np.float32(scale)
    made = quants.quantize(weight, GGMLQuantizationType(type_id(kind)))
    return np.ascontiguousarray(made).view(np.uint8).reshape(-1)


def _n_bytes(target: Target, n_rows: int, k: int) -> int:
    kind = target.type_of(k)
    if kind is not None:
        return n_bytes_of(kind, (n_rows, k))
    from edgesparse.formats.weight import Format, Slices, Zeros, storage_bytes

    group = target.group if target.group < k else 0
    fmt = Format(Format.BS1 + target.bits - 1)
    return storage_bytes(fmt, n_rows, k, Slices(group, Zeros.POINTS))


def _tensors(
    checkpoint: Checkpoint,
    config: ModelConfig,
    plan: Plan,
    target: Target,
    work: Work,
    changed: Sequence[str],
) -> tuple[list[NewTensor], dict[str, Any]]:
    """List what the file will hold, and the metadata that goes with it."""
    slices: dict[str, list[Any]] = {
        key: [] for key in ("names", "rows", "columns", "bits", "group", "zeros", "wide")
    }

    def matrix(name: str, info: TensorInfo, rows: Rows) -> NewTensor:
        if name in changed:
            return _matrix(name, info, target, work, rows, slices)
        if info.slices is not None:
            return _kept_slices(checkpoint, name, info, slices)
        if info.type in _FLOATS and info.n_cols % 32 == 0:
            return _eight_bits(checkpoint, name, info)
        return copied(checkpoint, name)

    sides: dict[str, list[Any]] = {"names": [], "rows": [], "columns": []}
    more: list[NewTensor] = []

    def with_side(name: str, info: TensorInfo, rows: Rows) -> NewTensor:
        side = _side_matrix(name, info, work, rows, sides) if name in changed else None
        more.extend([] if side is None else [side])
        return matrix(name, info, rows)

    tensors = model_tensors(checkpoint, config, plan, with_side) + more
    extra: dict[str, Any] = {
        "general.file_type": _FILE_TYPES.get(target.name, _GUESSED),
        "general.quantization_version": 2,
    }
    if slices["names"]:
        extra |= {f"edgesparse.slices.{key}": values for key, values in slices.items()}
        extra["edgesparse.slices.version"] = VERSION
    if sides["names"]:
        extra |= {f"edgesparse.outliers.{key}": values for key, values in sides.items()}
        extra["edgesparse.outliers.version"] = OUTLIERS_VERSION
    return tensors, extra


def _side_matrix(
    name: str, info: TensorInfo, work: Work, rows: Rows, sides: dict[str, list[Any]]
) -> NewTensor | None:
    """Make the tensor of a matrix's outliers, if it has any."""
    shape = (info.n_rows, info.n_cols)
    found = _outliers(work.require(name), shape)
    if found is None:
        return None
    data = pack_csr(found.codes[rows], found.steps[rows])
    for key, value in zip(sides, (outliers_name(name), *shape), strict=True):
        sides[key].append(value)
    kind = type_id(TensorType.I8)
    return NewTensor(outliers_name(name), kind, data.shape, data.nbytes, lambda: data)


def _eight_bits(checkpoint: Checkpoint, name: str, info: TensorInfo) -> NewTensor:
    def data() -> U8:
        from gguf import GGMLQuantizationType, quants

        made = quants.quantize(read_matrix(checkpoint, name), GGMLQuantizationType.Q8_0)
        return np.asarray(made, np.uint8).reshape(-1)

    n_bytes = info.n_rows * info.n_cols // 32 * 34
    return NewTensor(name, type_id(TensorType.Q8_0), info.shape, n_bytes, data)


def _kept_slices(
    checkpoint: Checkpoint, name: str, info: TensorInfo, slices: dict[str, list[Any]]
) -> NewTensor:
    """Take bit slices over as they are, with what says that they are such."""
    layout = info.slices
    if layout is None:
        raise ValueError(f"{name} holds no bit slices")
    values = (name, info.n_rows, info.n_cols, *layout[:3], int(layout.wide))
    for key, value in zip(slices, values, strict=True):
        slices[key].append(value)
    return NewTensor(
        *(name, type_id(TensorType.I8), (info.n_bytes,), info.n_bytes),
        lambda: checkpoint.read(name),
    )


def _matrix(
    name: str,
    info: TensorInfo,
    target: Target,
    work: Work,
    rows: Rows,
    slices: dict[str, list[Any]],
) -> NewTensor:
    n_rows, k = info.n_rows, info.n_cols
    n_bytes = _n_bytes(target, n_rows, k)
    kind = target.type_of(k)
    if kind is not None:
        return NewTensor(
            *(name, type_id(kind), info.shape, n_bytes),
            lambda: (
                np.asarray(work.require(name)["data"], np.uint8)
                .reshape(n_rows, -1)[rows]
                .reshape(-1)
            ),
        )

    def planes() -> U8:
        found = work.require(name)
        weight = pack_bitslice(
            np.ascontiguousarray(np.asarray(found["codes"], np.uint8)[rows]),
            target.bits,
            target.columns(k),
            np.asarray(found["steps"], np.float32)[rows],
            np.asarray(found["zeros"], np.float32)[rows],
        )
        return weight.data

    group = target.group if target.group < k else 0
    values = (name, n_rows, k, target.bits, group, 1, 0)
    for key, value in zip(slices, values, strict=True):
        slices[key].append(value)
    return NewTensor(name, type_id(TensorType.I8), (n_bytes,), n_bytes, planes)
