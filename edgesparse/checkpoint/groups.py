"""The common form of every quantised type: small integers, and a scale per group of columns.

``value[r, g, i] = d[r, g] * codes[r, g, i] + m[r, g]`` with ``m`` absent for symmetric types.
Each ``unpack_*`` file turns one family of bytes into `Groups`; ``decode.py`` does the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["U8", "Groups", "f16_field", "spread_pairs", "trits"]

U8 = npt.NDArray[np.uint8]
I8 = npt.NDArray[np.int8]
F32 = npt.NDArray[np.float32]


class Groups(NamedTuple):
    """Rows of a quantised matrix as integers and group scales.

    Attributes
    ----------
    codes : (n_rows, n_groups, group) int8
        Signed codes, offsets already removed.
    d : (n_rows, n_groups) float32
        Scale of each group.
    m : (n_rows, n_groups) float32 or None
        Added after scaling.
    """

    codes: I8
    d: F32
    m: F32 | None = None


def f16_field(blocks: U8, offset: int) -> F32:
    """Read the half-precision number at `offset` of each block, shape of the leading axes."""
    field = np.ascontiguousarray(blocks[..., offset : offset + 2])
    return field.view("<f2")[..., 0].astype(np.float32)


def spread_pairs(packed: U8, axis: int, *, high_first: bool = False) -> U8:
    """Split each byte into four 2-bit codes along a new axis.

    Parameters
    ----------
    packed : uint8
        Bytes.
    axis : int
        Place of the new axis of length 4 in the result.
    high_first : bool
        Code 0 sits in bits 7-6 rather than in bits 1-0.
    """
    shifts = (6, 4, 2, 0) if high_first else (0, 2, 4, 6)
    shape = list(packed.shape)
    shape.insert(axis if axis >= 0 else axis + packed.ndim + 1, 4)
    out = np.empty(shape, dtype=np.uint8)
    lanes = np.moveaxis(out, axis, 0)
    for lane, shift in enumerate(shifts):
        np.right_shift(packed, shift, out=lanes[lane])
    out &= 3
    return out


def trits(packed: U8, digit: int) -> I8:
    """Give digit `digit` (0 is the most significant of five) of fixed-point trits, minus 1.

    A byte holds ``ceil(256 * v / 243)`` of the base-3 number ``v``. Multiplying by ``3**digit``
    modulo 256 moves the wanted digit to the front; there it is the count of passed thirds.
    """
    moved = packed * np.uint8(3**digit)
    return (moved >= 86).view(np.int8) + (moved >= 171).view(np.int8) - np.int8(1)
