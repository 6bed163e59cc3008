"""One matrix in few bits: rounding it, and reading back what `Work` keeps of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint import dequantize, ternarize
from edgesparse.checkpoint.gguf_types import type_id
from edgesparse.compress.grid import Rounded, round_gptq, round_nearest
from edgesparse.compress.layers import Matrix
from edgesparse.compress.outliers import Outliers, take_outliers
from edgesparse.compress.target import Target
from edgesparse.errors import UsageError
from edgesparse.formats.csr import pack_csr

__all__ = ["kept_outliers", "kept_values", "round_matrix"]

Float32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]


def round_matrix(
    matrix: Matrix, target: Target, method: str, outliers: float
) -> dict[str, npt.NDArray[np.generic]]:
    """Round one matrix.

    Returns
    -------
    dict of str to ndarray
        What `Work` keeps of it: ``codes``, ``steps`` and ``zeros`` of bit slices or the ``data`` of
        a standard type, its outliers by their places, and the ``error``, a share of the squared
        numbers, with a text of the squared outputs.

    Raises
    ------
    UsageError
        The type cannot hold it.
    """
    weight = matrix.weight
    side: dict[str, npt.NDArray[np.generic]] = {}
    if outliers:
        norms = matrix.norms if matrix.hessian.size else None
        weight, taken = take_outliers(weight, outliers, norms)
        side = _keep_outliers(taken)
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
    made["error"] = np.array(matrix.lost(kept_values(made, target, weight.shape)))
    return made


def _keep_outliers(outliers: Outliers) -> dict[str, npt.NDArray[np.generic]]:
    """Give the arrays that `Work` keeps of a side matrix; few numbers, so by their places."""
    places = np.flatnonzero(outliers.codes)
    size = np.array(pack_csr(*outliers).nbytes)
    codes = outliers.codes.reshape(-1)[places]
    return {"places": places, "side_codes": codes, "side_steps": outliers.steps, "side_bytes": size}


def kept_outliers(
    made: Mapping[str, npt.NDArray[np.generic]], shape: tuple[int, ...]
) -> Outliers | None:
    """Return the side matrix among what `Work` keeps of a matrix, None without one."""
    if "places" not in made:
        return None
    codes = np.zeros(shape, np.int8)
    codes.reshape(-1)[np.asarray(made["places"], np.intp)] = np.asarray(made["side_codes"], np.int8)
    return Outliers(codes, np.asarray(made["side_steps"], np.float16))


def kept_values(
    made: Mapping[str, npt.NDArray[np.generic]], target: Target, shape: tuple[int, ...]
) -> Float32:
    """Return what a reader will make of a matrix."""
    side = kept_outliers(made, shape)
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
