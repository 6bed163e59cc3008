"""Every pair of file type and format: numpy and C write the same bytes, and the right ones."""

from __future__ import annotations

import numpy as np
import pytest

from edgesparse.checkpoint import TensorType, ternarize
from edgesparse.checkpoint import dequantize as decode
from edgesparse.formats import Format, Weight, dequantize, load, load_weights, pack_ternary
from edgesparse.formats.bitslice import pack_ternary_slices
from tests.formats.sources import ENGINES, TERNARY, F, Memory, T, random_bytes

EXACT = {
    T.F32: F.F32,
    T.F16: F.F16,
    T.BF16: F.BF16,
    T.Q8_0: F.Q8,
    T.Q5_0: F.Q8,
    T.Q4_0: F.Q4,
    T.Q4_1: F.Q4M,
    T.Q5_1: F.Q8M,
    T.TQ1_0: F.Q8,
    T.TQ2_0: F.Q8,
    T.PTQ1_0: F.Q8,
    T.Q2_0: F.Q8,
    T.PQ2_0: F.Q8,
    T.Q1_0: F.Q8,
}
"""Random bytes have a scale of their own in every block, so the ternary types become q8 without
bit slices."""
SLICED = {
    T.Q4_0: F.BS4,
    T.Q4_1: F.BS4,
    T.Q4_K: F.BS4,
    T.Q2_0: F.BS2,
    T.PQ2_0: F.BS2,
    T.Q1_0: F.BS1,
    T.TQ1_0: F.BS2,
    T.TQ2_0: F.BS2,
    T.PTQ1_0: F.BS2,
}
STEPS_ROUNDED = {T.Q4_K: F.Q4M, T.Q5_K: F.Q8M}
PER_16 = (T.Q2_K, T.Q3_K, T.Q6_K)
REQUANTISED = (
    *((kind, F.Q8) for kind in (*PER_16, T.F32, T.F16, T.BF16)),
    *((kind, F.Q6) for kind in (*PER_16, T.F32, T.F16, T.BF16, T.Q8_0, T.Q5_0)),
    *((kind, F.Q4) for kind in (*PER_16, T.F32, T.F16, T.BF16, T.Q8_0, T.Q5_0)),
)
SHAPES = ((8, 512), (19, 512), (1, 768), (37, 1280))


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_CHUNK_BYTES", 5000)


def both_ways(checkpoint: Memory, name: str, **options: object) -> Weight:
    """Load with every engine, in one and in two threads; all bytes must agree."""
    first: Weight | None = None
    n_ways = 0
    for native in ENGINES:
        for threads in (1, 2):
            found = load_weights(checkpoint, [name], native=native, threads=threads, **options)
            w = found[name]
            first = first or w
            assert w.format is first.format
            assert w.data.tobytes() == first.data.tobytes()
            assert w.scales.tobytes() == first.scales.tobytes()
            assert w.note == first.note
            n_ways += 1
    assert n_ways == 2 * len(ENGINES)
    assert first is not None
    return first


def source(kind: TensorType, n_rows: int, k: int) -> tuple[Memory, np.ndarray]:
    raw = random_bytes(kind, n_rows, k, seed=n_rows + k)
    return Memory().add("w", kind, (n_rows, k), raw), decode(kind, raw, (n_rows, k))


@pytest.mark.parametrize("kind", EXACT, ids=lambda kind: kind.name)
def test_codes_and_floats_are_kept_exactly(kind: TensorType) -> None:
    n_values = 0
    for shape in SHAPES:
        checkpoint, values = source(kind, *shape)
        w = both_ways(checkpoint, "w", slices=False)
        assert w.format is EXACT[kind]
        assert w.source == kind.name
        if kind in TERNARY:
            assert "exactly" in w.note
        np.testing.assert_array_equal(dequantize(w), values)
        n_values += values.size
    assert n_values == sum(rows * k for rows, k in SHAPES)


@pytest.mark.parametrize("kind", SLICED, ids=lambda kind: kind.name)
def test_slices_hold_every_number_of_the_file(kind: TensorType) -> None:
    n_values = 0
    for n_rows, k in (*SHAPES, (130, 768)):
        checkpoint, values = source(kind, n_rows, k)
        w = both_ways(checkpoint, "w", slices=True)
        assert w.format is SLICED[kind]
        assert not w.is_rounded
        np.testing.assert_array_equal(dequantize(w), values)
        assert (both_ways(checkpoint, "w").format is w.format) == (kind in TERNARY)
        n_values += values.size
    assert n_values == sum(rows * k for rows, k in SHAPES) + 130 * 768


@pytest.mark.parametrize("kind", STEPS_ROUNDED, ids=lambda kind: kind.name)
def test_steps_of_k_types_are_rounded_within_the_stated_bound(kind: TensorType) -> None:
    for shape in SHAPES:
        checkpoint, values = source(kind, *shape)
        w = both_ways(checkpoint, "w")
        assert w.format is STEPS_ROUNDED[kind]
        assert "2^-11" in w.note
        largest = 31 if kind is T.Q5_K else 15
        steps = np.abs(values).reshape(shape[0], -1, 32).max(axis=2, keepdims=True)
        error = np.abs(dequantize(w) - values).reshape(shape[0], -1, 32)
        # |d·code| and |m| each stay below the largest value plus the other
        span = values.reshape(shape[0], -1, 32)
        reach = 4 * np.maximum(steps, span.max(2, keepdims=True) - span.min(2, keepdims=True))
        assert largest * error.size > 0
        assert bool((error <= reach * 2.0**-11 + 2.0**-18).all())


@pytest.mark.parametrize(("kind", "fmt"), REQUANTISED, ids=lambda p: p.name)
def test_requantised_pairs(kind: TensorType, fmt: Format) -> None:
    q_max = {F.Q8: 127, F.Q6: 31, F.Q4: 7}[fmt]
    for shape in SHAPES:
        checkpoint, values = source(kind, *shape)
        w = both_ways(checkpoint, "w", overrides={"w": fmt})
        assert w.format is fmt
        assert "rounded anew" in w.note
        peak = np.abs(values).reshape(shape[0], -1, 32).max(axis=2, keepdims=True)
        error = np.abs(dequantize(w) - values).reshape(shape[0], -1, 32)
        assert bool((error <= peak * (0.5 / q_max + 2.0**-10) + 2.0**-18).all())
    assert len(REQUANTISED) == 22


def test_floats_of_any_width_can_be_requantised() -> None:
    for k in (1, 31, 33, 100):
        checkpoint, values = source(T.F32, 9, k)
        for fmt in (F.Q8, F.Q6, F.Q4):
            w = both_ways(checkpoint, "w", overrides={"w": fmt})
            assert np.abs(dequantize(w) - values).max() < 0.4
        w = both_ways(checkpoint, "w")
        np.testing.assert_array_equal(dequantize(w), values)


def matrix(n_rows: int, k: int) -> np.ndarray:
    codes = np.random.default_rng(k).integers(-1, 2, size=(n_rows, k)).astype(np.int8)
    codes[1] = 0  # files differ in the scale of such a row
    codes[2, :256] = 0  # and of such a block
    codes[3, 256:] = 0
    return codes


def packed(codes: np.ndarray, fmt: Format) -> bytes:
    if fmt is F.BST:
        return pack_ternary_slices(codes, np.ones(len(codes), np.float32)).data.tobytes()
    return pack_ternary(codes, fmt).tobytes()


@pytest.mark.parametrize("fmt", [F.T2, F.T5, F.BST], ids=lambda fmt: fmt.name)
def test_one_matrix_gives_the_same_bytes_from_every_ternary_type(fmt: Format) -> None:
    n_types = 0
    for n_rows, k in ((12, 512), (40, 1280), (140, 512)):
        codes = matrix(n_rows, k)
        for kind, encode in TERNARY.items():
            if kind is T.Q1_0:
                continue  # it has no zeros
            scale = 0.375
            raw = encode(codes, scale)
            outside = scale if kind is T.HF_T2 else None
            checkpoint = Memory().add("w", kind, (n_rows, k), raw, outside)
            w = both_ways(checkpoint, "w", ternary=fmt)
            assert w.format is fmt
            assert w.note == ""
            assert w.data.tobytes() == packed(codes, fmt), kind
            assert w.scales.tolist() == [scale] * n_rows, kind
            np.testing.assert_array_equal(dequantize(w), codes * np.float32(scale))
            n_types += 1
    assert n_types == 3 * 11


@pytest.mark.parametrize("kind", TERNARY, ids=lambda kind: kind.name)
def test_neuron_major_rows_are_the_same_matrix_turned(kind: TensorType) -> None:
    """One packed block of outputs and several, ragged ones too, in pieces and whole."""
    n_cases = 0
    for n_rows in (4, 128, 300):
        codes = matrix(n_rows, 512)
        if kind is T.Q1_0:
            codes = np.where(codes > 0, 1, -1).astype(np.int8)
        outside = kind is T.HF_T2 or kind.name.startswith("I2_S")
        raw = TERNARY[kind](codes, 0.5)
        memory = Memory().add("w", kind, codes.shape, raw, *((0.5,) if outside else ()))
        plain, turned = both_ways(memory, "w"), both_ways(memory, "w", neuron_major={"w"})
        assert (plain.format, turned.format) == (F.T2, F.T2N)
        assert turned.data.tobytes() == pack_ternary(codes, F.T2N).tobytes()
        assert turned.scales.tobytes() == plain.scales.tobytes()
        np.testing.assert_array_equal(dequantize(turned), dequantize(plain))
        n_cases += 1
    assert n_cases == 3


def test_binary_weights_are_ternary_without_zeros() -> None:
    codes = np.where(matrix(12, 512) > 0, 1, -1).astype(np.int8)
    raw = TERNARY[T.Q1_0](codes, 0.5)
    w = both_ways(Memory().add("w", T.Q1_0, codes.shape, raw), "w")
    assert w.format is F.T2
    assert w.data.tobytes() == pack_ternary(codes, F.T2).tobytes()
    assert w.scales.tolist() == [0.5] * 12


def test_striped_rows_need_not_be_a_multiple_of_four() -> None:
    n_cases = 0
    for n_rows in (1, 2, 5, 11, 30):
        codes = np.random.default_rng(n_rows).integers(-1, 2, size=(n_rows, 200)).astype(np.int8)
        raw = TERNARY[T.HF_T2](codes, 1.5)
        for fmt in (F.T2, F.BST):
            memory = Memory().add("w", T.HF_T2, codes.shape, raw, 1.5)
            w = both_ways(memory, "w", ternary=fmt)
            assert w.data.tobytes() == packed(codes, fmt)
            n_cases += 1
    assert n_cases == 10


def test_rows_may_have_scales_of_their_own() -> None:
    codes = matrix(12, 512)
    scales = np.linspace(0.5, 2, 12).astype(np.float16).astype(np.float32)
    raw = np.concatenate(
        [np.frombuffer(TERNARY[T.TQ2_0](codes[r : r + 1], scales[r]), np.uint8) for r in range(12)]
    )
    w = both_ways(Memory().add("w", T.TQ2_0, codes.shape, raw), "w")
    assert w.format is F.T2
    expected = scales.copy()
    expected[1] = 0  # the row of zeros: no scale that all others share
    np.testing.assert_array_equal(w.scales, expected)


@pytest.mark.parametrize("kind", [T.BF16, T.F16, T.F32], ids=lambda kind: kind.name)
def test_masters_are_ternarised(kind: TensorType) -> None:
    shape = (45, 300)
    raw = random_bytes(kind, *shape, seed=5)
    checkpoint = Memory().add("w", kind, shape, raw, ternarize=True)
    w = both_ways(checkpoint, "w")
    codes, scale = ternarize(decode(kind, raw, shape))
    assert w.format is F.T2
    assert "masters" in w.note
    assert w.data.tobytes() == pack_ternary(codes, F.T2).tobytes()
    np.testing.assert_array_equal(w.scales, np.full(45, scale))


def test_masters_that_are_ternary_already_keep_their_level() -> None:
    codes = matrix(40, 300)
    raw = (codes * np.float32(0.25)).reshape(-1).view(np.uint8)
    w = both_ways(Memory().add("w", T.F32, codes.shape, raw, ternarize=True), "w")
    assert w.data.tobytes() == pack_ternary(codes, F.T2).tobytes()
    assert w.scales.tolist() == [0.25] * 40
    # a second level that shows up only late makes it a matrix of masters
    values = codes * np.float32(0.25)
    values[39, 5] = 0.75
    late = Memory().add("w", T.F32, codes.shape, values.reshape(-1).view(np.uint8), None, True)
    assert both_ways(late, "w").scales[0] == ternarize(values)[1]
    zero = Memory().add("w", T.F32, (3, 64), np.zeros(3 * 64 * 4, dtype=np.uint8), None, True)
    assert both_ways(zero, "w").scales.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("slices", "fmt"), [(None, F.BS2), (False, F.Q8)])
def test_a_late_block_that_breaks_the_promise_changes_the_format(
    slices: bool | None, fmt: Format
) -> None:
    codes = matrix(40, 512)
    n_cases = 0
    for kind, at, value in ((T.TQ1_0, 54 * 79 + 52, 0x3C), (T.Q2_0, 18 * 319 + 3, 0xFF)):
        raw = np.frombuffer(TERNARY[kind](codes, 0.375), dtype=np.uint8).copy()
        raw[at : at + 2] = value
        checkpoint = Memory().add("good", T.F32, (8, 64), random_bytes(T.F32, 8, 64, 0))
        checkpoint.add("w", kind, codes.shape, raw)
        w = both_ways(checkpoint, "w", slices=slices)
        assert w.format is fmt
        np.testing.assert_array_equal(dequantize(w), decode(kind, raw, codes.shape))
        mixed = load_weights(
            checkpoint, ["w", "good"], native=ENGINES[-1], threads=2, slices=slices
        )
        assert list(mixed) == ["w", "good"]
        assert [w.format for w in mixed.values()] == [fmt, F.F32]
        n_cases += 1
    assert n_cases == 2
