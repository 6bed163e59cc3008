"""Packing against the byte pictures, one weight at a time, and back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgesparse.formats import (
    Format,
    Weight,
    dequantize,
    pack_blocks,
    pack_float,
    pack_ternary,
    requantize,
    requantize_q8,
    storage_bytes,
    unpack_blocks,
    unpack_float,
    unpack_ternary,
)

F = Format
SHAPES = ((1, 1), (3, 31), (8, 32), (9, 129), (17, 160), (5, 320), (16, 257))
BLOCK_CODES = {
    F.Q8: (-128, 128),
    F.Q8M: (-128, 128),
    F.Q6: (-32, 32),
    F.Q4: (-8, 8),
    F.Q4M: (0, 16),
}
FLOATS = {F.F16: "<f2", F.BF16: "<u2", F.F32: "<f4"}


def weight(fmt: Format, shape: tuple[int, int], data: np.ndarray, scales: object = ()) -> Weight:
    assert data.dtype == np.uint8
    assert data.shape == (storage_bytes(fmt, *shape),)
    return Weight("w", fmt, *shape, data, np.asarray(scales, dtype=np.float32))


def naive_ternary(codes: np.ndarray, fmt: Format) -> bytes:
    if fmt is F.T2N:
        return naive_ternary(codes.T, F.T2)
    lanes, group = (4, 128) if fmt is F.T2 else (5, 160)
    out = bytearray()
    for row in codes:
        full = [int(c) + 1 for c in row] + [1] * (-len(row) % group)
        for start in range(0, len(full), group):
            for j in range(32):
                v = 0
                for lane in range(lanes):
                    v = v * (4 if fmt is F.T2 else 3) + full[start + 32 * lane + j]
                out.append(v if fmt is F.T2 else math.ceil(256 * v / 243))
    return bytes(out)


@pytest.mark.parametrize("fmt", [F.T2, F.T2N, F.T5])
def test_ternary_bytes(fmt: Format) -> None:
    n_cases = 0
    for seed, shape in enumerate(SHAPES):
        codes = np.random.default_rng(seed).integers(-1, 2, size=shape).astype(np.int8)
        packed = pack_ternary(codes, fmt)
        assert packed.tobytes() == naive_ternary(codes, fmt)
        w = weight(fmt, shape, packed, np.linspace(0.5, 2, shape[0]))
        np.testing.assert_array_equal(unpack_ternary(w), codes)
        rows = np.array([shape[0] - 1, 0])
        np.testing.assert_array_equal(unpack_ternary(w, rows), codes[rows])
        expected = codes.astype(np.float32) * w.scales[:, None]
        np.testing.assert_array_equal(dequantize(w), expected)
        np.testing.assert_array_equal(dequantize(w, rows), expected[rows])
        n_cases += 1
    assert n_cases == 7


def test_every_byte_of_t5_gives_its_digits_back() -> None:
    numbers = np.arange(243)
    codes = np.stack([numbers // 3**n % 3 for n in (4, 3, 2, 1, 0)]).astype(np.int8) - 1
    wide = np.zeros((243, 160), dtype=np.int8)
    wide[:, ::32] = codes.T
    packed = pack_ternary(wide, F.T5)
    assert len(set(packed.reshape(243, 32)[:, 0].tolist())) == 243
    np.testing.assert_array_equal(unpack_ternary(weight(F.T5, wide.shape, packed)), wide)


def naive_blocks(codes: np.ndarray, d: np.ndarray, m: np.ndarray | None, fmt: Format) -> bytes:
    n_rows, k = codes.shape
    out = bytearray()
    for first in range(0, n_rows, 8):
        for b in range(-(-k // 32)):
            rows = [first + r if first + r < n_rows else None for r in range(8)]
            for field in (d, m):
                if field is not None:
                    out += b"".join(
                        b"\0\0" if r is None else np.float16(field[r, b]).tobytes() for r in rows
                    )

            def code(r: int | None, c: int, b: int = b) -> int:
                if r is None:
                    return 0  # stored bits of a padding row
                value = int(codes[r, 32 * b + c]) if 32 * b + c < k else 0
                return value + {F.Q4: 8, F.Q6: 32}.get(fmt, 0)

            for i in range(6 if fmt is F.Q6 else 0):
                for r in rows:
                    for e in range(2):
                        word = code(r, 2 * i + e) | code(r, 12 + 2 * i + e) << 6
                        if i < 4:
                            word |= code(r, 24 + 2 * i + e) % 16 << 12
                        else:
                            c = 4 * i + 8 + e
                            word |= code(r, c) // 16 << 12 | code(r, c + 2) // 16 << 14
                        out += word.to_bytes(2, "little")
            if fmt is F.Q6:
                continue
            for group in range(8 if fmt in (F.Q4, F.Q4M) else 16):
                for r in rows:
                    for e in range(2):
                        c = 2 * group + e
                        if fmt in (F.Q4, F.Q4M):
                            out.append(code(r, c) | code(r, 16 + c) << 4)
                        else:
                            out.append(code(r, c) & 255)
    return bytes(out)


@pytest.mark.parametrize("fmt", BLOCK_CODES)
def test_block_bytes(fmt: Format) -> None:
    n_cases = 0
    for seed, shape in enumerate(SHAPES):
        rng = np.random.default_rng(seed)
        codes = rng.integers(*BLOCK_CODES[fmt], size=shape).astype(np.int8)
        d = rng.normal(size=(shape[0], -(-shape[1] // 32))).astype(np.float16)
        m = rng.normal(size=d.shape).astype(np.float16) if fmt in (F.Q8M, F.Q4M) else None
        packed = pack_blocks(codes, d, m, fmt)
        assert packed.tobytes() == naive_blocks(codes, d, m, fmt)
        w = weight(fmt, shape, packed)
        found = unpack_blocks(w)
        np.testing.assert_array_equal(found[0], codes)
        np.testing.assert_array_equal(found[1], d)
        expected = codes * np.repeat(d.astype(np.float32), 32, axis=1)[:, : shape[1]]
        if m is None:
            assert found[2] is None
        else:
            np.testing.assert_array_equal(found[2], m)
            expected += np.repeat(m.astype(np.float32), 32, axis=1)[:, : shape[1]]
        np.testing.assert_array_equal(dequantize(w), expected)
        rows = np.array([shape[0] // 2, shape[0] - 1, 0])
        np.testing.assert_array_equal(dequantize(w, rows), expected[rows])
        n_cases += 1
    assert n_cases == 7


@pytest.mark.parametrize("fmt", FLOATS)
def test_float_bytes(fmt: Format) -> None:
    n_cases = 0
    for seed, (n_rows, k) in enumerate(SHAPES):
        dtype = np.dtype(FLOATS[fmt])
        bits = np.random.default_rng(seed).integers(0, 256, (n_rows, k * dtype.itemsize))
        elements = bits.astype(np.uint8).view(dtype)
        packed = pack_float(elements, fmt)
        tiles = packed.view(dtype).reshape(-1, k, 8)
        for row in range(n_rows):
            assert tiles[row // 8, :, row % 8].tobytes() == elements[row].tobytes()
            n_cases += 1
        assert not tiles[-1, :, (n_rows - 1) % 8 + 1 :].view(np.uint8).any()
        w = weight(fmt, (n_rows, k), packed)
        assert unpack_float(w).tobytes() == elements.tobytes()
        assert unpack_float(w, np.array([n_rows - 1])).tobytes() == elements[-1].tobytes()
    assert n_cases == sum(n_rows for n_rows, _ in SHAPES)


def test_floats_are_widened_exactly() -> None:
    values = np.array([[1.5, -2.25, 0.0, 3.0]], dtype=np.float32)
    for fmt in FLOATS:
        elements = values.astype("<f4").view("<u2")[:, 1::2] if fmt is F.BF16 else values
        w = weight(fmt, values.shape, pack_float(elements, fmt))
        np.testing.assert_array_equal(dequantize(w), values)


@pytest.mark.parametrize(("fmt", "q_max"), [(F.Q8, 127), (F.Q6, 31), (F.Q4, 7)])
def test_requantised_numbers_are_near(fmt: Format, q_max: int) -> None:
    values = np.random.default_rng(0).normal(size=(11, 77)).astype(np.float32)
    values[3, :32] = 0
    values[4, :32] *= 1e-7  # steps among the subnormal halves
    codes, d = requantize(values, fmt)
    assert int(np.abs(codes).max()) == q_max
    assert not d[3, 0]
    assert not codes[3, :32].any()
    step = np.repeat(d.astype(np.float32), 32, axis=1)[:, :77]
    error = np.abs(codes * step - values)
    peak = np.repeat(np.abs(np.pad(values, ((0, 0), (0, 19)))).reshape(11, 3, 32).max(2), 32, 1)
    normal = step > 2.0**-14
    # half a step, and what a step rounded down cuts off the largest number
    bound = step / 2 + peak[:, :77] * np.float32(2.0**-11)
    assert int(normal.sum()) > 700
    assert bool((error <= bound)[normal].all())


def test_requantised_codes_are_rounded_with_the_stored_step() -> None:
    values = np.zeros((1, 32), dtype=np.float32)
    values[0, :2] = 1.0, 0.3
    codes, d = requantize_q8(values)
    step = np.float16(np.float32(1) / np.float32(127))
    assert d[0, 0] == step
    assert codes[0, 0] == 127
    assert codes[0, 1] == np.rint(np.float32(0.3) / np.float32(step))


def test_numbers_too_large_for_a_half_show_as_infinite_steps() -> None:
    codes, d = requantize_q8(np.full((1, 32), 1e8, dtype=np.float32))
    assert np.isinf(d[0, 0])
    assert codes.shape == (1, 32)
