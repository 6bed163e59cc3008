"""Formats without zeros: exact round trips, equal bytes from numpy and C, the bits of q8 and q4."""

from __future__ import annotations

import time
import tracemalloc
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
from edgesparse.formats.sparse import (
    SPARSE_OF,
    as_sparse,
    bytes_agree,
    choose_sparse,
    sparse_bytes,
)
from edgesparse.formats.sparse_cost import usual_cost
from edgesparse.formats.weight import SPARSE
from edgesparse.formats.without_zeros import expected_bytes, sparse_is_valid, zero_share
from edgesparse.ops.linear import product

SHAPES = ((1, 1), (16, 32), (17, 33), (40, 100), (100, 1000))
DENSITIES = (0.0, 0.02, 0.1, 0.5, 1.0)
RANGES = {Format.Q8: (-128, 127), Format.Q4: (-8, 7)}


def matrix(
    fmt: Format, n_rows: int, k: int, density: float, *, two_of_four: bool = False
) -> Weight:
    """Make random codes of which so many are not 0; the largest and smallest code among them."""
    rng = np.random.default_rng(n_rows * k)
    low, high = RANGES[fmt]
    codes = rng.integers(low, high + 1, (n_rows, k), dtype=np.int8)
    codes[rng.random((n_rows, k)) >= density] = 0
    if two_of_four:
        order = rng.random((n_rows, -(-k // 4), 4)).argsort(axis=2).argsort(axis=2)
        codes[order.reshape(n_rows, -1)[:, :k] >= 2] = 0
    d = (0.1 * rng.random((n_rows, -(-k // 32)))).astype(np.float16)
    return Weight("w", fmt, n_rows, k, pack_blocks(codes, d, None, fmt), np.zeros(0, np.float32))


def cases() -> Iterator[tuple[Weight, Format]]:
    for dense, formats in SPARSE_OF.items():
        for n_rows, k in SHAPES:
            for density in DENSITIES:
                for fmt in formats:
                    pattern = fmt.is_two_of_four
                    yield matrix(dense, n_rows, k, density, two_of_four=pattern), fmt


def test_round_trips_and_native_bytes() -> None:
    n_cases = 0
    for dense, fmt in cases():
        made = as_sparse(dense, fmt)
        assert made.format is fmt
        assert made.n_bytes == sparse_bytes(dense, fmt)
        np.testing.assert_array_equal(made.data, as_sparse(dense, fmt, native=False).data)
        assert sparse_is_valid(made)
        rows = np.array([dense.n_rows - 1, 0])
        for picked in (None, rows):
            codes, d, _ = unpack_blocks(dense, picked)
            found, steps, _ = unpack_blocks(made, picked)
            np.testing.assert_array_equal(found, codes)
            if fmt is Format.CSR:  # blocks of a row without codes have no step
                padded = np.zeros((len(codes), d.shape[1] * 32), np.bool_)
                padded[:, : dense.k] = codes != 0
                d = np.where(padded.reshape(*d.shape, 32).any(axis=2), d, np.float16(0))
            np.testing.assert_array_equal(steps, d)
        np.testing.assert_array_equal(dequantize(made, rows), dequantize(dense, rows))
        all_codes = unpack_blocks(dense)[0]
        assert zero_share(made) == pytest.approx(1 - np.count_nonzero(all_codes) / all_codes.size)
        n_cases += 1
    assert n_cases == 2 * 3 * 25


def test_bytes_are_estimated() -> None:
    """Estimates decide before anything is packed: they are within 2 % of what comes out."""
    n_cases = 0
    for fmt, dense in ((Format.BMP8, Format.Q8), (Format.BMP4, Format.Q4), (Format.CSR, Format.Q8)):
        for zeros in (0.3, 0.7, 0.9, 0.97, 0.99):
            n_codes = RANGES[dense][1] - RANGES[dense][0] + 1  # one of which is 0
            weight = matrix(dense, 128, 2048, (1 - zeros) * n_codes / (n_codes - 1))
            found = sparse_bytes(weight, fmt)
            assert found == pytest.approx(expected_bytes(fmt, 128, 2048, zeros), rel=0.02)
            n_cases += 1
    assert n_cases == 15


def test_other_patterns_are_not_two_of_four() -> None:
    dense = matrix(Format.Q8, 40, 100, 0.9)
    assert sparse_bytes(dense, Format.NM8) is None
    for native in (True, False) if _native.available() else (False,):
        with pytest.raises(UsageError, match="more than two codes in four columns"):
            as_sparse(dense, Format.NM8, native=native)
    kept = choose_sparse(dense, "nm8", usual_cost("avx2", 1))
    assert kept.format is Format.Q8
    assert "not 2:4, stays q8" in kept.note


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
    for dense, fmt in cases():
        rng = np.random.default_rng(n_tokens)
        h = rng.standard_normal((n_tokens, dense.k), dtype=np.float32)
        expected, made = product(dense, h), as_sparse(dense, fmt)
        np.testing.assert_array_equal(product(made, h), expected)
        for executor, isa in executors:
            np.testing.assert_array_equal(run(made, h, executor, isa), expected)
            n_cases += 1
    assert n_cases == 150 * len(executors)


DAMAGE = {
    Format.BMP8: {"first offset": (0, 1), "last offset": (8, 1), "a bit": (16 + 32, 1)},
    Format.CSR: {
        "first offset": (0, 1),
        "last offset": (8, 1),
        "length": (16, 1),
        "number of words": (17, 0x80),
        "a bit of a word": (18, 1),
        "column": (-2, 0x20),
        "column order": (-2, 0x1F),
    },
    Format.NM8: {"place": (32, 0xFF)},
}
"""Byte and bits that are turned; negative: from the last entry's end."""


@pytest.mark.parametrize(
    ("fmt", "place"), [(fmt, place) for fmt, places in DAMAGE.items() for place in (*places, "end")]
)
@pytest.mark.parametrize("executor", ["native", "portable"])
def test_damage_is_refused(fmt: Format, place: str, executor: str) -> None:
    if executor == "native" and not _native.available():
        pytest.skip("no compiled module")
    codes = matrix(Format.Q8, 16, 32, 0.3, two_of_four=fmt.is_two_of_four)
    good = as_sparse(codes, fmt)
    data = good.data.copy()
    if place == "end":
        data = data[:-64]
    else:
        at, bits = DAMAGE[fmt][place]
        at = int(data[8:16].view("<u8")[0]) + at if at < 0 else at
        before = int(data[at])
        data[at] ^= bits
        assert data[at] != before
    bad = replace(good, data=data)
    assert sparse_is_valid(good)
    assert not sparse_is_valid(bad)
    with pytest.raises(Exception, match=r"refused the plan|contradict each other"):
        run(bad, np.zeros((1, 32), np.float32), executor, None)


HUGE = 2**31 - 1
BOMBS: dict[str, tuple[Format, dict[str, int], tuple[int, int]]] = {
    **{f"4 TiB of {fmt.name}": (fmt, {"n_rows": 1 << 21, "k": 1 << 21}, (0, 0)) for fmt in SPARSE},
    **{f"most of {fmt.name}": (fmt, {"n_rows": HUGE, "k": HUGE}, (0, 0)) for fmt in SPARSE},
    **{f"rows of {fmt.name}": (fmt, {"n_rows": HUGE}, (0, 0)) for fmt in SPARSE},
    "first tile far away": (Format.BMP8, {}, (7, 0x7F)),
    "second tile far away": (Format.CSR, {}, (15, 0x7F)),
    "end before the start": (Format.BMP4, {}, (16, 0xFF)),
    "more bits than codes": (Format.BMP8, {}, (24 + 33, 0xFF)),
    "a longer block": (Format.CSR, {}, (24, 0xFF)),
    "31 words": (Format.CSR, {}, (25, 0xF8)),
}
"""What is wrong: the shape, and the bits of a byte."""


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("native", [True, False])
def test_bombs_are_refused_at_once(bomb: str, native: bool) -> None:
    if native and not _native.available():
        pytest.skip("no compiled module")
    fmt, shape, (at, bits) = BOMBS[bomb]
    pattern = fmt.is_two_of_four
    good = as_sparse(matrix(SPARSE[fmt], 32, 64, 0.3, two_of_four=pattern), fmt)
    data = good.data.copy()
    data[at] ^= bits
    bad = replace(good, data=data, **shape)  # type: ignore[arg-type]
    agree = bytes_agree if native else sparse_is_valid
    assert agree(good)
    tracemalloc.start()
    assert not agree(bad)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    seconds = []
    for _ in range(5):
        begin = time.thread_time()  # of this thread alone, however busy the machine is
        assert not agree(bad)
        seconds.append(time.thread_time() - begin)
    assert min(seconds) < 0.010


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("what", ["code", "step"])
def test_entries_of_csr_that_mean_nothing_are_refused(what: str, native: bool) -> None:
    if native and not _native.available():
        pytest.skip("no compiled module")
    good = as_sparse(matrix(Format.Q8, 16, 32, 0.3), Format.CSR)
    start = int(good.data[:8].view("<u8")[0])
    n_words = int(good.data[start + 1]) >> 3
    steps = start + 2 + 4 * n_words
    n_steps = len(np.unique(np.nonzero(dequantize(good, np.arange(16)))[0]))
    at, value = {"code": (steps + 2 * n_steps + 1, 0), "step": (steps + 1, 0x7C)}[what]
    data = good.data.copy()
    assert data[at] != value
    data[at] = value
    agree = bytes_agree if native else sparse_is_valid
    assert agree(good)
    assert not agree(replace(good, data=data))


def test_choice_follows_the_prediction() -> None:
    fast, slow = usual_cost("avx512vbmi2", 2), usual_cost("scalar", 2)
    full, half = matrix(Format.Q8, 64, 256, 1.0), matrix(Format.Q8, 64, 256, 0.5)
    assert choose_sparse(full, "auto", fast) is full
    assert choose_sparse(half, "dense", fast) is half
    kept = choose_sparse(half, "auto", slow)
    assert kept.data is half.data
    assert "zeros, stored" in kept.note
    made = choose_sparse(half, "auto", fast)
    assert made.format is Format.BMP8
    assert "faster" in made.note
    assert choose_sparse(full, "bmp8", slow).format is Format.BMP8
    assert choose_sparse(full, "csr", slow).format is Format.CSR
    few = matrix(Format.Q4, 512, 2048, 0.02)
    assert choose_sparse(few, "auto", fast).format is Format.CSR
    pattern = matrix(Format.Q8, 64, 256, 1.0, two_of_four=True)
    table_look_up = usual_cost("avx2", 2)  # a bitmap as small is slower there
    assert choose_sparse(pattern, "auto", table_look_up).format is Format.NM8
    assert choose_sparse(pattern, "nm8", slow).format is Format.NM8
    with pytest.raises(UsageError):
        as_sparse(made, Format.BMP8)


def test_usual_rates_are_trusted_only_where_faster_memory_changes_nothing() -> None:
    """2:4 in 4 bits gains from slow memory alone: one thread of a Zen 3 lost a fifth with it."""
    pattern = matrix(Format.Q4, 64, 256, 1.0, two_of_four=True)
    usual = usual_cost("avx2", 1)
    kept = choose_sparse(pattern, "auto", usual)
    assert kept.format is Format.Q4
    assert kept.note.endswith("('edgesparse tune' measures)")
    assert choose_sparse(pattern, "auto", replace(usual, measured=True)).format is Format.NM4
    fast = replace(usual, measured=True, read=2 * usual.read)
    assert choose_sparse(pattern, "auto", fast).format is Format.Q4
    eight = matrix(Format.Q8, 64, 256, 1.0, two_of_four=True)
    assert choose_sparse(eight, "auto", usual).format is Format.NM8
