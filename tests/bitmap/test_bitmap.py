"""Bitmap formats: exact round trips, equal bytes from numpy and C, the bits of q8 and q4."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from edgesparse import _native
from edgesparse.benchmark.micro import linear_micro
from edgesparse.errors import UsageError
from edgesparse.executors import make_executor
from edgesparse.executors.base import Parameters
from edgesparse.executors.native import isa_names
from edgesparse.formats import Format, Weight, dequantize, pack_blocks, unpack_blocks
from edgesparse.formats.bitmap import bitmap_is_valid
from edgesparse.formats.sparse import as_bitmap, bitmap_bytes, choose_sparse
from edgesparse.formats.sparse_cost import usual_cost
from edgesparse.ops.linear import product

SHAPES = ((1, 1), (16, 32), (17, 33), (40, 100), (100, 1000))
DENSITIES = (0.0, 0.1, 0.5, 1.0)
RANGES = {Format.Q8: (-128, 127), Format.Q4: (-8, 7)}


def matrix(fmt: Format, n_rows: int, k: int, density: float) -> Weight:
    """Make random codes of which so many are not 0; the largest and smallest code among them."""
    rng = np.random.default_rng(n_rows * k)
    low, high = RANGES[fmt]
    codes = rng.integers(low, high + 1, (n_rows, k), dtype=np.int8)
    codes[rng.random((n_rows, k)) >= density] = 0
    d = (0.1 * rng.random((n_rows, -(-k // 32)))).astype(np.float16)
    return Weight("w", fmt, n_rows, k, pack_blocks(codes, d, None, fmt), np.zeros(0, np.float32))


def cases() -> Iterator[Weight]:
    for fmt in RANGES:
        for n_rows, k in SHAPES:
            for density in DENSITIES:
                yield matrix(fmt, n_rows, k, density)


def test_round_trips_and_native_bytes() -> None:
    n_cases = 0
    for dense in cases():
        bitmap = as_bitmap(dense)
        assert bitmap.format.row_format is dense.format
        assert bitmap.n_bytes == bitmap_bytes(dense)
        np.testing.assert_array_equal(bitmap.data, as_bitmap(dense, native=False).data)
        assert bitmap_is_valid(bitmap)
        rows = np.array([dense.n_rows - 1, 0])
        for picked in (None, rows):
            for got, expected in zip(
                unpack_blocks(bitmap, picked)[:2], unpack_blocks(dense, picked)[:2], strict=True
            ):
                np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(dequantize(bitmap, rows), dequantize(dense, rows))
        n_cases += 1
    assert n_cases == 40


def run(weight: Weight, h: npt.NDArray[np.float32], executor: str, isa: str | None) -> object:
    n_tokens = len(h)
    micro = linear_micro(Format.Q8, weight.n_rows, weight.k, n_tokens=n_tokens, n_copies=1)
    weights = {"w0": replace(weight, name="w0")}
    made = make_executor(executor, micro.plan, Parameters(weights, {}, {}), threads=2, isa=isa)
    try:
        made.buffer("x", n_tokens)[:] = h
        made.run(micro.step(np.zeros(1, np.uint64)))
        return made.buffer("y", n_tokens).copy()
    finally:
        made.close()


@pytest.mark.parametrize("n_tokens", [1, 5, 70])
def test_products_have_the_bits_of_dense_ones(n_tokens: int) -> None:
    executors: list[tuple[str, str | None]] = [("portable", None)]
    executors += [("native", isa) for isa in isa_names()] if _native.available() else []
    n_cases = 0
    for dense in cases():
        rng = np.random.default_rng(n_tokens)
        h = rng.standard_normal((n_tokens, dense.k), dtype=np.float32)
        expected, bitmap = product(dense, h), as_bitmap(dense)
        np.testing.assert_array_equal(product(bitmap, h), expected)
        for executor, isa in executors:
            np.testing.assert_array_equal(run(bitmap, h, executor, isa), expected)
            n_cases += 1
    assert n_cases == 40 * len(executors)


@pytest.mark.parametrize("place", ["first offset", "last offset", "a bit", "end"])
@pytest.mark.parametrize("executor", ["native", "portable"])
def test_damage_is_refused(place: str, executor: str) -> None:
    if executor == "native" and not _native.available():
        pytest.skip("no compiled module")
    good = as_bitmap(matrix(Format.Q8, 16, 32, 0.5))
    data = good.data.copy()
    if place == "end":
        data = data[:-64]
    else:
        data[{"first offset": 0, "last offset": 8, "a bit": 16 + 32}[place]] ^= 1
    bad = replace(good, data=data)
    assert bitmap_is_valid(good)
    assert not bitmap_is_valid(bad)
    with pytest.raises(Exception, match=r"refused the plan|bitmaps disagree"):
        run(bad, np.zeros((1, 32), np.float32), executor, None)


def test_choice_follows_the_prediction() -> None:
    fast, slow = usual_cost("avx512vbmi2", 2), usual_cost("scalar", 2)
    full, half = matrix(Format.Q8, 64, 256, 1.0), matrix(Format.Q8, 64, 256, 0.5)
    assert choose_sparse(full, "auto", fast) is full
    assert choose_sparse(half, "dense", fast) is half
    assert choose_sparse(half, "auto", slow) is half
    made = choose_sparse(half, "auto", fast)
    assert made.format is Format.BMP8
    assert "faster" in made.note
    assert choose_sparse(full, "bmp8", slow).format is Format.BMP8
    with pytest.raises(UsageError):
        as_bitmap(made)
