"""Ternary types whose scale belongs to a row or to the whole tensor: I2_S, IQ2_BN, IQ1_BN, HF.

Byte pictures::

    I2_S 128x32   32 B / 128   byte j: columns j, 32+j, 64+j, 96+j in bits 7-6, 5-4, 3-2, 1-0
    I2_S 64x16    16 B /  64   byte j: columns j, 16+j, 32+j, 48+j in bits 7-6, 5-4, 3-2, 1-0
    I2_S row4      K B / 4 rows  byte c: rows r, r+1, r+2, r+3 of column c, high bits first
    IQ2_BN        f32 scale, then 16 B / 64: byte i%16, bits 2(i//16)
    IQ1_BN        f16 scale, then 13 B / 64: 12 bytes of five trits, one of four; see below
    HF_T2         (ceil(R/4), K): byte (p, c) holds rows p, Rq+p, 2Rq+p, 3Rq+p, low bits first

In IQ1_BN digit 0 is the least significant: column 16g + p is digit p%5 of byte 3g + p//5 for
p < 15, and digit g of byte 12 for p = 15.
"""

from __future__ import annotations

import numpy as np

from edgesparse.checkpoint.groups import I8, U8, Groups, spread_pairs, trits

__all__ = ["unpack_hf_t2", "unpack_i2s", "unpack_i2s_row4", "unpack_iq1_bn", "unpack_iq2_bn"]


def _signed(codes: U8, n_rows: int) -> I8:
    signed = codes.reshape(n_rows, 1, -1).view(np.int8)
    signed -= 1
    return signed


def _one_scale(n_rows: int, scale: float) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.full((n_rows, 1), scale, dtype=np.float32)


def unpack_i2s(rows: U8, block_bytes: int, scale: float) -> Groups:
    """Unpack ``(n_rows, K / 4)`` bytes of the column packings."""
    n_rows = rows.shape[0]
    codes = spread_pairs(rows.reshape(n_rows, -1, block_bytes), 2, high_first=True)
    return Groups(_signed(codes, n_rows), _one_scale(n_rows, scale))


def unpack_i2s_row4(row_groups: U8, scale: float) -> Groups:
    """Unpack ``(n_rows / 4, K)`` bytes into ``n_rows`` rows."""
    n_rows = 4 * row_groups.shape[0]
    codes = spread_pairs(row_groups, 1, high_first=True)
    return Groups(_signed(codes, n_rows), _one_scale(n_rows, scale))


def unpack_hf_t2(packed: U8, n_rows: int, scale: float) -> Groups:
    """Unpack a whole ``(ceil(n_rows / 4), K)`` matrix; surplus rows are dropped."""
    codes = spread_pairs(packed, 0).reshape(-1, packed.shape[1])[:n_rows]
    return Groups(_signed(codes, n_rows), _one_scale(n_rows, scale))


def unpack_iq2_bn(rows: U8) -> Groups:
    """Unpack ``(n_rows, 4 + K / 4)`` bytes."""
    n_rows = rows.shape[0]
    d = np.ascontiguousarray(rows[:, :4]).view("<f4").astype(np.float32)
    codes = spread_pairs(rows[:, 4:].reshape(n_rows, -1, 16), 2)
    return Groups(_signed(codes, n_rows), d)


def unpack_iq1_bn(rows: U8) -> Groups:
    """Unpack ``(n_rows, 2 + 13 K / 64)`` bytes."""
    n_rows = rows.shape[0]
    d = np.ascontiguousarray(rows[:, :2]).view("<f2").astype(np.float32)
    blocks = rows[:, 2:].reshape(n_rows, -1, 13)
    n_blocks = blocks.shape[1]
    out = np.empty((n_rows, n_blocks, 4, 16), dtype=np.int8)
    fives = np.ascontiguousarray(blocks[..., :12])
    for digit in range(5):
        out[..., digit:15:5] = trits(fives, 4 - digit).reshape(n_rows, n_blocks, 4, 3)
    extra = np.ascontiguousarray(blocks[..., 12])
    for group in range(4):
        out[..., group, 15] = trits(extra, 4 - group)
    return Groups(out.reshape(n_rows, 1, -1), d)
