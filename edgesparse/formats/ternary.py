"""t2, t2n and t5: ternary matrices, four or five weights to a byte (pictures in README.md).

The functions here define the bytes; native/repack/ternary.c writes the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import Format, Weight

__all__ = ["ZERO_BYTE", "pack_ternary", "unpack_ternary", "zero_rows"]

U8 = npt.NDArray[np.uint8]
I8 = npt.NDArray[np.int8]

_GROUP = {Format.T2: 128, Format.T5: 160}
ZERO_BYTE = {Format.T2: 0x55, Format.T5: 0x80}
"""The byte whose weights are all 0."""


def pack_ternary(codes: I8, fmt: Format) -> U8:
    """Pack a matrix of -1, 0, +1.

    Parameters
    ----------
    codes : (n_rows, k) int8
        Nothing but -1, 0 and +1.
    fmt : Format
        `Format.T2`, `Format.T2N` or `Format.T5`.

    Returns
    -------
    (storage_bytes(fmt, n_rows, k),) uint8
    """
    if fmt is Format.T2N:
        return pack_ternary(np.ascontiguousarray(codes.T), Format.T2)
    n_rows, k = codes.shape
    group = _GROUP[fmt]
    n_groups = -(-k // group)
    padded = np.ones((n_rows, n_groups * group), dtype=np.uint8)
    np.add(codes, 1, out=padded[:, :k], casting="unsafe")
    lanes = padded.reshape(n_rows, n_groups, group // 32, 32)
    if fmt is Format.T2:
        packed = lanes[:, :, 0] << np.uint8(6)
        packed |= lanes[:, :, 1] << np.uint8(4)
        packed |= lanes[:, :, 2] << np.uint8(2)
        packed |= lanes[:, :, 3]
        return packed.reshape(-1)
    number = np.zeros((n_rows, n_groups, 32), dtype=np.uint32)
    for digit in range(5):
        number *= 3
        number += lanes[:, :, digit]
    return ((number * 256 + 242) // 243).astype(np.uint8).reshape(-1)


def unpack_ternary(weight: Weight, rows: npt.NDArray[np.intp] | None = None) -> I8:
    """Unpack a ternary weight, or some of its rows.

    Parameters
    ----------
    weight : Weight
        In a ternary format.
    rows : (n,) int, optional
        Row numbers; all rows when omitted.

    Returns
    -------
    (n, k) int8
        -1, 0 and +1.
    """
    if weight.format is Format.T2N:
        turned = _unpack(weight.data.reshape(weight.k, -1), Format.T2, weight.n_rows).T
        return np.ascontiguousarray(turned if rows is None else turned[rows])
    packed = weight.data.reshape(weight.n_rows, -1)
    return _unpack(packed if rows is None else packed[rows], weight.format, weight.k)


def _unpack(packed: U8, fmt: Format, k: int) -> I8:
    """Unpack rows of bytes into (n_rows, k) weights."""
    group = _GROUP[fmt]
    packed = packed.reshape(len(packed), -1, 32)
    codes = np.empty((*packed.shape[:2], group // 32, 32), dtype=np.uint8)
    for lane in range(group // 32):
        if fmt is Format.T2:
            codes[:, :, lane] = packed >> np.uint8(6 - 2 * lane) & np.uint8(3)
        else:
            moved = packed * np.uint8(3**lane)
            codes[:, :, lane] = (moved.astype(np.uint16) * 3) >> 8
    codes -= 1
    return codes.reshape(packed.shape[0], -1)[:, :k].view(np.int8)


def zero_rows(data: U8, fmt: Format, n_rows: int) -> npt.NDArray[np.bool_]:
    """Tell which rows of packed `data` hold nothing but zeros, shape (n_rows,)."""
    rows = data.reshape(n_rows, -1)
    zero: npt.NDArray[np.bool_] = (rows == ZERO_BYTE[fmt]).all(axis=1)
    return zero
