"""The arithmetic of ``edgesparse/ops/README.md`` in plain numpy float32, element by element.

Independent of the package's own numpy ops, so that the two cannot share a mistake.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import Format, Weight, Zeros

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
    if kind == 3:
        t = ((g * g) * F32(0.044715) + F32(1)) * (g * F32(1.59576912))
        return (g / (F32(1) + exp(-t))) * u
    m = np.maximum(g, F32(0))
    return m * u if kind == 4 else (m * m) * u


def quantize_i8(x: Array) -> tuple[Array, np.float32]:
    s = F32(127) / np.maximum(np.abs(x).max(), F32(1e-5))
    return np.clip(np.rint(x * s), -128, 127).astype(np.int64), s


def quantize_i16(x: Array) -> tuple[Array, Array]:
    """Codes (n_blocks, 32) and steps (n_blocks,)."""
    return _quantize_blocks(x, 32767)


def quantize_i8_blocks(x: Array) -> tuple[Array, Array]:
    """Codes (n_blocks, 32) and steps (n_blocks,)."""
    return _quantize_blocks(x, 127)


def _quantize_blocks(x: Array, top: int) -> tuple[Array, Array]:
    blocks = np.zeros((-(-len(x) // 32), 32), F32)
    blocks.ravel()[: len(x)] = x
    q, d = np.zeros(blocks.shape, np.int64), np.zeros(len(blocks), F32)
    for b, block in enumerate(blocks):
        amax = np.abs(block).max()
        if amax >= F32(1e-30):
            d[b] = amax / F32(top)
            q[b] = np.clip(np.rint(block * (F32(top) / amax)), -top, top)
    return q, d


def product(weight: Weight, logical: Any, h: Array) -> Array:
    """y (n_rows,) of one token."""
    if weight.format.is_sliced and weight.format is not Format.BST:
        return sliced_product(weight, logical, h)
    if weight.format.has_row_scales:
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


def sliced_product(weight: Weight, logical: Any, h: Array) -> Array:
    codes, steps, points, offsets = logical
    q, d_x = quantize_i8_blocks(h)
    group = weight.slices.group // 32 or len(d_x)
    middle = F32(1 if weight.format is Format.BS1 else 1 << (weight.format.planes - 1))
    acc = np.zeros(weight.n_rows, F32)
    for first in range(0, len(d_x), group):
        g, part, xs = first // group, None, F32(0)
        for b in range(first, min(first + group, len(d_x))):
            term = (codes[:, b * 32 : b * 32 + 32] @ q[b]).astype(F32) * d_x[b]
            x = d_x[b] * F32(q[b].sum())
            part, xs = (term, x) if part is None else (part + term, xs + x)
        if weight.slices.zeros is Zeros.POINTS:
            part = part - points[:, g] * xs
        acc = acc + steps[:, g] * part
        if weight.slices.zeros is Zeros.OFFSETS:
            acc = acc + (offsets[:, g] + steps[:, g] * middle) * xs
    return acc


def _sliced_row(weight: Weight, logical: Any, row: int) -> Array:
    codes, steps, points, offsets = logical
    group = weight.slices.group or weight.k
    middle = 1 if weight.format is Format.BS1 else 1 << (weight.format.planes - 1)
    step, point, offset = (np.repeat(a[row], group)[: weight.k] for a in (steps, points, offsets))
    own = codes[row, : weight.k]
    if weight.slices.zeros is Zeros.OFFSETS:
        return step * (own + middle).astype(F32) + offset
    return step * (own - point).astype(F32)


def dequantised_row(weight: Weight, logical: Any, row: int) -> Array:
    if weight.format.is_sliced and weight.format is not Format.BST:
        return _sliced_row(weight, logical, row)
    if weight.format.has_row_scales:
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


def attention(q: Array, keys: Array, values: Array, scale: float, first: int = 0) -> Array:
    """One head of one token: q (head_dim,), keys and values (n, head_dim) float16, row first on."""
    total: tuple[np.float32, np.float32, Array] | None = None
    for begin in range(first // 256 * 256, first + len(keys), 256):
        rows = range(max(first, begin), min(first + len(keys), begin + 256))
        scores = [sum16(q * keys[j - first].astype(F32)) * F32(scale) for j in rows]
        top = max(scores)
        lanes, acc = np.zeros(16, F32), np.zeros(len(q), F32)
        for j, score in zip(rows, scores, strict=True):
            weight = exp(np.array([score - top], F32))[0]
            lanes[j % 16] += weight
            acc = acc + weight * values[j - first].astype(F32)
        part = (top, sum16(lanes), acc)
        if total is not None:
            highest = max(total[0], top)
            f, g = (exp(np.array([t - highest], F32))[0] for t in (total[0], top))
            part = (highest, total[1] * f + part[1] * g, total[2] * f + acc * g)
        total = part
    assert total is not None
    return total[2] * (F32(1) / total[1])
