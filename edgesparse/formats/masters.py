"""The scale of BitNet b1.58 master weights, found in one streaming pass over the tensor."""

from __future__ import annotations

import numpy as np

from edgesparse.checkpoint import Checkpoint, TensorInfo, check_scales, dequantize

__all__ = ["master_scale"]

_CHUNK_BYTES = 4 << 20


def master_scale(checkpoint: Checkpoint, info: TensorInfo) -> float:
    """Give ``max(mean|W|, 1e-5)``, or a when the matrix holds only -a, 0 and a.

    The same rule as `edgesparse.checkpoint.ternarize`, without the whole matrix in memory. The
    mean is taken in double precision and rounded to float32 once.

    Parameters
    ----------
    checkpoint : Checkpoint
        Opened model.
    info : TensorInfo
        A float matrix.

    Raises
    ------
    ModelFormatError
        ``value`` for a number that is not finite, ``truncated``.
    """
    total, peak, one_level = 0.0, np.float32(0), True
    step = max(1, _CHUNK_BYTES // info.row_bytes)
    for begin in range(0, info.n_rows, step):
        end = min(begin + step, info.n_rows)
        raw = checkpoint.read_range(info.name, begin * info.row_bytes, end * info.row_bytes)
        shape = (end - begin, info.n_cols)
        check_scales(info.type, raw, shape, name=info.name)
        magnitude = np.abs(dequantize(info.type, raw, shape, name=info.name))
        total += float(magnitude.sum(dtype=np.float64))
        if one_level:
            peak = peak if peak > 0 else magnitude.max()
            one_level = bool(np.all((magnitude == 0) | (magnitude == peak)))
    if one_level:
        return float(peak)
    mean = np.float32(total / (info.n_rows * info.n_cols))
    return float(np.maximum(mean, np.float32(1e-5)))
