"""Float building blocks in their one promised order: lanes16 sums, the exponential, quantisers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = [
    "dot16",
    "exp",
    "lanes16",
    "quantize_i8",
    "quantize_i8_blocks",
    "quantize_i16",
    "sequential_sum",
]

Float32 = npt.NDArray[np.float32]

LANES = 16
_EXP_COEFFICIENTS = tuple(
    np.float32(c)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)


def sequential_sum(terms: Float32) -> Float32:
    """Sum over the first axis in ascending order, one rounded addition per term, from +0."""
    total = np.zeros(terms.shape[1:], np.float32)
    for term in terms:
        total += term
    return total


def lanes16(terms: Float32) -> Float32:
    """Sum over the last axis: sixteen strided partial sums, then a fold.

    Parameters
    ----------
    terms : float32 ndarray, shape (..., n)

    Returns
    -------
    float32 ndarray, shape (...)
    """
    n = terms.shape[-1]
    padded = np.zeros((*terms.shape[:-1], -(-n // LANES) * LANES), np.float32)
    padded[..., :n] = terms
    groups = padded.reshape(*terms.shape[:-1], -1, LANES)
    lanes = sequential_sum(np.moveaxis(groups, -2, 0))
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half : 2 * half]
    result: Float32 = lanes[..., 0]
    return result


def dot16(a: Float32, b: Float32) -> Float32:
    """Sum of rounded products over the last axis, in `lanes16` order."""
    return lanes16(a * b)


def exp(x: Float32) -> Float32:
    """Exponential by a degree-six polynomial on the reduced argument; same bits everywhere."""
    x = np.clip(x, np.float32(-87), np.float32(88))
    n = np.rint(x * np.float32(1.44269504))
    r = (x - n * np.float32(0.693359375)) - n * np.float32(-2.12194440e-4)
    p = np.full_like(r, np.float32(1.9875691500e-4))
    for c in _EXP_COEFFICIENTS:
        p = p * r + c
    e = ((p * (r * r)) + r) + np.float32(1)
    power = ((n.astype(np.int32) + 127) << 23).view(np.float32)
    return np.asarray(e * power, np.float32)


def quantize_i8(x: Float32) -> tuple[npt.NDArray[np.int8], Float32]:
    """Quantise activations to int8 per row (BitNet b1.58).

    Parameters
    ----------
    x : float32 ndarray, shape (n_tokens, k)

    Returns
    -------
    q : int8 ndarray, shape (n_tokens, k)
    s : float32 ndarray, shape (n_tokens,)
        Scale: q = x · s.
    """
    amax = np.abs(x).max(axis=-1)
    s = np.float32(127) / np.maximum(amax, np.float32(1e-5))
    q = np.clip(np.rint(x * s[:, None]), -128, 127).astype(np.int8)
    return q, s


def quantize_i8_blocks(x: Float32) -> tuple[npt.NDArray[np.int8], Float32]:
    """Quantise activations to int8 in blocks of 32 along the row.

    Parameters
    ----------
    x : float32 ndarray, shape (n_tokens, k)

    Returns
    -------
    q : int8 ndarray, shape (n_tokens, n_blocks, 32)
        Between -127 and 127.
    d : float32 ndarray, shape (n_tokens, n_blocks)
        Step: x ≈ q · d.
    """
    q, d = _quantize_blocks(x, 127)
    return q.astype(np.int8), d


def quantize_i16(x: Float32) -> tuple[npt.NDArray[np.int16], Float32]:
    """Quantise activations to int16 in blocks of 32 along the row.

    Parameters
    ----------
    x : float32 ndarray, shape (n_tokens, k)

    Returns
    -------
    q : int16 ndarray, shape (n_tokens, n_blocks, 32)
    d : float32 ndarray, shape (n_tokens, n_blocks)
        Step: x ≈ q · d.
    """
    q, d = _quantize_blocks(x, 32767)
    return q.astype(np.int16), d


def _quantize_blocks(x: Float32, q_max: int) -> tuple[Float32, Float32]:
    n_tokens, k = x.shape
    padded = np.zeros((n_tokens, -(-k // 32) * 32), np.float32)
    padded[:, :k] = x
    blocks = padded.reshape(n_tokens, -1, 32)
    amax = np.abs(blocks).max(axis=-1)
    live = amax >= np.float32(1e-30)
    safe = np.where(live, amax, np.float32(1))
    inverse = np.where(live, np.float32(q_max) / safe, np.float32(0))
    d = np.where(live, amax / np.float32(q_max), np.float32(0))
    return np.clip(np.rint(blocks * inverse[..., None]), -q_max, q_max), d
