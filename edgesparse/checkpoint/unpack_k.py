"""The K types: 256 weights per super-block, sub-blocks of 16 or 32 with small integer scales.

Byte pictures (h = column // 128, j = column % 128 // 32, l = column % 32)::

    Q2_K   84 B  scales[16] qs[64] f16 d, dmin      2 bits at 2j of qs[32h + l]; 16 sub-blocks
    Q3_K  110 B  hmask[32] qs[64] sc[12] f16 d      plus bit 4h + j of hmask[l]; 16 sub-blocks
    Q4_K  144 B  f16 d, dmin, sc[12] qs[128]        nibbles: low for even, high for odd sub-block
    Q5_K  176 B  f16 d, dmin, sc[12] qh[32] qs[128] plus bit b of qh[l]; 8 sub-blocks
    Q6_K  210 B  ql[128] qh[64] i8 sc[16] f16 d     nibble plus 2 bits, minus 32; 16 sub-blocks
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgesparse.checkpoint.groups import F32, U8, Groups, f16_field, spread_pairs
from edgesparse.checkpoint.types import TensorType

__all__ = ["K_UNPACKERS"]


def _rows(per_block: F32) -> F32:
    """Merge (n_rows, n_blocks, n_sub) into (n_rows, n_blocks * n_sub)."""
    return per_block.reshape(per_block.shape[0], -1)


def _groups(blocks: U8, codes: U8, n_sub: int, scale: F32, minimum: F32 | None) -> Groups:
    n_rows, n_blocks = blocks.shape[:2]
    grouped = codes.reshape(n_rows, n_blocks * n_sub, 256 // n_sub).view(np.int8)
    return Groups(grouped, _rows(scale), None if minimum is None else _rows(minimum))


def _scale_pairs(packed: U8) -> tuple[U8, U8]:
    """Split 12 bytes into eight 6-bit scales and eight 6-bit minima."""
    low, middle, high = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    scale = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], axis=-1)
    minimum = np.concatenate([middle & 63, (high >> 4) | (middle >> 6 << 4)], axis=-1)
    return scale, minimum


def unpack_q2_k(blocks: U8) -> Groups:
    """Unpack ``(n_rows, n_blocks, 84)`` bytes."""
    packed = blocks[..., 16:80].reshape(*blocks.shape[:2], 2, 32)
    scales = blocks[..., :16]
    d = f16_field(blocks, 80)[..., None] * (scales & 15).astype(np.float32)
    m = -(f16_field(blocks, 82)[..., None] * (scales >> 4).astype(np.float32))
    return _groups(blocks, spread_pairs(packed, 3), 16, d, m)


def unpack_q3_k(blocks: U8) -> Groups:
    """Unpack ``(n_rows, n_blocks, 110)`` bytes."""
    lead = blocks.shape[:2]
    codes = spread_pairs(blocks[..., 32:96].reshape(*lead, 2, 32), 3).reshape(*lead, 8, 32)
    high = blocks[..., None, :32] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    codes = codes - ((high ^ 1) << 2)  # wraps to the two's complement that int8 reads
    packed = blocks[..., 96:108]
    low4 = np.concatenate([packed[..., :8] & 15, packed[..., :8] >> 4], axis=-1)
    high2 = spread_pairs(packed[..., 8:12], 2).reshape(*lead, 16)
    scales = (low4 | (high2 << 4)).astype(np.float32) - np.float32(32)
    return _groups(blocks, codes, 16, f16_field(blocks, 108)[..., None] * scales, None)


def unpack_q4_k(blocks: U8) -> Groups:
    """Unpack ``(n_rows, n_blocks, 144)`` bytes."""
    packed = blocks[..., 16:].reshape(*blocks.shape[:2], 4, 1, 32)
    codes = np.concatenate([packed & 15, packed >> 4], axis=3)
    return _groups(blocks, codes, 8, *_affine_pair(blocks))


def unpack_q5_k(blocks: U8) -> Groups:
    """Unpack ``(n_rows, n_blocks, 176)`` bytes."""
    lead = blocks.shape[:2]
    packed = blocks[..., 48:].reshape(*lead, 4, 1, 32)
    codes = np.concatenate([packed & 15, packed >> 4], axis=3).reshape(*lead, 8, 32)
    high = blocks[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return _groups(blocks, codes | (high << 4), 8, *_affine_pair(blocks))


def _affine_pair(blocks: U8) -> tuple[F32, F32]:
    scale, minimum = _scale_pairs(blocks[..., 4:16])
    d = f16_field(blocks, 0)[..., None] * scale.astype(np.float32)
    return d, -(f16_field(blocks, 2)[..., None] * minimum.astype(np.float32))


def unpack_q6_k(blocks: U8) -> Groups:
    """Unpack ``(n_rows, n_blocks, 210)`` bytes."""
    lead = blocks.shape[:2]
    packed = blocks[..., :128].reshape(*lead, 2, 1, 64)
    low = np.concatenate([packed & 15, packed >> 4], axis=3).reshape(*lead, 2, 4, 32)
    high = spread_pairs(blocks[..., 128:192].reshape(*lead, 2, 32), 3)
    codes = (low | (high << 4)) - np.uint8(32)  # wraps to the two's complement that int8 reads
    scales = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8).astype(np.float32)
    return _groups(blocks, codes, 16, f16_field(blocks, 208)[..., None] * scales, None)


K_UNPACKERS: dict[TensorType, Callable[[U8], Groups]] = {
    TensorType.Q2_K: unpack_q2_k,
    TensorType.Q3_K: unpack_q3_k,
    TensorType.Q4_K: unpack_q4_k,
    TensorType.Q5_K: unpack_q5_k,
    TensorType.Q6_K: unpack_q6_k,
}
