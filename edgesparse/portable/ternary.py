"""Ternary × int8 products over t2, t2n and t5 (bytes: ``edgesparse/formats/README.md``).

A row is unpacked once into codes 0, 1, 2 and multiplied with every token. Codes stand in plane
order, first the top digit of every byte of the row, then the next one, so that unpacking is four or
five long plain loops; activations are brought into the same order once per token. Σ (code − 1) q is
Σ code q − Σ q, and Σ q comes with the quantised activation. |Σ code q| ≤ 256 k fits int32 while
k < 2²³. Neuron-major weights (t2n) are read input by input instead; inputs of zero are not read.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import Format, Weight
from edgesparse.portable.bind import Bytes, Float32, Int32
from edgesparse.portable.jit import njit

__all__ = [
    "n_planes_of",
    "neuron_product",
    "padded_k",
    "rows_of",
    "ternary_product",
    "to_planes",
    "unpack_row",
]

THREE = np.uint16(3)


def n_planes_of(weight: Weight) -> int:
    """Planes that activations are brought into: codes in one stored byte, or 1 for t2n."""
    return {Format.T2: 4, Format.T5: 5, Format.T2N: 1}[weight.format]


def padded_k(weight: Weight) -> int:
    """Codes in one stored row, padding included."""
    group = 32 * n_planes_of(weight)
    return -(-weight.k // group) * group


def rows_of(weight: Weight) -> Bytes:
    """Return the stored bytes as an (n_rows, row_bytes) view; t2n: (k, row_bytes)."""
    return weight.data.reshape(weight.k if weight.format.is_neuron_major else weight.n_rows, -1)


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
    live: Float32,
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
    live : (>= n_tokens, >= n_rows) or (0, 0) float32
        Outputs whose element is not above 0 are set to 0 instead of computed; empty for none.
    rows : (n_rows, row_bytes) uint8
        Weight bytes; t2 has 4 planes, t5 has 5.
    q, s, q_sum : (>= n_tokens, padded k) int8, (>= n_tokens,) float32, (>= n_tokens,) int32
        Quantised activations, q in plane order.
    codes : (padded k,) uint8
        Scratch.
    """
    has_bias, skips = bias.shape[0] > 0, live.shape[0] > 0
    for r in range(row_begin, row_end):
        is_unpacked = False
        for t in range(n_tokens):
            if skips and not live[t, r] > 0:
                dst[t, r] = np.float32(0)
                continue
            if not is_unpacked:
                unpack_row(codes, rows[r], n_planes)
                is_unpacked = True
            total = np.int32(dot(codes, q[t]) - q_sum[t])
            y = np.float32(total) * np.float32(scales[r] / s[t])
            if has_bias:
                y = y + bias[r]
            dst[t, r] = dst[t, r] + y if add else y


@njit
def neuron_product(
    dst: Float32,
    add: bool,
    bias: Float32,
    neurons: Bytes,
    scales: Float32,
    q: npt.NDArray[np.int8],
    s: Float32,
    q_sum: Int32,
    n_tokens: int,
    row_begin: int,
    row_end: int,
    sums: Int32,
) -> None:
    """Compute output features [row_begin, row_end) of every token from neuron-major weights.

    Parameters
    ----------
    dst, add, bias, scales, s, q_sum
        As in `ternary_product`.
    neurons : (k, row_bytes) uint8
        One packed row of outputs for every input.
    q : (>= n_tokens, >= k) int8
        Quantised activations in their own order.
    row_begin, row_end : int
        Multiples of 8, or the end of the matrix.
    sums : (>= row_end - row_begin,) int32
        Scratch.
    """
    has_bias = bias.shape[0] > 0
    for t in range(n_tokens):
        sums[: row_end - row_begin] = 0
        for i in range(neurons.shape[0]):
            x = np.int32(q[t, i])
            if x == 0:
                continue
            row = neurons[i]
            for r in range(row_begin, row_end, 8):
                first = r // 128 * 32 + r % 32
                shift = np.uint8(6 - 2 * (r % 128 // 32))
                for j in range(min(8, row_end - r)):
                    code = np.int32((row[first + j] >> shift) & np.uint8(3))
                    sums[r - row_begin + j] += np.int32(code * x)
        for r in range(row_begin, row_end):
            total = np.int32(sums[r - row_begin] - q_sum[t])
            y = np.float32(total) * np.float32(scales[r] / s[t])
            if has_bias:
                y = y + bias[r]
            dst[t, r] = dst[t, r] + y if add else y
