"""Ternary × int8 products over t2 and t5 rows (bytes: ``edgesparse/formats/README.md``).

A row is unpacked once into codes 0, 1, 2 and multiplied with every token. Σ (code − 1) q is
Σ code q − Σ q, and Σ q comes with the quantised activation. |Σ code q| ≤ 256 k fits int32 while
k < 2²³.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import Format, Weight
from edgesparse.portable.bind import Bytes, Float32, Int32
from edgesparse.portable.jit import njit

__all__ = ["padded_k", "rows_of", "ternary_product", "unpack_row"]

ONE_OF_THREE = np.uint16(3)


def padded_k(weight: Weight) -> int:
    """Codes in one stored row, padding included."""
    group = 160 if weight.format == Format.T5 else 128
    return -(-weight.k // group) * group


def rows_of(weight: Weight) -> Bytes:
    """Return the stored bytes as an (n_rows, row_bytes) view."""
    return weight.data.reshape(weight.n_rows, -1)


@njit
def unpack_t2(codes: Bytes, row: Bytes) -> None:
    """Write the codes of one t2 row; `codes` has four elements per byte."""
    for block in range(row.shape[0] // 32):
        packed = row[block * 32 : block * 32 + 32]
        out = codes[block * 128 : block * 128 + 128]
        for j in range(32):
            out[j] = packed[j] >> 6
        for j in range(32):
            out[32 + j] = (packed[j] >> 4) & 3
        for j in range(32):
            out[64 + j] = (packed[j] >> 2) & 3
        for j in range(32):
            out[96 + j] = packed[j] & 3


@njit
def unpack_t5(codes: Bytes, row: Bytes) -> None:
    """Write the codes of one t5 row; `codes` has five elements per byte."""
    for block in range(row.shape[0] // 32):
        packed = row[block * 32 : block * 32 + 32]
        power = np.uint8(1)
        for digit in range(5):
            begin = block * 160 + digit * 32
            out = codes[begin : begin + 32]
            for j in range(32):
                out[j] = (np.uint16(np.uint8(packed[j] * power)) * ONE_OF_THREE) >> 8
            power = np.uint8(power * 3)


@njit
def unpack_row(codes: Bytes, row: Bytes, five: bool) -> None:
    """Write the codes 0, 1, 2 of one row, padding included."""
    if five:
        unpack_t5(codes, row)
    else:
        unpack_t2(codes, row)


@njit
def dot(codes: Bytes, q: npt.NDArray[np.int8]) -> np.int32:
    """Return Σ code q."""
    total = np.int32(0)
    for i in range(q.shape[0]):
        total = np.int32(total + np.int32(codes[i]) * np.int32(q[i]))
    return total


@njit
def ternary_product(
    dst: Float32,
    add: bool,
    bias: Float32,
    rows: Bytes,
    scales: Float32,
    five: bool,
    q: npt.NDArray[np.int8],
    s: Float32,
    q_sum: Int32,
    n_tokens: int,
    row_begin: int,
    row_end: int,
    codes: Bytes,
) -> None:
    """Compute output features [row_begin, row_end) of every token.

    Parameters
    ----------
    dst : (>= n_tokens, n_rows) float32
        Set, or added to when `add`.
    bias : (n_rows,) or (0,) float32
        Empty for none.
    rows : (n_rows, row_bytes) uint8
        Weight bytes; t5 when `five`, else t2.
    q, s, q_sum : (>= n_tokens, k) int8, (>= n_tokens,) float32, (>= n_tokens,) int32
        Quantised activations.
    codes : (>= padded k,) uint8
        Scratch.
    """
    has_bias = bias.shape[0] > 0
    for r in range(row_begin, row_end):
        unpack_row(codes, rows[r], five)
        for t in range(n_tokens):
            total = np.int32(dot(codes, q[t]) - q_sum[t])
            y = np.float32(total) * np.float32(scales[r] / s[t])
            if has_bias:
                y = y + bias[r]
            dst[t, r] = dst[t, r] + y if add else y
