"""The arithmetic of ``edgesparse/ops/README.md`` in plain numpy float32, element by element.

Independent of the package's own numpy ops, so that the two cannot share a mistake.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import Weight

F32 = np.float32
Array = npt.NDArray[Any]


def sum16(a: Array) -> np.float32:
    lanes = np.zeros(16, F32)
    for i, value in enumerate(a):
        lanes[i % 16] += value
    for width in (8, 4, 2):
        lanes = lanes[:width] + lanes[width : 2 * width]
    return F32(lanes[0] + lanes[1])


def exp(x: Array) -> Array:
    x = np.clip(x, F32(-87), F32(88))
    n = np.rint(x * F32(1.44269504))
    r = (x - n * F32(0.693359375)) - n * F32(-2.12194440e-4)
    p = np.full_like(x, 1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = p * r + F32(c)
    e = ((p * (r * r)) + r) + F32(1)
    return e * ((n.astype(np.int32) + 127) << 23).view(F32)


def norm(x: Array, w: Array, eps: float) -> Array:
    r = F32(1) / np.sqrt(sum16(x * x) / F32(len(x)) + F32(eps))
    return (x * r) * w


def glu(kind: int, g: Array, u: Array) -> Array:
    if kind == 1:
        return (g / (F32(1) + exp(-g))) * u
    m = np.maximum(g, F32(0))
    return m * u if kind == 3 else (m * m) * u


def quantize_i8(x: Array) -> tuple[Array, np.float32]:
    s = F32(127) / np.maximum(np.abs(x).max(), F32(1e-5))
    return np.clip(np.rint(x * s), -128, 127).astype(np.int64), s


def quantize_i16(x: Array) -> tuple[Array, Array]:
    """Codes (n_blocks, 32) and steps (n_blocks,)."""
    blocks = np.zeros((-(-len(x) // 32), 32), F32)
    blocks.ravel()[: len(x)] = x
    q, d = np.zeros(blocks.shape, np.int64), np.zeros(len(blocks), F32)
    for b, block in enumerate(blocks):
        amax = np.abs(block).max()
        if amax >= F32(1e-30):
            d[b] = amax / F32(32767)
            q[b] = np.clip(np.rint(block * (F32(32767) / amax)), -32767, 32767)
    return q, d


def product(weight: Weight, logical: Any, h: Array) -> Array:
    """y (n_rows,) of one token."""
    if weight.format.is_ternary:
        q, s = quantize_i8(h)
        return (logical.astype(np.int64) @ q).astype(F32) * (weight.scales / s)
    if weight.format.is_block:
        codes, d_w, m_w = logical
        q, d_x = quantize_i16(h)
        acc = np.zeros(weight.n_rows, F32)
        for b, d in enumerate(d_x):
            isum = (codes[:, b * 32 : b * 32 + 32] @ q[b]).astype(F32)
            acc = acc + isum * (d_w[:, b].astype(F32) * d)
            if m_w is not None:
                acc = acc + m_w[:, b].astype(F32) * (d * F32(q[b].sum()))
        return acc
    chains = np.zeros((4, weight.n_rows), F32)
    for i in range(weight.k):
        chains[i % 4] += logical[:, i] * h[i]
    return (chains[0] + chains[1]) + (chains[2] + chains[3])


def dequantised_row(weight: Weight, logical: Any, row: int) -> Array:
    if weight.format.is_ternary:
        return logical[row].astype(F32) * weight.scales[row]
    if weight.format.is_block:
        codes, d, m = logical
        value = np.repeat(d[row].astype(F32), 32) * codes[row].astype(F32)
        if m is not None:
            value = value + np.repeat(m[row].astype(F32), 32)
        return value[: weight.k]
    return logical[row]


def rotate(x: Array, table: Array, style: int) -> Array:
    x, half = x.copy(), len(table) // 2
    c, s = table[:half], table[half:]
    first = slice(0, half) if style == 0 else slice(0, 2 * half, 2)
    second = slice(half, 2 * half) if style == 0 else slice(1, 2 * half, 2)
    a, b = x[first].copy(), x[second].copy()
    x[first] = a * c - b * s
    x[second] = b * c + a * s
    return x


def attention(q: Array, keys: Array, values: Array, scale: float) -> Array:
    """One head of one token: q (head_dim,), keys and values (n, head_dim) float16."""
    scores = np.array([sum16(q * k.astype(F32)) * F32(scale) for k in keys], F32)
    e = exp(scores - scores.max())
    acc = np.zeros(len(q), F32)
    for weight, v in zip(e, values, strict=True):
        acc = acc + weight * v.astype(F32)
    return acc * (F32(1) / sum16(e))
