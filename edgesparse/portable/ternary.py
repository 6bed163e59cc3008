"""Ternary × int8 products over t2 and t5 rows (bytes: ``edgesparse/formats/README.md``).

A row is unpacked once into codes 0, 1, 2 and multiplied with every token. Codes stand in plane
order, first the top digit of every byte of the row, then the next one, so that unpacking is four or
five long plain loops; activations are brought into the same order once per token. Σ (code − 1) q is
Σ code q − Σ q, and Σ q comes with the quantised activation. |Σ code q| ≤ 256 k fits int32 while
k < 2²³.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import Format, Weight
from edgesparse.portable.bind import Bytes, Float32, Int32
from edgesparse.portable.jit import njit

__all__ = ["n_planes_of", "padded_k", "rows_of", "ternary_product", "to_planes", "unpack_row"]

THREE = np.uint16(3)


def n_planes_of(weight: Weight) -> int:
    """Codes in one stored byte."""
    return 5 if weight.format == Format.T5 else 4


def padded_k(weight: Weight) -> int:
    """Codes in one stored row, padding included."""
    group = 32 * n_planes_of(weight)
    return -(-weight.k // group) * group


def rows_of(weight: Weight) -> Bytes:
    """Return the stored bytes as an (n_rows, row_bytes) view."""
    return weight.data.reshape(weight.n_rows, -1)


@njit
def unpack_t2(codes: Bytes, row: Bytes) -> None:
    """Write the codes of one t2 row in plane order."""
    n = row.shape[0]
    for plane in range(4):
        shift = np.uint8(6 - 2 * plane)
        out = codes[plane * n : plane * n + n]
        for j in range(n):
            out[j] = (row[j] >> shift) & 3


@njit
def unpack_t5(codes: Bytes, row: Bytes) -> None:
    """Write the codes of one t5 row in plane order."""
    n = row.shape[0]
    power = np.uint8(1)
    for plane in range(5):
        out = codes[plane * n : plane * n + n]
        for j in range(n):
            out[j] = (np.uint16(np.uint8(row[j] * power)) * THREE) >> 8
        power = np.uint8(power * 3)


@njit
def unpack_row(codes: Bytes, row: Bytes, n_planes: int) -> None:
    """Write the codes 0, 1, 2 of one row in plane order, padding included."""
    if n_planes == 5:
        unpack_t5(codes, row)
    else:
        unpack_t2(codes, row)


@njit
def to_planes(out: npt.NDArray[np.int8], q: npt.NDArray[np.int8], n_planes: int) -> None:
    """Write q in plane order, zeros where the stored row is padded."""
    k, n = q.shape[0], out.shape[0] // n_planes
    begin = 0
    for block in range(n // 32):
        for plane in range(n_planes):
            first = plane * n + block * 32
            filled = min(32, max(0, k - begin))
            for j in range(filled):
                out[first + j] = q[begin + j]
            for j in range(filled, 32):
                out[first + j] = 0
            begin += 32


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
    n_planes: int,
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
        Weight bytes; t2 has 4 planes, t5 has 5.
    q, s, q_sum : (>= n_tokens, padded k) int8, (>= n_tokens,) float32, (>= n_tokens,) int32
        Quantised activations, q in plane order.
    codes : (padded k,) uint8
        Scratch.
    """
    has_bias = bias.shape[0] > 0
    for r in range(row_begin, row_end):
        unpack_row(codes, rows[r], n_planes)
        for t in range(n_tokens):
            total = np.int32(dot(codes, q[t]) - q_sum[t])
            y = np.float32(total) * np.float32(scales[r] / s[t])
            if has_bias:
                y = y + bias[r]
            dst[t, r] = dst[t, r] + y if add else y
