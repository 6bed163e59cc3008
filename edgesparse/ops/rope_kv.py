"""Rotary position embedding (Su et al., 2021) and the write into the KV cache."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.ops.norm import rmsnorm
from edgesparse.plan.cache_type import BLOCK, CacheType
from edgesparse.plan.op import RopeStyle

__all__ = ["cache_rows", "quantize_q8_0", "rope_table", "rotate"]

Float32 = npt.NDArray[np.float32]


def rope_table(
    n_ctx: int, rope_dim: int, theta: float, factors: npt.NDArray[np.float64] | None = None
) -> Float32:
    """Return cosines and sines, computed in float64 and rounded once.

    Parameters
    ----------
    n_ctx : int
        Positions.
    rope_dim : int
        Elements of a head that rotate, even.
    theta : float
        Base of the frequencies.
    factors : float64 ndarray, shape (rope_dim / 2,), optional
        Divisors of the frequencies (linear scaling, Llama 3 scaling).

    Returns
    -------
    float32 ndarray, shape (n_ctx, rope_dim)
        First half of a row: cosines; second half: sines.
    """
    frequency = float(theta) ** (-np.arange(0, rope_dim, 2, dtype=np.float64) / max(rope_dim, 1))
    if factors is not None:
        frequency = frequency / factors
    angle = np.arange(n_ctx, dtype=np.float64)[:, None] * frequency
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def rotate(
    x: Float32, table: Float32, style: RopeStyle, norm: Float32 | None = None, eps: float = 0.0
) -> None:
    """Rotate heads in place.

    Parameters
    ----------
    x : float32 ndarray, shape (n_tokens, n_heads, head_dim)
    table : float32 ndarray, shape (n_tokens, rope_dim)
        Rows of `rope_table` at the tokens' positions.
    norm : float32 ndarray, shape (head_dim,), optional
        RMSNorm weight applied to every head first.
    """
    if norm is not None:
        x[...] = rmsnorm(x, norm, eps)
    rope_dim = table.shape[1]
    half = rope_dim // 2
    c, s = table[:, None, :half], table[:, None, half:]
    if style is RopeStyle.NEOX:
        first, second = x[..., :half], x[..., half:rope_dim]
    else:
        first, second = x[..., 0:rope_dim:2], x[..., 1:rope_dim:2]
    a, b = first.copy(), second.copy()
    first[...] = a * c - b * s
    second[...] = b * c + a * s


def cache_rows(x: Float32, kind: CacheType) -> npt.NDArray[np.generic]:
    """Turn x (n_tokens, n_kv_heads, head_dim) into rows (n_kv_heads, n_tokens, row_items)."""
    rows = x.transpose(1, 0, 2)
    with np.errstate(over="ignore"):
        return quantize_q8_0(rows) if kind is CacheType.Q8_0 else rows.astype(np.float16)


def quantize_q8_0(x: Float32) -> npt.NDArray[np.void]:
    """Quantise rows (…, n) to blocks (…, n_blocks) of 32 int8 codes with a half as their step."""
    n = x.shape[-1]
    n_blocks = CacheType.Q8_0.row_items(n)
    padded = np.zeros((*x.shape[:-1], n_blocks * BLOCK), np.float32)
    padded[..., :n] = x
    blocks = padded.reshape(*x.shape[:-1], n_blocks, BLOCK)
    amax = np.abs(blocks).max(axis=-1)
    live = amax >= np.float32(1e-30)
    inverse = np.float32(127) / np.where(live, amax, np.float32(1))
    inverse = np.where(live, inverse, np.float32(0))
    step = np.where(live, amax / np.float32(127), np.float32(0))
    result = np.zeros(amax.shape, CacheType.Q8_0.dtype)
    result["step"] = step.astype(np.float16)
    result["codes"] = np.rint(np.clip(blocks * inverse[..., None], -127, 127)).astype(np.int8)
    return result
