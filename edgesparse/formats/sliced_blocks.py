"""GGUF blocks of 1, 2 and 4 bits as bit slices: the same numbers, bit for bit.

A block's step becomes the step of a group; what Q4_1 and Q4_K add becomes its offset. Codes that
count from elsewhere than the middle of 2^bits, as ternary ones do, have a zero point. The products
of Q4_K's two scales need more than a half, so its steps are float32 (6 bits per weight).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint import affine_blocks, check_scales
from edgesparse.checkpoint.source import shown
from edgesparse.errors import ModelFormatError
from edgesparse.formats.bitslice import fill_sliced
from edgesparse.formats.convert import Convert, Target
from edgesparse.formats.weight import BLOCK, Slices, storage_bytes

__all__ = ["in_slices"]


def in_slices(convert: Convert) -> Convert:
    """Make bit slices of what is in `choose.SLICED`; leave other formats to `convert`."""

    def both(target: Target, raw: npt.NDArray[np.uint8], begin: int, end: int) -> None:
        if target.slices is None:
            convert(target, raw, begin, end)
        else:
            _convert(target, target.slices, raw, begin, end)

    return both


def _convert(
    target: Target, slices: Slices, raw: npt.NDArray[np.uint8], begin: int, end: int
) -> None:
    info, bits = target.info, target.format.planes
    shape = (end - begin, info.n_cols)
    check_scales(info.type, raw, shape, name=info.name)
    blocks = affine_blocks(info.type, raw, shape, name=info.name)
    if blocks is None:
        raise ValueError(f"{info.type.name} has several steps in 32 columns")
    per_group = slices.group // BLOCK
    codes = blocks[0].reshape(shape)
    steps = blocks[1][:, ::per_group]
    beside: npt.NDArray[np.generic] | None = None
    if blocks[2] is not None:
        beside = blocks[2][:, ::per_group]
    elif bits == 4:
        codes = codes + np.int8(8)
    elif bits == 1:  # -step and +step are 2 · step apart, of which half is stored
        codes = (codes + np.int8(1)) >> np.int8(1)
    else:
        codes = codes + np.int8(1)
        beside = np.full(steps.shape, 1 - (1 << (bits - 1)), np.int8)
    if not np.isfinite(steps).all() or (beside is not None and not np.isfinite(beside).all()):
        detail = "a scale or an offset is not finite"
        raise ModelFormatError("value", shown(info.name), detail, advice="The file is damaged.")
    first, last = (storage_bytes(target.format, n, info.n_cols, slices) for n in (begin, end))
    stored = codes.view(np.uint8)
    fill_sliced(target.data[first:last], stored, target.format, slices, steps, beside)
