"""The GGUF file of a quantised model: bit slices, outliers and standard types, and what says so.

Embedding and head become Q8_0, where they are floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint import Checkpoint, TensorInfo, TensorType
from edgesparse.checkpoint.gguf_types import type_id
from edgesparse.checkpoint.outliers import VERSION as OUTLIERS_VERSION
from edgesparse.checkpoint.outliers import outliers_name
from edgesparse.checkpoint.slices import VERSION
from edgesparse.compress.gguf_out import NewTensor, Rows, copied, model_tensors
from edgesparse.compress.layers import read_matrix
from edgesparse.compress.rounded import kept_outliers
from edgesparse.compress.target import Target
from edgesparse.compress.work import Work
from edgesparse.config import ModelConfig
from edgesparse.formats.bitslice import pack_bitslice
from edgesparse.formats.csr import pack_csr
from edgesparse.plan.plan import Plan

__all__ = ["quantized_tensors"]

U8 = npt.NDArray[np.uint8]

_FLOATS = (TensorType.F32, TensorType.F16, TensorType.BF16)
_FILE_TYPES = {"q8_0": 7, "q4_0": 2, "q4_1": 3, "t2": 37, "tq2_0": 37}
_GUESSED = 1024
"""LLAMA_FTYPE_GUESSED: a file whose types are in none of llama.cpp's lists."""


def quantized_tensors(
    checkpoint: Checkpoint,
    config: ModelConfig,
    plan: Plan,
    target: Target,
    work: Work,
    changed: Sequence[str],
) -> tuple[list[NewTensor], dict[str, Any]]:
    """List what the file will hold, and the metadata that goes with it.

    Parameters
    ----------
    checkpoint, config, plan
        The model.
    target : Target
    work : Work
        With what `round_matrix` made of the matrices in `changed`.
    changed : sequence of str
    """
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
    found = kept_outliers(work.require(name), shape)
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
    n_bytes = target.n_bytes(n_rows, k)
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
