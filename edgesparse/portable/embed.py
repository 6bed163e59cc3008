"""Token embedding: one dequantised row of the weight per token (numba twin of ``ops/embed.py``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgesparse.executors.base import Step
from edgesparse.formats.weight import Weight
from edgesparse.plan.op import Embed
from edgesparse.portable.bind import Bindings, Bytes, Float32, Int32, Runner, require, require_bytes
from edgesparse.portable.blocks import row_from_tile, tiles_of, unpack_tile
from edgesparse.portable.floats import float_tiles_of, widen_tile
from edgesparse.portable.jit import njit
from edgesparse.portable.slices import slice_layout, slice_tiles_of, sliced_row
from edgesparse.portable.ternary import n_planes_of, rows_of, unpack_row

__all__ = ["bind"]

Lookup: TypeAlias = Callable[[Int32, int, int], None]
"""lookup(tokens, begin, end): write the rows of tokens [begin, end)."""


@njit
def embed_ternary(
    dst: Float32,
    tokens: Int32,
    scale: np.float32,
    begin: int,
    end: int,
    rows: Bytes,
    scales: Float32,
    n_planes: int,
    k: int,
) -> None:
    """Look up rows of t2 or t5."""
    n, group = rows.shape[1], 32 * n_planes
    codes = np.empty(n * n_planes, np.uint8)
    for t in range(begin, end):
        token = tokens[t]
        unpack_row(codes, rows[token], n_planes)
        for i in range(k):
            place = i % group // 32 * n + i // group * 32 + i % 32
            dst[t, i] = (np.float32(np.int32(codes[place]) - 1) * scales[token]) * scale


@njit
def embed_blocks(
    dst: Float32,
    tokens: Int32,
    scale: np.float32,
    begin: int,
    end: int,
    tiles: npt.NDArray[np.uint16],
    kind: int,
    k: int,
) -> None:
    """Look up rows of a block format."""
    n_blocks = tiles.shape[1]
    codes = np.empty((8, n_blocks * 32), np.uint8)
    d = np.empty((8, n_blocks), np.float32)
    m = np.empty((8, n_blocks), np.float32)
    for t in range(begin, end):
        token = tokens[t]
        unpack_tile(tiles[token // 8], kind, codes, d, m)
        row_from_tile(dst[t, :k], codes, d, m, kind, token % 8)
        for i in range(k):
            dst[t, i] = dst[t, i] * scale


@njit
def embed_floats(
    dst: Float32,
    tokens: Int32,
    scale: np.float32,
    begin: int,
    end: int,
    tiles: npt.NDArray[Any],
    kind: int,
) -> None:
    """Look up rows of f16, bf16 or f32."""
    wide = np.empty(tiles.shape[1], np.float32)
    for t in range(begin, end):
        token = tokens[t]
        widen_tile(wide, tiles[token // 8], kind)
        for i in range(tiles.shape[1] // 8):
            dst[t, i] = wide[i * 8 + token % 8] * scale


@njit
def embed_slices(
    dst: Float32,
    tokens: Int32,
    scale: np.float32,
    begin: int,
    end: int,
    tiles: Bytes,
    scales: Float32,
    layout: tuple[int, int, int, int, bool],
    k: int,
) -> None:
    """Look up rows of bit slices."""
    for t in range(begin, end):
        sliced_row(dst[t, :k], tiles, scales, layout, tokens[t])
        for i in range(k):
            dst[t, i] = dst[t, i] * scale


def _lookup(weight: Weight, dst: Float32, scale: np.float32) -> Lookup:
    """Return the kernel of the weight's format with all but the tokens filled in."""
    kind, k = int(weight.format), weight.k
    if weight.format.is_ternary:
        rows, n_planes = rows_of(weight), n_planes_of(weight)
        return lambda tokens, begin, end: embed_ternary(
            dst, tokens, scale, begin, end, rows, weight.scales, n_planes, k
        )
    if weight.format.is_block:
        tiles = tiles_of(weight)
        return lambda tokens, begin, end: embed_blocks(
            dst, tokens, scale, begin, end, tiles, kind, k
        )
    if weight.format.is_sliced:
        stored, layout = slice_tiles_of(weight), slice_layout(weight)
        return lambda tokens, begin, end: embed_slices(
            dst, tokens, scale, begin, end, stored, weight.scales, layout, k
        )
    columns = float_tiles_of(weight)
    return lambda tokens, begin, end: embed_floats(dst, tokens, scale, begin, end, columns, kind)


def bind(op: Embed, bindings: Bindings) -> Runner:
    """Return the op as a function of the step."""
    weight, dst = bindings.parameters.weights[op.weight], bindings.buffers[op.dst]
    require_bytes(op.name, weight)
    by_rows = weight.format.is_neuron_major or weight.format.is_row
    by_tiles = not (by_rows or weight.format.is_sparse)
    require(by_tiles, op.name, "the embedding is not stored in tiles")
    require(weight.n_rows >= bindings.plan.n_vocab, op.name, "the embedding has too few rows")
    require(dst.shape[1] >= weight.k, op.name, "the buffer is narrower than the embedding")
    lookup = _lookup(weight, dst, np.float32(op.scale))

    def run(step: Step) -> None:
        bindings.pool.run(
            lambda begin, end, worker: lookup(step.tokens, begin, end),
            len(step.tokens),
        )

    return run
