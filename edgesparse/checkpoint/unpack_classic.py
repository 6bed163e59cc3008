"""The classic 32-weight types: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1.

Byte pictures::

    Q8_0  34 B   f16 d, i8 q[32]
    Q4_0  18 B   f16 d, qs[16]                  q - 8
    Q4_1  20 B   f16 d, f16 m, qs[16]
    Q5_0  22 B   f16 d, u32 qh, qs[16]          q - 16
    Q5_1  24 B   f16 d, f16 m, u32 qh, qs[16]

``qs[i]`` holds column i in its low nibble and column i + 16 in its high one; bit i of ``qh`` is
bit 4 of column i.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgesparse.checkpoint.groups import I8, U8, Groups, f16_field
from edgesparse.checkpoint.types import TensorType

__all__ = ["CLASSIC_UNPACKERS"]


def _nibbles(packed: U8) -> I8:
    return np.concatenate([packed & 15, packed >> 4], axis=-1).view(np.int8)


def _fifth_bits(packed: U8) -> I8:
    return np.unpackbits(packed, axis=-1, bitorder="little").view(np.int8) << np.int8(4)


def unpack_q8_0(blocks: U8) -> Groups:
    """Unpack ``(n_rows, n_blocks, 34)`` bytes."""
    return Groups(np.ascontiguousarray(blocks[..., 2:]).view(np.int8), f16_field(blocks, 0))


def unpack_q4_0(blocks: U8) -> Groups:
    """Unpack ``(n_rows, n_blocks, 18)`` bytes."""
    return Groups(_nibbles(blocks[..., 2:]) - np.int8(8), f16_field(blocks, 0))


def unpack_q4_1(blocks: U8) -> Groups:
    """Unpack ``(n_rows, n_blocks, 20)`` bytes."""
    return Groups(_nibbles(blocks[..., 4:]), f16_field(blocks, 0), f16_field(blocks, 2))


def unpack_q5_0(blocks: U8) -> Groups:
    """Unpack ``(n_rows, n_blocks, 22)`` bytes."""
    codes = _nibbles(blocks[..., 6:]) | _fifth_bits(blocks[..., 2:6])
    return Groups(codes - np.int8(16), f16_field(blocks, 0))


def unpack_q5_1(blocks: U8) -> Groups:
    """Unpack ``(n_rows, n_blocks, 24)`` bytes."""
    codes = _nibbles(blocks[..., 8:]) | _fifth_bits(blocks[..., 4:8])
    return Groups(codes, f16_field(blocks, 0), f16_field(blocks, 2))


CLASSIC_UNPACKERS: dict[TensorType, Callable[[U8], Groups]] = {
    TensorType.Q8_0: unpack_q8_0,
    TensorType.Q4_0: unpack_q4_0,
    TensorType.Q4_1: unpack_q4_1,
    TensorType.Q5_0: unpack_q5_0,
    TensorType.Q5_1: unpack_q5_1,
}
