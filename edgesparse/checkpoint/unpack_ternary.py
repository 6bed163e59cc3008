"""Block-scaled ternary and low-bit types: TQ1_0, TQ2_0, PTQ1_0, Q2_0, PQ2_0, Q1_0.

Byte pictures (f16 d is the scale of the block)::

    TQ1_0   54 B / 256   qs[48] five trits each, qh[4] four trits each, d
    TQ2_0   66 B / 256   qs[64] low bits first, 32 columns per lane, d
    PTQ1_0  28 B / 128   qs[24] five trits each, qh[2] four trits each, d
    Q2_0    18 B /  64   d, qs[16]: four neighbours per byte; code 3 is +2
    PQ2_0   34 B / 128   d, qs[32]: same
    Q1_0    18 B / 128   d, qs[16]: eight neighbours per byte; bit 1 is +1, 0 is -1
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgesparse.checkpoint.groups import I8, U8, Groups, f16_field, spread_pairs, trits
from edgesparse.checkpoint.types import TensorType

__all__ = ["TERNARY_UNPACKERS"]


def _trit_runs(blocks: U8, runs: tuple[tuple[int, int, int], ...], block: int) -> I8:
    """Unpack runs of ``(first byte, n bytes, digits per byte)``; each digit fills a lane."""
    out = np.empty((*blocks.shape[:-1], block), dtype=np.int8)
    column = 0
    for first, n_bytes, n_digits in runs:
        packed = np.ascontiguousarray(blocks[..., first : first + n_bytes])
        for digit in range(n_digits):
            out[..., column : column + n_bytes] = trits(packed, digit)
            column += n_bytes
    return out


def unpack_tq1_0(blocks: U8) -> Groups:
    """Unpack ``(n_rows, n_blocks, 54)`` bytes."""
    codes = _trit_runs(blocks, ((0, 32, 5), (32, 16, 5), (48, 4, 4)), 256)
    return Groups(codes, f16_field(blocks, 52))


def unpack_ptq1_0(blocks: U8) -> Groups:
    """Unpack ``(n_rows, n_blocks, 28)`` bytes."""
    codes = _trit_runs(blocks, ((0, 16, 5), (16, 8, 5), (24, 2, 4)), 128)
    return Groups(codes, f16_field(blocks, 26))


def unpack_tq2_0(blocks: U8) -> Groups:
    """Unpack ``(n_rows, n_blocks, 66)`` bytes."""
    n_rows, n_blocks = blocks.shape[:2]
    halves = blocks[..., :64].reshape(n_rows, n_blocks, 2, 32)
    codes = spread_pairs(halves, 3).reshape(n_rows, n_blocks, 256).view(np.int8)
    codes -= 1
    return Groups(codes, f16_field(blocks, 64))


def unpack_q2_0(blocks: U8) -> Groups:
    """Unpack Q2_0 ``(n_rows, n_blocks, 18)`` or PQ2_0 ``(n_rows, n_blocks, 34)`` bytes."""
    n_rows, n_blocks, block_bytes = blocks.shape
    packed = spread_pairs(blocks[..., 2:], -1)
    codes = packed.reshape(n_rows, n_blocks, 4 * (block_bytes - 2)).view(np.int8)
    codes -= 1
    return Groups(codes, f16_field(blocks, 0))


def unpack_q1_0(blocks: U8) -> Groups:
    """Unpack ``(n_rows, n_blocks, 18)`` bytes."""
    bits = np.unpackbits(blocks[..., 2:], axis=-1, bitorder="little").view(np.int8)
    return Groups(2 * bits - np.int8(1), f16_field(blocks, 0))


TERNARY_UNPACKERS: dict[TensorType, Callable[[U8], Groups]] = {
    TensorType.TQ1_0: unpack_tq1_0,
    TensorType.TQ2_0: unpack_tq2_0,
    TensorType.PTQ1_0: unpack_ptq1_0,
    TensorType.Q2_0: unpack_q2_0,
    TensorType.PQ2_0: unpack_q2_0,
    TensorType.Q1_0: unpack_q1_0,
}
