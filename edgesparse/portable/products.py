"""The product of each storage format, bound to a weight: all but the call's range filled in.

The products themselves are in `ternary.py`, `blocks.py`, `floats.py`, `slices.py`,
`slice_columns.py` and `without_zeros.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import BLOCK, Format, Weight
from edgesparse.portable.bind import Bindings, Float32
from edgesparse.portable.blocks import block_product, tiles_of
from edgesparse.portable.floats import float_product, float_tiles_of
from edgesparse.portable.slice_columns import bytes_per_line, sliced_column_product
from edgesparse.portable.slices import (
    slice_layout,
    slice_tiles_of,
    sliced_product,
    ternary_sliced_product,
)
from edgesparse.portable.ternary import (
    n_planes_of,
    neuron_product,
    padded_k,
    rows_of,
    ternary_product,
)
from edgesparse.portable.without_zeros import sparse_product
from edgesparse.portable.workspace import LOOK_UP_TOKENS

__all__ = ["Product", "bind_product"]

Product: TypeAlias = Callable[[Float32, int, int, int, int], None]
"""product(dst, n_tokens, row_begin, row_end, worker): compute some output features."""


def bind_product(
    weight: Weight, add: bool, bias: Float32, live: Float32, bindings: Bindings
) -> Product:
    """Return the product of the weight's format with all but the call's range filled in."""
    workspace, n_workers = bindings.workspace, bindings.pool.n_threads
    scratch = [workspace.unpacked(worker) for worker in range(n_workers)]
    kind = int(weight.format)
    if weight.format is Format.T2N:
        neurons, scales = rows_of(weight), weight.scales
        x8 = workspace.int8(weight.k, 1)
        sums = [np.empty(weight.n_rows, np.int32) for _ in range(n_workers)]
        return lambda dst, n_tokens, begin, end, worker: neuron_product(
            dst, add, bias, neurons, scales, *x8, n_tokens, begin, end, sums[worker]
        )
    if weight.format.is_ternary:
        n_planes = n_planes_of(weight)
        q, s, q_sum = workspace.int8(weight.k, n_planes)
        rows, scales = rows_of(weight), weight.scales
        codes = [flat.view(np.uint8)[: padded_k(weight)] for flat in scratch]
        return lambda dst, n_tokens, begin, end, worker: ternary_product(
            *(dst, add, bias, live, rows, scales, n_planes, q, s, q_sum),
            *(n_tokens, begin, end, codes[worker]),
        )
    if weight.format.is_sparse:
        return _sparse_product(weight, add, bias, bindings)
    if weight.format.is_block:
        x = workspace.int16(weight.k)
        tiles = tiles_of(weight)
        n_blocks = -(-weight.k // 32)
        unpacked = [_tile_scratch(flat, n_blocks) for flat in scratch]
        return lambda dst, n_tokens, begin, end, worker: block_product(
            dst, add, bias, tiles, kind, *x, n_tokens, begin, end, *unpacked[worker]
        )
    if weight.format.is_sliced:
        return _sliced_product(weight, add, bias, bindings)
    h, columns = workspace.floats(weight.k), float_tiles_of(weight)
    wide = [flat[: 8 * weight.k] for flat in scratch]
    return lambda dst, n_tokens, begin, end, worker: float_product(
        dst, add, bias, columns, kind, h, n_tokens, begin, end, wide[worker]
    )


def _sparse_product(weight: Weight, add: bool, bias: Float32, bindings: Bindings) -> Product:
    """Return the product with a format without zeros."""
    x, n_blocks = bindings.workspace.int16(weight.k), -(-weight.k // BLOCK)
    n_tiles = -(-weight.n_rows // weight.format.tile_rows)
    if weight.format.has_varying_length:
        starts = weight.data[: 8 * n_tiles].view("<u8").astype(np.int64)
    else:
        starts = np.arange(n_tiles) * (weight.data.nbytes // n_tiles)
    scratch = [
        _tile_scratch(bindings.workspace.unpacked(worker), n_blocks)
        for worker in range(bindings.pool.n_threads)
    ]
    data, kind = weight.data, int(weight.format)
    return lambda dst, n_tokens, begin, end, worker: sparse_product(
        dst, add, bias, data, starts, kind, *x, n_tokens, begin, end, *scratch[worker]
    )


def _sliced_product(weight: Weight, add: bool, bias: Float32, bindings: Bindings) -> Product:
    """Return the product with bit slices."""
    workspace, k, is_bst = bindings.workspace, weight.k, weight.format is Format.BST
    scales, layout = weight.scales, slice_layout(weight)
    x8, x8_blocks = workspace.int8(k, 1), workspace.int8_blocks(k)
    tables = workspace.tables(k, per_token=is_bst)
    width = 32 * layout[1]
    codes = [workspace.unpacked(w).view(np.int8)[:width] for w in range(bindings.pool.n_threads)]
    if weight.format.is_column:
        data, line = weight.data, bytes_per_line(weight)
        return lambda dst, n_tokens, begin, end, worker: sliced_column_product(
            dst, add, bias, data, line, layout, *x8_blocks, n_tokens, begin, end, codes[worker]
        )
    tiles = slice_tiles_of(weight)

    def run(dst: Float32, n_tokens: int, begin: int, end: int, worker: int) -> None:
        own, row = tables if n_tokens <= LOOK_UP_TOKENS else tables[:0], codes[worker]
        if is_bst:
            ternary_sliced_product(
                *(dst, add, bias, tiles, scales, layout), *x8, own, n_tokens, begin, end, row
            )
        else:
            sliced_product(
                *(dst, add, bias, tiles, layout), *x8_blocks, own, n_tokens, begin, end, row
            )

    return run


def _tile_scratch(flat: Float32, n_blocks: int) -> tuple[npt.NDArray[np.uint8], Float32, Float32]:
    """Cut one worker's scratch into codes (8, 32 n_blocks), d and m (8, n_blocks)."""
    codes = flat.view(np.uint8)[: 256 * n_blocks].reshape(8, -1)
    d, m = flat[64 * n_blocks : 80 * n_blocks].reshape(2, 8, n_blocks)
    return codes, d, m
