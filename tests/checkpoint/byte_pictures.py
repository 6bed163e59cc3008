"""Packers written one weight at a time from the byte pictures; slow, obvious, and independent.

Each takes integer codes ``(n_rows, n_cols)`` in -1, 0, +1 and scales, and gives the bytes.
"""

from __future__ import annotations

import math

import numpy as np


def _f16(value: float) -> list[int]:
    return list(np.float16(value).tobytes())


def _f32(value: float) -> list[int]:
    return list(np.float32(value).tobytes())


def _trit_byte(digits: list[int]) -> int:
    """Put five digits, the most significant first, into ceil(256 v / 243)."""
    v = 0
    for digit in digits:
        v = 3 * v + digit
    return math.ceil(256 * v / 243)


def i2s_columns(codes: np.ndarray, scale: float, block: int) -> bytes:
    flat = (codes + 1).reshape(-1).tolist()
    lane = block // 4
    out = [0] * (len(flat) // 4)
    for i, code in enumerate(flat):
        b, within = divmod(i, block)
        out[b * lane + within % lane] |= code << (6 - 2 * (within // lane))
    return bytes(out) + bytes(_f32(scale)) + b"\xaa" * 28


def i2s_row4(codes: np.ndarray, scale: float) -> bytes:
    n_rows, n_cols = codes.shape
    out = [0] * (n_rows * n_cols // 4)
    for r in range(n_rows):
        for c in range(n_cols):
            out[r // 4 * n_cols + c] |= int(codes[r, c] + 1) << (6 - 2 * (r % 4))
    return bytes(out) + bytes(_f32(scale)) + b"\xaa" * 28


def hf_t2(codes: np.ndarray) -> bytes:
    n_rows, n_cols = codes.shape
    stripe = -(-n_rows // 4)
    out = [0] * (stripe * n_cols)
    for r in range(n_rows):
        for c in range(n_cols):
            out[r % stripe * n_cols + c] |= int(codes[r, c] + 1) << (2 * (r // stripe))
    return bytes(out)


def q2_0(codes: np.ndarray, scales: np.ndarray, block: int) -> bytes:
    out: list[int] = []
    for row, row_scales in zip(codes.tolist(), scales, strict=True):
        for b, d in enumerate(row_scales):
            packed = [0] * (block // 4)
            for i in range(block):
                packed[i // 4] |= (row[b * block + i] + 1) << (2 * (i % 4))
            out += _f16(d) + packed
    return bytes(out)


def q1_0(codes: np.ndarray, scales: np.ndarray) -> bytes:
    out: list[int] = []
    for row, row_scales in zip(codes.tolist(), scales, strict=True):
        for b, d in enumerate(row_scales):
            packed = [0] * 16
            for i in range(128):
                packed[i // 8] |= (row[b * 128 + i] > 0) << (i % 8)
            out += _f16(d) + packed
    return bytes(out)


def tq2_0(codes: np.ndarray, scales: np.ndarray) -> bytes:
    out: list[int] = []
    for row, row_scales in zip(codes.tolist(), scales, strict=True):
        for b, d in enumerate(row_scales):
            packed = [0] * 64
            for i in range(256):
                h, j, lane = i // 128, i % 128 // 32, i % 32
                packed[32 * h + lane] |= (row[b * 256 + i] + 1) << (2 * j)
            out += packed + _f16(d)
    return bytes(out)


def _trit_runs(row: list[int], runs: tuple[tuple[int, int], ...]) -> list[int]:
    """Lay out runs of ``(n_bytes, n_digits)``; digit n of byte p is column n * n_bytes + p."""
    out: list[int] = []
    begin = 0
    for n_bytes, n_digits in runs:
        for p in range(n_bytes):
            digits = [row[begin + n * n_bytes + p] + 1 for n in range(n_digits)]
            out.append(_trit_byte(digits + [0] * (5 - n_digits)))
        begin += n_bytes * n_digits
    return out


def tq1_0(codes: np.ndarray, scales: np.ndarray) -> bytes:
    out: list[int] = []
    for row, row_scales in zip(codes.tolist(), scales, strict=True):
        for b, d in enumerate(row_scales):
            out += _trit_runs(row[b * 256 : (b + 1) * 256], ((32, 5), (16, 5), (4, 4))) + _f16(d)
    return bytes(out)


def ptq1_0(codes: np.ndarray, scales: np.ndarray) -> bytes:
    out: list[int] = []
    for row, row_scales in zip(codes.tolist(), scales, strict=True):
        for b, d in enumerate(row_scales):
            out += _trit_runs(row[b * 128 : (b + 1) * 128], ((16, 5), (8, 5), (2, 4))) + _f16(d)
    return bytes(out)


def iq2_bn(codes: np.ndarray, scales: np.ndarray) -> bytes:
    out: list[int] = []
    for row, scale in zip(codes.tolist(), scales, strict=True):
        out += _f32(scale)
        for b in range(len(row) // 64):
            packed = [0] * 16
            for i in range(64):
                packed[i % 16] |= (row[64 * b + i] + 1) << (2 * (i // 16))
            out += packed
    return bytes(out)


def iq1_bn(codes: np.ndarray, scales: np.ndarray) -> bytes:
    out: list[int] = []
    for row, scale in zip(codes.tolist(), scales, strict=True):
        out += _f16(scale)
        for b in range(len(row) // 64):
            digits = [[0] * 5 for _ in range(13)]  # the least significant first
            for i in range(64):
                g, p = divmod(i, 16)
                if p < 15:
                    digits[3 * g + p // 5][p % 5] = row[64 * b + i] + 1
                else:
                    digits[12][g] = row[64 * b + i] + 1
            out += [_trit_byte(five[::-1]) for five in digits]
    return bytes(out)
