"""Scalar and row arithmetic that several ops share (numba); see ``edgesparse/ops/README.md``.

Every constant is a float32 and every result is cast back: numba would otherwise widen to double.
Halfs travel as uint16 because numba has no float16 arithmetic on CPUs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.portable.bind import Bytes, Float32
from edgesparse.portable.jit import njit

__all__ = [
    "dot16",
    "exp",
    "float_to_half",
    "fold16",
    "half_to_float",
    "quantize_i8",
    "quantize_i8_blocks",
    "quantize_i16",
    "store_q8_0",
    "widen_q8_0",
]

ZERO = np.float32(0)
ONE = np.float32(1)

EXP_LOW = np.float32(-87.0)
EXP_HIGH = np.float32(88.0)
LOG2_E = np.float32(1.44269504)
LN_2_HIGH = np.float32(0.693359375)
LN_2_LOW = np.float32(-2.12194440e-4)
P0 = np.float32(1.9875691500e-4)
P1 = np.float32(1.3981999507e-3)
P2 = np.float32(8.3334519073e-3)
P3 = np.float32(4.1665795894e-2)
P4 = np.float32(1.6666665459e-1)
P5 = np.float32(5.0000001201e-1)

I8_TOP = np.float32(127.0)
I8_BOTTOM = np.float32(-128.0)
I8_AMAX_FLOOR = np.float32(1e-5)
I16_TOP = np.float32(32767.0)
I16_AMAX_FLOOR = np.float32(1e-30)

HALF_TINY = np.float32(2.0**-14)  # the least normal half
HALF_TINY_BITS = np.uint32(113 << 23)
HALF_OVER_BITS = np.uint32(143 << 23)  # 2^16
INFINITY_BITS = np.uint32(255 << 23)
SHIFTER = np.float32(0.5)  # adding it leaves 2^-24, the step of subnormal halfs, in the last bit
SHIFTER_BITS = np.uint32(126 << 23)


@njit
def exp(x: np.float32) -> np.float32:
    """Return e to the power x, by the polynomial that all executors share."""
    if x < EXP_LOW:
        x = EXP_LOW
    if x > EXP_HIGH:
        x = EXP_HIGH
    n = np.rint(x * LOG2_E)
    r = (x - n * LN_2_HIGH) - n * LN_2_LOW
    p = P0
    p = p * r + P1
    p = p * r + P2
    p = p * r + P3
    p = p * r + P4
    p = p * r + P5
    e = ((p * (r * r)) + r) + ONE
    power = np.int32((np.int32(n) + np.int32(127)) << 23).view(np.float32)
    return np.float32(e * power)


@njit
def fold16(lanes: Float32) -> np.float32:
    """Fold sixteen partial sums; destroys them."""
    for i in range(8):
        lanes[i] += lanes[i + 8]
    for i in range(4):
        lanes[i] += lanes[i + 4]
    return np.float32((lanes[0] + lanes[2]) + (lanes[1] + lanes[3]))


@njit
def dot16(a: Float32, b: Float32, lanes: Float32) -> np.float32:
    """Return the lanes16 sum of the rounded products of a and b; `lanes` is scratch for 16."""
    n = a.shape[0]
    whole = n // 16 * 16
    lanes[:] = ZERO
    for i in range(0, whole, 16):
        for j in range(16):
            lanes[j] += a[i + j] * b[i + j]
    for i in range(whole, n):
        lanes[i - whole] += a[i] * b[i]
    return fold16(lanes)


@njit
def half_to_float(half: np.uint16) -> np.float32:
    """Widen a half, exactly; subnormals and infinities too."""
    u = np.uint32(half)
    bits = np.uint32((u & np.uint32(0x7FFF)) << np.uint32(13))
    exponent = np.uint32(bits & np.uint32(0x0F800000))
    bits = np.uint32(bits + np.uint32(112 << 23))
    if exponent == np.uint32(0x0F800000):
        bits = np.uint32(bits + np.uint32(112 << 23))
    if exponent == np.uint32(0):
        # A subnormal: put it behind a leading 1, then take that away again.
        value = np.float32(np.uint32(bits + np.uint32(1 << 23)).view(np.float32))
        bits = np.float32(value - HALF_TINY).view(np.uint32)
    sign = np.uint32((u & np.uint32(0x8000)) << np.uint32(16))
    return np.uint32(bits | sign).view(np.float32)


@njit
def float_to_half(value: np.float32) -> np.uint16:
    """Round to half, to nearest, ties to even; subnormals, overflow to infinity and NaN too."""
    u = np.float32(value).view(np.uint32)
    sign = np.uint32(u & np.uint32(0x80000000))
    u = np.uint32(u ^ sign)
    if u >= HALF_OVER_BITS:
        result = np.uint32(0x7E00) if u > INFINITY_BITS else np.uint32(0x7C00)
    elif u < HALF_TINY_BITS:
        shifted = np.float32(u.view(np.float32) + SHIFTER)
        result = np.uint32(shifted.view(np.uint32) - SHIFTER_BITS)
    else:
        odd = np.uint32((u >> np.uint32(13)) & np.uint32(1))
        rebased = np.uint32(np.uint32(u - np.uint32(112 << 23)) + np.uint32(0xFFF) + odd)
        result = np.uint32(rebased >> np.uint32(13))
    return np.uint16(result | np.uint32(sign >> np.uint32(16)))


@njit
def halfs_in_bytes(out: Float32, row: Bytes, n: int) -> None:
    """Widen the n halfs (little-endian) of a row of bytes."""
    for i in range(n):
        out[i] = half_in_bytes(row, 2 * i)


@njit
def half_in_bytes(row: Bytes, at: int) -> np.float32:
    """Widen the half at an offset."""
    return half_to_float(np.uint16(np.uint16(row[at]) | (np.uint16(row[at + 1]) << np.uint16(8))))


@njit
def put_half(row: Bytes, at: int, value: np.float32) -> None:
    """Store a float as a half at an offset."""
    half = float_to_half(value)
    row[at] = np.uint8(half & np.uint16(0xFF))
    row[at + 1] = np.uint8(half >> np.uint16(8))


@njit
def widen_q8_0(out: Float32, row: Bytes, n: int) -> None:
    """Widen n elements of a row of q8_0 blocks, exactly."""
    codes = row.view(np.int8)
    for begin in range(0, n, 32):
        at = begin // 32 * 34
        step = half_in_bytes(row, at)
        for i in range(begin, min(begin + 32, n)):
            out[i] = np.float32(codes[at + 2 + i - begin]) * step


@njit
def store_q8_0(row: Bytes, x: Float32) -> None:
    """Quantise a row to q8_0 blocks; the last one is filled with zeros."""
    n = x.shape[0]
    codes = row.view(np.int8)
    for begin in range(0, n, 32):
        end = min(begin + 32, n)
        at = begin // 32 * 34
        amax = absmax(x[begin:end])
        step = ZERO
        inverse = ZERO
        if amax >= I16_AMAX_FLOOR:
            step = np.float32(amax / I8_TOP)
            inverse = np.float32(I8_TOP / amax)
        put_half(row, at, step)
        for i in range(begin, end):
            v = np.rint(x[i] * inverse)
            v = -I8_TOP if v < -I8_TOP else v
            v = I8_TOP if v > I8_TOP else v
            codes[at + 2 + i - begin] = np.int32(v)
        for i in range(end, begin + 32):
            codes[at + 2 + i - begin] = 0


@njit
def absmax(x: Float32) -> np.float32:
    """Return the largest magnitude (of non-negative floats, bits order like values)."""
    top = np.uint32(0)
    bits = x.view(np.uint32)
    for i in range(bits.shape[0]):
        b = np.uint32(bits[i] & np.uint32(0x7FFFFFFF))
        top = max(top, b)
    return np.uint32(top).view(np.float32)


@njit
def quantize_i8(q: npt.NDArray[np.int8], x: Float32) -> tuple[np.float32, np.int32]:
    """Quantise one token to int8; return its scale s (q = x s) and the sum of q."""
    amax = absmax(x)
    if amax < I8_AMAX_FLOOR:
        amax = I8_AMAX_FLOOR
    s = np.float32(I8_TOP / amax)
    total = np.int32(0)
    for i in range(x.shape[0]):
        v = np.rint(x[i] * s)
        v = I8_BOTTOM if v < I8_BOTTOM else v
        v = I8_TOP if v > I8_TOP else v
        code = np.int32(v)
        q[i] = code
        total = np.int32(total + code)
    return s, total


@njit
def quantize_i8_blocks(
    q: npt.NDArray[np.int8],
    d: Float32,
    sums: npt.NDArray[np.int32],
    xsum: Float32,
    x: Float32,
) -> None:
    """Quantise one token to int8 in blocks of 32; a block past the end of x is filled with 0."""
    for block in range(d.shape[0]):
        begin = block * 32
        quantize_block(q, d, sums, xsum, x[begin : begin + 32], block, I8_TOP)


@njit
def quantize_i16(
    q: npt.NDArray[np.int16],
    d: Float32,
    sums: npt.NDArray[np.int32],
    xsum: Float32,
    x: Float32,
) -> None:
    """Quantise one token to int16 in blocks of 32; a block past the end of x is filled with 0."""
    for block in range(d.shape[0]):
        begin = block * 32
        quantize_block(q, d, sums, xsum, x[begin : begin + 32], block, I16_TOP)


@njit
def quantize_block(
    q: npt.NDArray[np.int8] | npt.NDArray[np.int16],
    d: Float32,
    sums: npt.NDArray[np.int32],
    xsum: Float32,
    x: Float32,
    block: int,
    top: np.float32,
) -> None:
    """Quantise the elements of one block to codes within [-top, top]; the rest of it is 0."""
    q = q[block * 32 : block * 32 + 32]
    amax = absmax(x)
    step = ZERO
    inverse = ZERO
    if amax >= I16_AMAX_FLOOR:
        step = np.float32(amax / top)
        inverse = np.float32(top / amax)
    total = np.int32(0)
    for i in range(x.shape[0]):
        v = np.rint(x[i] * inverse)
        v = -top if v < -top else v
        v = top if v > top else v
        code = np.int32(v)
        q[i] = code
        total = np.int32(total + code)
    for i in range(x.shape[0], 32):
        q[i] = 0
    d[block] = step
    sums[block] = total
    xsum[block] = step * np.float32(total)
