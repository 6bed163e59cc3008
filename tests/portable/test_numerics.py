"""Scalar building blocks, bit for bit and exhaustively where that is possible."""

from __future__ import annotations

import numpy as np
import pytest

from edgesparse.ops import numerics as numpy_ops
from edgesparse.portable import numerics
from edgesparse.portable.jit import njit
from tests.portable import truth
from tests.portable.running import same_bits

F32 = np.float32


@njit
def each_exp(out, x):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        out[i] = numerics.exp(x[i])


@njit
def each_to_half(out, x):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        out[i] = numerics.float_to_half(x[i])


def test_exp() -> None:
    rng = np.random.default_rng(0)
    edges = [0, -0.0, -87, 88, -87.5, 1e9, -1e9, np.inf, -np.inf, 1e-40, -1e-40]
    x = np.concatenate([rng.uniform(-100, 100, 200_000), rng.normal(size=200_000), edges])
    x = x.astype(F32)
    got = np.empty_like(x)
    each_exp(got, x)
    same_bits(got, truth.exp(x))
    same_bits(got, numpy_ops.exp(x))
    inside = np.abs(x) < 80
    relative = np.abs(got[inside] / np.exp(x[inside].astype(np.float64)) - 1)
    assert inside.sum() > 300_000
    assert relative.max() < 2e-7


def test_every_half_widens() -> None:
    halfs = np.arange(65536).astype(np.uint16)
    got = np.empty(65536, F32)
    numerics.halfs_in_bytes(got, halfs.view(np.uint8), 65536)
    number = ~np.isnan(halfs.view(np.float16))
    assert number.sum() == 65536 - 2 * 1023
    same_bits(got[number], halfs.view(np.float16).astype(F32)[number])
    assert np.isnan(got[~number]).all()


def test_rounding_to_half() -> None:
    """Every half, the midpoint to its neighbour, and the floats next to that midpoint."""
    halfs = np.arange(0x7C00).astype(np.uint16).view(np.float16).astype(F32)
    middle = (halfs[:-1] + halfs[1:]) / F32(2)
    up, down = np.nextafter(middle, F32(np.inf)), np.nextafter(middle, F32(0))
    edges = np.array([65519.99, 65520, 65536, 1e30, np.inf, 1e-8, 1e-45, 2.0**-25], F32)
    x = np.concatenate([halfs, middle, up, down, edges])
    x = np.concatenate([x, -x])
    got = np.empty(len(x), np.uint16)
    each_to_half(got, x)
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16).view(np.uint16)
    assert len(x) > 4 * 2 * 31_000
    np.testing.assert_array_equal(got, expected)
    each_to_half(got[:1], np.array([np.nan], F32))
    assert np.isnan(got[:1].view(np.float16)[0])


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 31, 64, 100, 1000])
def test_sums(n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=(2, n)).astype(F32)
    lanes = np.empty(16, F32)
    same_bits(np.array(F32(numerics.dot16(a, b, lanes))), np.array(truth.sum16(a * b)))
    same_bits(np.array(F32(numerics.dot16(a, b, lanes))), np.array(numpy_ops.dot16(a, b)))


def test_quantisers() -> None:
    rng = np.random.default_rng(1)
    n_cases = 0
    for n in (1, 31, 32, 33, 100):
        for scale in (0.0, 1e-38, 1e-30, 1e-5, 1.0, 1e30):
            x = (rng.normal(size=n) * scale).astype(F32)
            q8 = np.empty(n, np.int8)
            s, total = numerics.quantize_i8(q8, x)
            expected, s_expected = truth.quantize_i8(x)
            np.testing.assert_array_equal(q8, expected)
            assert (F32(s), total) == (s_expected, expected.sum())
            n_blocks = -(-n // 32)
            q16 = np.full(n_blocks * 32, 77, np.int16)
            d, x_sum = np.empty((2, n_blocks), F32)
            sums = np.empty(n_blocks, np.int32)
            numerics.quantize_i16(q16, d, sums, x_sum, x)
            blocks, d_expected = truth.quantize_i16(x)
            np.testing.assert_array_equal(q16, blocks.ravel())
            np.testing.assert_array_equal(sums, blocks.sum(axis=1))
            same_bits(d, d_expected)
            same_bits(x_sum, d_expected * blocks.sum(axis=1).astype(F32))
            n_cases += 1
    assert n_cases == 30
