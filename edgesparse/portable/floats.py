"""Float products: f16, bf16, f32 (bytes: ``edgesparse/formats/README.md``).

A tile of 8 rows is widened once to float32 and multiplied with every token. Each row has four
chains of sums, product k in chain k mod 4; the 32 chains of a tile advance side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import Format, Weight, row_tiles
from edgesparse.portable.bind import Float32
from edgesparse.portable.jit import njit
from edgesparse.portable.numerics import ZERO, half_to_float

__all__ = ["float_product", "float_tiles_of", "widen_tile"]

F16 = int(Format.F16)
BF16 = int(Format.BF16)
F32 = int(Format.F32)


def float_tiles_of(weight: Weight) -> npt.NDArray[Any]:
    """Return the stored bytes as a (n_tiles, k * 8) view of uint16, or of uint32 for f32."""
    dtype = np.uint32 if weight.format == Format.F32 else np.uint16
    return weight.data.view(dtype).reshape(row_tiles(weight.n_rows), weight.k * 8)


@njit
def widen_tile(out: Float32, words: npt.NDArray[Any], kind: int) -> None:
    """Widen one tile to float32, exactly, in the order of its bytes."""
    bits = out.view(np.uint32)
    if kind == F16:
        for i in range(words.shape[0]):
            out[i] = half_to_float(np.uint16(words[i]))
    elif kind == BF16:
        for i in range(words.shape[0]):
            bits[i] = np.uint32(words[i]) << np.uint32(16)
    else:
        for i in range(words.shape[0]):
            bits[i] = words[i]


@njit
def advance(chains: Float32, w: Float32, x: np.float32) -> None:
    """Add one column's eight products to its chain of every row."""
    for r in range(8):
        chains[r] += x * w[r]


@njit
def float_product(
    dst: Float32,
    add: bool,
    bias: Float32,
    tiles: npt.NDArray[Any],
    kind: int,
    x: Float32,
    n_tokens: int,
    row_begin: int,
    row_end: int,
    wide: Float32,
) -> None:
    """Compute output features [row_begin, row_end) of every token; row_begin is a multiple of 8.

    Parameters
    ----------
    dst, add, bias
        As for `ternary_product`.
    tiles : (n_tiles, 8 k) uint16 or uint32
        Weight bytes in format `kind`.
    x : (>= n_tokens, k) float32
        Activations.
    wide : (>= 8 k,) float32
        Scratch.
    """
    k = x.shape[1]
    has_bias = bias.shape[0] > 0
    chains = np.empty((4, 8), np.float32)
    for tile_begin in range(row_begin, row_end, 8):
        widen_tile(wide, tiles[tile_begin // 8], kind)
        for t in range(n_tokens):
            chains[:] = ZERO
            for i in range(k):
                advance(chains[i & 3], wide[i * 8 : i * 8 + 8], x[t, i])
            for r in range(min(8, row_end - tile_begin)):
                y = np.float32((chains[0, r] + chains[1, r]) + (chains[2, r] + chains[3, r]))
                o = tile_begin + r
                if has_bias:
                    y = y + bias[o]
                dst[t, o] = dst[t, o] + y if add else y
