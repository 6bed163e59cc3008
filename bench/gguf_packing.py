"""From codes to the bytes of GGUF types: I2_S, TQ1_0, TQ2_0, IQ2_BN; F16, Q8_0, Q6_K, Q4_0.

Ternary codes are -1, 0, 1; matrices of the second kind are int8 multiples of one step, in
[-31, 31], so that F16, Q8_0 and Q6_K hold exactly the same values and only Q4_0 rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "HEADS",
    "TERNARY",
    "BlockType",
    "pack_i2_s",
    "pack_iq2_bn",
    "pack_tq1_0",
    "pack_tq2_0",
]

Bytes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.int8]
Pack = Callable[[Codes, float], Bytes]


@dataclass(frozen=True)
class BlockType:
    """A tensor type of GGUF.

    Attributes
    ----------
    type_id, file_type : int
        Numbers in the tensor record and in ``general.file_type`` (ternary types only).
    block, block_bytes : int
        Weights of a block and their bytes.
    pack : callable
        (codes, step) to bytes; codes are whole rows.
    tail_bytes : int
        Bytes behind the last block.
    row_bytes : int
        Bytes of each row besides its blocks.
    """

    type_id: int
    block: int
    block_bytes: int
    pack: Pack
    tail_bytes: int = 0
    file_type: int = 0
    row_bytes: int = 0

    def n_bytes(self, n_rows: int, k: int) -> int:
        """Bytes of a matrix whose rows are whole blocks."""
        row = k // self.block * self.block_bytes + self.row_bytes
        return n_rows * row + self.tail_bytes


def _half(step: float, n: int) -> Bytes:
    """Give `n` copies of a step as two bytes each."""
    return np.full((n, 1), step, "<f2").view(np.uint8)


def pack_i2_s(codes: Codes, step: float) -> Bytes:
    """Pack 128 codes into 32 bytes, weights j, j + 32, j + 64, j + 96 from the top bits down."""
    lanes = (codes.reshape(-1, 4, 32) + 1).view(np.uint8)
    packed = lanes[:, 0] << 6 | lanes[:, 1] << 4 | lanes[:, 2] << 2 | lanes[:, 3]
    return packed.astype(np.uint8, copy=False)


def pack_tq2_0(codes: Codes, step: float) -> Bytes:
    """Pack 256 codes: twice 32 bytes with weights j, j + 32, … from the bottom bits up; step."""
    lanes = (codes.reshape(-1, 2, 4, 32) + 1).view(np.uint8)
    packed = lanes[:, :, 0] | lanes[:, :, 1] << 2 | lanes[:, :, 2] << 4 | lanes[:, :, 3] << 6
    return np.hstack([packed.reshape(-1, 64), _half(step, len(packed))])


def pack_iq2_bn(codes: Codes, step: float) -> Bytes:
    """Pack rows: the step as a float, then 16 bytes per 64 codes j, j + 16, … from the bottom."""
    n_rows = len(codes)
    lanes = (codes.reshape(n_rows, -1, 4, 16) + 1).view(np.uint8)
    packed = lanes[:, :, 0] | lanes[:, :, 1] << 2 | lanes[:, :, 2] << 4 | lanes[:, :, 3] << 6
    return np.hstack([np.full((n_rows, 1), step, "<f4").view(np.uint8), packed.reshape(n_rows, -1)])


def pack_tq1_0(codes: Codes, step: float) -> Bytes:
    """Pack 256 codes as base-3 fractions: 32 and 16 bytes of five digits, 4 of four; step."""
    digits = (codes.reshape(-1, 256) + 1).astype(np.uint16)
    parts = [
        _fractions(digits[:, begin:end].reshape(-1, n_digits, width))
        for begin, end, n_digits, width in ((0, 160, 5, 32), (160, 240, 5, 16), (240, 256, 4, 4))
    ]
    return np.hstack([*parts, _half(step, len(digits))])


def _fractions(digits: npt.NDArray[np.uint16]) -> Bytes:
    """Turn digits, shape (n, up to 5, width), most significant first, into ceil(256 v / 243)."""
    value = np.zeros((len(digits), digits.shape[2]), np.uint16)
    for i in range(5):
        value *= 3
        if i < digits.shape[1]:
            value += digits[:, i]
    return ((value.astype(np.uint32) * 256 + 242) // 243).astype(np.uint8)


def _pack_f16(codes: Codes, step: float) -> Bytes:
    return (codes * np.float32(step)).astype("<f2").reshape(-1).view(np.uint8)


def _pack_q8_0(codes: Codes, step: float) -> Bytes:
    blocks = codes.reshape(-1, 32)
    return np.hstack([_half(step, len(blocks)), blocks.view(np.uint8)])


def _pack_q4_0(codes: Codes, step: float) -> Bytes:
    """Round to the nearest of 15 multiples of the largest magnitude / 7."""
    blocks = codes.reshape(-1, 32).astype(np.float32)
    d = (np.abs(blocks).max(axis=1, keepdims=True) * np.float32(step / 7)).astype("<f2")
    divisor = np.where(d == 0, 1, d).astype(np.float32) / np.float32(step)
    q = (np.rint(blocks / divisor).clip(-7, 7) + 8).astype(np.uint8)
    return np.hstack([d.view(np.uint8), q[:, :16] | q[:, 16:] << 4])


def _pack_q6_k(codes: Codes, step: float) -> Bytes:
    """Pack 256 codes: 128 bytes of low nibbles, 64 of high bit pairs, sixteen scales of 1; step."""
    q = (codes.reshape(-1, 2, 4, 32) + 32).view(np.uint8)
    low, high = q & 15, q >> 4
    ql = np.concatenate([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], -1)
    qh = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    n = len(q)
    ones = np.ones((n, 16), np.uint8)
    return np.hstack([ql.reshape(n, 128), qh.reshape(n, 64), ones, _half(step, n)])


TERNARY = {
    "i2_s": BlockType(36, 128, 32, pack_i2_s, tail_bytes=32, file_type=40),
    "tq1_0": BlockType(34, 256, 54, pack_tq1_0, file_type=36),
    "tq2_0": BlockType(35, 256, 66, pack_tq2_0, file_type=37),
    "iq2_bn": BlockType(135, 64, 16, pack_iq2_bn, file_type=137, row_bytes=4),
}
HEADS = {
    "f16": BlockType(1, 1, 2, _pack_f16),
    "q8_0": BlockType(8, 32, 34, _pack_q8_0),
    "q6_k": BlockType(14, 256, 210, _pack_q6_k),
    "q4_0": BlockType(2, 32, 18, _pack_q4_0),
}
