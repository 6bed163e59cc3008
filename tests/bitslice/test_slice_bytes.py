"""Bit slices: what is packed comes back exactly, and the bytes are those of the picture."""

from __future__ import annotations

import numpy as np
import pytest

from edgesparse.errors import UsageError
from edgesparse.formats import Format, Zeros, storage_bytes
from edgesparse.formats.bitslice import (
    middle,
    pack_bitslice,
    pack_ternary_slices,
    unpack_bitslice,
)

SHAPES = ((1, 1), (64, 32), (65, 33), (130, 300), (3, 200))


def test_everything_comes_back():
    rng = np.random.default_rng(1)
    n_cases = 0
    for bits in (1, 2, 3, 4):
        for n_rows, k in SHAPES:
            codes = rng.integers(0, 1 << bits, (n_rows, k), dtype=np.uint8)
            for group in {32, 64, 128, k}:
                n_groups = 1 if group >= k else -(-k // group)
                wide = rng.standard_normal((n_rows, n_groups)).astype(np.float32)
                half = wide.astype(np.float16).astype(np.float32)
                points = rng.integers(0, 17, wide.shape, dtype=np.uint8)
                for scales in (wide, half):
                    for zeros, offsets in ((None, None), (points, None), (None, 3 * scales)):
                        weight = pack_bitslice(codes, bits, group, scales, zeros, offsets=offsets)
                        found = unpack_bitslice(weight)
                        assert weight.format.planes == bits
                        assert weight.data.size == storage_bytes(
                            weight.format, n_rows, k, weight.slices
                        )
                        np.testing.assert_array_equal(found[0], codes)
                        np.testing.assert_array_equal(found[1], scales)
                        if offsets is not None:
                            assert found[2] is None
                            np.testing.assert_array_equal(found[3], offsets)
                        else:
                            expected = middle(bits) if zeros is None else zeros
                            assert (found[2] == expected).all()
                            assert found[3] is None
                        some = np.array([n_rows - 1, 0])
                        np.testing.assert_array_equal(unpack_bitslice(weight, some)[0], codes[some])
                        n_cases += 1
    assert n_cases > 400


def test_halves_are_kept_and_nothing_is_rounded_to_them():
    codes = np.zeros((1, 32), np.uint8)
    assert not pack_bitslice(codes, 4, 32, np.float32([[0.5]])).slices.wide
    assert pack_bitslice(codes, 4, 32, np.float32([[0.1]])).slices.wide
    assert pack_bitslice(codes, 4, 32, np.float32([[1e6]])).slices.wide


def test_odd_zero_points():
    codes = np.zeros((1, 64), np.uint8)
    scales = np.float32([[0.5, 0.25]])
    half = pack_bitslice(codes, 1, 32, scales, np.float32([[0.5, 0.0]]))
    assert half.slices.zeros is Zeros.POINTS
    between = pack_bitslice(codes, 2, 32, scales, np.float32([[1.25, 2.0]]))
    assert between.slices.zeros is Zeros.OFFSETS
    np.testing.assert_array_equal(unpack_bitslice(between)[3], [[-0.625, -0.5]])


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_byte_picture(bits):
    """One set bit of one code is one set bit of the documented byte."""
    n_rows, k = 100, 96
    n_cases = 0
    rng = np.random.default_rng(bits)
    for _ in range(40):
        row, column, plane = (int(rng.integers(n)) for n in (n_rows, k, bits))
        codes = np.zeros((n_rows, k), np.uint8)
        codes[row, column] = 1 << plane
        weight = pack_bitslice(codes, bits, 64, np.ones((n_rows, 2), np.float32))
        tile, lane = divmod(row, 64)
        block, inside = divmod(column, 32)
        quad, n = divmod(inside, 4)
        heads = (block // 2 + 1) * 64 * 2
        at = tile * (2 * 128 + 3 * bits * 256) + heads + block * bits * 256
        at += (quad // 2 * bits + plane) * 64
        at += lane // 4 % 4 * 16 + lane // 16 * 4 + lane % 4
        assert weight.data[at] == 1 << (n + 4 * (quad % 2))
        steps = {
            tile * (256 + 768 * bits) + g * (128 + 512 * bits) for tile in (0, 1) for g in (0, 1)
        }
        others = np.ones(len(weight.data), bool)
        others[at] = False
        for start in steps:
            others[start : start + 128] = False
        assert not weight.data[others].any()
        n_cases += 1
    assert n_cases == 40


def test_ternary_is_two_planes():
    rng = np.random.default_rng(3)
    codes = rng.integers(-1, 2, (70, 77), dtype=np.int8)
    scales = rng.standard_normal(70).astype(np.float32)
    weight = pack_ternary_slices(codes, scales)
    assert weight.format is Format.BST
    stored, steps, zeros, offsets = unpack_bitslice(weight)
    np.testing.assert_array_equal(stored.astype(np.int8) - 1, codes)
    np.testing.assert_array_equal(steps[:, 0], scales)
    assert (zeros == 1).all()
    assert offsets is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 5}, "number of bit planes"),
        ({"group": 48}, "group of columns"),
        ({"codes": np.full((2, 64), 4, np.uint8)}, "not below"),
        ({"codes": np.zeros((2, 0), np.uint8)}, "matrix of bytes"),
        ({"codes": np.zeros((2, 64), np.int8)}, "matrix of bytes"),
        ({"scales": np.ones((2, 1), np.float32)}, "shape"),
        ({"scales": np.full((2, 2), np.nan, np.float32)}, "not finite"),
        ({"zeros": np.ones((2, 2)), "offsets": np.ones((2, 2), np.float32)}, "not both"),
    ],
)
def test_refusals(change, message):
    arguments = {
        "codes": np.zeros((2, 64), np.uint8),
        "bits": 2,
        "group": 32,
        "scales": np.ones((2, 2), np.float32),
    }
    with pytest.raises(UsageError, match=message):
        pack_bitslice(**(arguments | change))
