"""Checks of values rather than structure: cheap ones at opening, full ones while loading."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint.decode import check_scales
from edgesparse.checkpoint.reader import Checkpoint
from edgesparse.checkpoint.source import shown
from edgesparse.checkpoint.types import TensorType
from edgesparse.errors import ModelFormatError

__all__ = ["verify_cheaply"]

_FLOATS = frozenset({TensorType.F32, TensorType.F16, TensorType.BF16})
_VECTOR_BUDGET = 4 << 20
_SAMPLE_BYTES = 64 << 10
_SAMPLED_TENSORS = 8
_MIN_ZERO_SHARE = 0.05


def verify_cheaply(checkpoint: Checkpoint) -> None:
    """Check what takes milliseconds: vectors are finite, I2_S samples look ternary.

    Adds to ``checkpoint.warnings`` when sampled I2_S tensors have almost no zeros: their writer
    was fed weights that were not ternary and silently kept only the signs.

    Raises
    ------
    ModelFormatError
        ``value`` for a vector (norm weight, bias) with a NaN or infinity.
    """
    _check_vectors(checkpoint)
    _sample_i2s(checkpoint)


def _check_vectors(checkpoint: Checkpoint) -> None:
    budget = _VECTOR_BUDGET
    for info in checkpoint.tensors.values():
        if len(info.shape) != 1 or info.type not in _FLOATS:
            continue
        budget -= info.n_bytes
        if budget < 0:
            return
        try:
            check_scales(info.type, checkpoint.read(info.name), info.shape, name=info.name)
        except ModelFormatError as error:
            raise ModelFormatError(
                error.kind,
                error.field,
                error.detail,
                path=shown(checkpoint.path, 400),
                advice="The file is damaged: fetch or convert it again.",
            ) from None


def _sample_i2s(checkpoint: Checkpoint) -> None:
    tensors = [info for info in checkpoint.tensors.values() if info.type.name.startswith("I2_S")]
    n_zeros = n_codes = 0
    step = max(1, len(tensors) // _SAMPLED_TENSORS)
    for info in tensors[::step]:
        n_bytes = min(_SAMPLE_BYTES, info.n_bytes - 32)
        counts = _code_counts(checkpoint.read_range(info.name, 0, n_bytes))
        n_zeros += int(counts[1])
        n_codes += 4 * n_bytes
    if n_codes and n_zeros < _MIN_ZERO_SHARE * n_codes:
        checkpoint.warnings.append(
            f"only {100 * n_zeros / n_codes:.1f} % zeros in the I2_S weights: the file was made "
            "from weights that were not ternary"
        )


def _code_counts(raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Count the 2-bit codes 0 to 3 in packed bytes."""
    per_byte = np.bincount(raw, minlength=256)
    byte = np.arange(256)
    counts = np.zeros(4, dtype=np.int64)
    for shift in (0, 2, 4, 6):
        np.add.at(counts, byte >> shift & 3, per_byte)
    return counts
