"""Every storage type against an independent decoder, a loop, or golden bytes."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from edgesparse.checkpoint import (
    TERNARY_TYPES,
    TensorType,
    affine_blocks,
    check_scales,
    dequantize,
    layout_of,
    n_bytes_of,
    ternarize,
    ternary_codes,
)
from edgesparse.errors import ModelFormatError
from tests.checkpoint import byte_pictures as pictures

T = TensorType
SEVERAL = {T.GPTQ, T.AWQ, T.CT_PACKED, T.CT_INT8, T.STORED}  # no bytes of their own
SINGLE = [kind for kind in T if kind not in SEVERAL]
# offsets of half-precision fields, to keep random bytes finite
HALVES = {
    "Q8_0": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}
QUANTIZABLE = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0")


def random_blocks(name: str, n_rows: int, n_cols: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    kind = T[name]
    raw = rng.integers(0, 256, n_bytes_of(kind, (n_rows, n_cols)), dtype=np.uint8)
    blocks = raw.reshape(-1, layout_of(kind).block_bytes)
    for at in HALVES[name]:
        blocks[:, at : at + 2] = rng.normal(size=(len(blocks), 1)).astype("<f2").view(np.uint8)
    if name == "TQ2_0":
        codes = blocks[:, :64]
        codes &= ~(codes & (codes >> 1) & 0x55)  # code 3 becomes 2
    return raw


@pytest.mark.parametrize("name", HALVES)
def test_random_bytes_decode_as_the_gguf_package_does(name: str) -> None:
    n_values = 0
    for seed in range(5):
        n_cols = layout_of(T[name]).block * (seed + 1)
        raw = random_blocks(name, 7, n_cols, seed)
        expected = quants.dequantize(raw.reshape(7, -1), GGMLQuantizationType[name])
        ours = dequantize(T[name], raw, (7, n_cols))
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, expected)
        n_values += ours.size
    assert n_values >= 7 * 32 * 15


@pytest.mark.parametrize("name", QUANTIZABLE)
def test_quantised_weights_decode_as_the_gguf_package_does(name: str) -> None:
    weights = np.random.default_rng(1).normal(size=(12, 512)).astype(np.float32)
    kind = GGMLQuantizationType[name]
    packed = quants.quantize(weights, kind)
    ours = dequantize(T[name], packed.reshape(-1).view(np.uint8), weights.shape)
    np.testing.assert_array_equal(ours, quants.dequantize(packed, kind))


@pytest.mark.parametrize("name", ["TQ1_0", "TQ2_0"])
def test_ternary_matrices_survive_the_round_trip_exactly(name: str) -> None:
    codes = np.random.default_rng(2).integers(-1, 2, size=(9, 768)).astype(np.int8)
    codes[3, 256:512] = 0  # a block of zeros is stored with scale 0
    scale = np.float32(np.float16(0.37))
    packed = quants.quantize(codes * scale, GGMLQuantizationType[name])
    found = ternary_codes(T[name], packed.reshape(-1), codes.shape)
    assert found is not None
    np.testing.assert_array_equal(found[0], codes)
    assert found[1].shape == ()
    assert found[1] == scale


def packed_cases() -> dict[str, tuple]:
    """Give (type, codes, scale per row, bytes) for every ternary type, by hand-written loops."""
    rng = np.random.default_rng(3)
    codes = rng.integers(-1, 2, size=(8, 512)).astype(np.int8)
    signs = np.where(codes > 0, 1, -1).astype(np.int8)
    rows = rng.uniform(0.1, 2, size=8).astype(np.float16).astype(np.float32)
    one = np.full(8, 0.25, dtype=np.float32)

    def blocks(size: int) -> np.ndarray:
        return np.repeat(rows[:, None], 512 // size, axis=1)

    return {
        "I2_S_128X32": (codes, one, pictures.i2s_columns(codes, 0.25, 128)),
        "I2_S_64X16": (codes, one, pictures.i2s_columns(codes, 0.25, 64)),
        "I2_S_ROW4": (codes, one, pictures.i2s_row4(codes, 0.25)),
        "HF_T2": (codes, one, pictures.hf_t2(codes)),
        "Q2_0": (codes, rows, pictures.q2_0(codes, blocks(64), 64)),
        "PQ2_0": (codes, rows, pictures.q2_0(codes, blocks(128), 128)),
        "Q1_0": (signs, rows, pictures.q1_0(signs, blocks(128))),
        "TQ1_0": (codes, rows, pictures.tq1_0(codes, blocks(256))),
        "TQ2_0": (codes, rows, pictures.tq2_0(codes, blocks(256))),
        "PTQ1_0": (codes, rows, pictures.ptq1_0(codes, blocks(128))),
        "IQ2_BN": (codes, rows, pictures.iq2_bn(codes, rows)),
        "IQ1_BN": (codes, rows, pictures.iq1_bn(codes, rows)),
    }


def test_every_ternary_type_has_a_hand_packed_case() -> None:
    assert {T[name] for name in packed_cases()} == set(TERNARY_TYPES)


@pytest.mark.parametrize("name", packed_cases())
def test_hand_packed_bytes_decode_exactly(name: str) -> None:
    codes, rows, packed = packed_cases()[name]
    raw = np.frombuffer(packed, dtype=np.uint8)
    scale = 0.25 if name == "HF_T2" else None
    assert len(raw) == n_bytes_of(T[name], codes.shape)
    found = ternary_codes(T[name], raw, codes.shape, scale)
    assert found is not None
    np.testing.assert_array_equal(found[0], codes)
    np.testing.assert_array_equal(np.broadcast_to(found[1], (8,)), rows)
    expected = codes * rows[:, None]
    np.testing.assert_array_equal(dequantize(T[name], raw, codes.shape, scale), expected)
    blocks = affine_blocks(T[name], raw, codes.shape, scale)
    assert blocks is not None
    assert blocks[2] is None
    rebuilt = blocks[0] * blocks[1][..., None]
    np.testing.assert_array_equal(rebuilt.reshape(codes.shape), expected)


def _one(n: int) -> list[int]:
    return [0x55] * n


GOLDEN = {
    # every weight 0 except weight 37 = +1, scale 1: (columns, bytes, changed byte, its value)
    "I2_S_128X32": (128, _one(32), 5, 0x65),
    "I2_S_64X16": (64, _one(16), 5, 0x59),
    "TQ2_0": (256, [*_one(64), 0x00, 0x3C], 5, 0x59),
    "TQ1_0": (256, [*[0x80] * 48, *[0x7F] * 4, 0x00, 0x3C], 5, 0x9C),
    "PTQ1_0": (128, [*[0x80] * 24, *[0x7F] * 2, 0x00, 0x3C], 5, 0x89),
    "Q2_0": (64, [0x00, 0x3C, *_one(16)], 11, 0x59),
    "PQ2_0": (128, [0x00, 0x3C, *_one(32)], 11, 0x59),
    "IQ2_BN": (64, [0x00, 0x00, 0x80, 0x3F, *_one(16)], 9, 0x65),
    "IQ1_BN": (64, [0x00, 0x3C, *[0x80] * 12, 0x2B], 2 + 7, 0x81),
    "Q1_0": (128, [0x00, 0x3C, *[0x00] * 16], 6, 0x20),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes(name: str) -> None:
    n_cols, packed, place, value = GOLDEN[name]
    raw = np.array(packed, dtype=np.uint8)
    raw[place] = value
    expected = np.full((1, n_cols), -1.0 if name == "Q1_0" else 0.0, dtype=np.float32)
    expected[0, 37] = 1.0
    scale = 1.0 if name.startswith("I2_S") else None
    np.testing.assert_array_equal(dequantize(T[name], raw, (1, n_cols), scale), expected)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K"])
def test_affine_blocks_rebuild_the_values_bit_for_bit(name: str) -> None:
    raw = random_blocks(name, 5, 512, 4)
    found = affine_blocks(T[name], raw, (5, 512))
    assert found is not None
    codes, d, m = found
    assert codes.shape == (5, 16, 32)
    assert d.shape == (5, 16)
    values = codes.astype(np.float32) * d[..., None]
    if m is not None:
        values += m[..., None]
    np.testing.assert_array_equal(values.reshape(5, 512), dequantize(T[name], raw, (5, 512)))


@pytest.mark.parametrize("name", ["F32", "F16", "Q2_K", "Q3_K", "Q6_K"])
def test_types_without_32_column_blocks_say_so(name: str) -> None:
    raw = np.zeros(n_bytes_of(T[name], (2, 256)), dtype=np.uint8)
    assert affine_blocks(T[name], raw, (2, 256)) is None
    assert ternary_codes(T[name], raw, (2, 256)) is None


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("F32", "<f4"), ("F16", "<f2"), ("F64", "<f8"), ("I8", "<i1"), ("I16", "<i2"), ("I32", "<i4")],
)
def test_plain_numbers(name: str, dtype: str) -> None:
    values = (np.arange(60).reshape(4, 15) - 30).astype(dtype)
    raw = np.frombuffer(values.tobytes(), dtype=np.uint8)
    np.testing.assert_array_equal(dequantize(T[name], raw, (4, 15)), values.astype(np.float32))


def test_bf16_is_the_upper_half_of_float32() -> None:
    values = np.random.default_rng(5).normal(size=(3, 40)).astype(np.float32)
    upper = values.view("<u4") >> 16
    raw = np.frombuffer(upper.astype("<u2").tobytes(), dtype=np.uint8)
    expected = (upper << 16).astype("<u4").view("<f4")
    np.testing.assert_array_equal(dequantize(T.BF16, raw, (3, 40)), expected)


def test_code_plus_two_is_a_value_of_q2_0_and_no_ternary_code() -> None:
    raw = np.array([0x00, 0x3C, *[0xFF] * 16], dtype=np.uint8)
    np.testing.assert_array_equal(dequantize(T.Q2_0, raw, (1, 64)), np.full((1, 64), 2.0))
    assert ternary_codes(T.Q2_0, raw, (1, 64)) is None


@pytest.mark.parametrize("name", ["I2_S_128X32", "I2_S_64X16", "I2_S_ROW4", "HF_T2", "TQ2_0"])
def test_code_three_is_refused(name: str) -> None:
    shape = (4, 256)
    raw = np.zeros(n_bytes_of(T[name], shape), dtype=np.uint8)
    raw[17] = 0x0C
    with pytest.raises(ModelFormatError) as caught:
        dequantize(T[name], raw, shape, 1.0)
    assert caught.value.kind == "value"


def test_blocks_with_scales_of_their_own_are_not_row_uniform() -> None:
    codes = np.ones((2, 512), dtype=np.int8)
    raw = np.frombuffer(pictures.tq2_0(codes, np.array([[1.0, 2.0], [1.0, 1.0]])), dtype=np.uint8)
    assert ternary_codes(T.TQ2_0, raw, (2, 512)) is None
    found = ternary_codes(T.TQ2_0, raw[len(raw) // 2 :], (1, 512))
    assert found is not None
    assert found[1] == 1.0


@pytest.mark.parametrize("name", [*HALVES, "IQ2_BN", "IQ1_BN", "F32", "F16", "BF16", "F64"])
def test_scales_that_are_not_finite_are_found(name: str) -> None:
    shape = (4, 256)
    raw = np.zeros(n_bytes_of(T[name], shape), dtype=np.uint8)
    check_scales(T[name], raw, shape)
    infinity = {"IQ2_BN": "<f4", "F32": "<f4", "F64": "<f8"}.get(name, "<f2")
    stored = np.array(np.inf, dtype=infinity).tobytes() if name != "BF16" else b"\x80\x7f"
    for at in HALVES.get(name, (0,)):
        broken = raw.copy()
        broken[at : at + len(stored)] = np.frombuffer(stored, dtype=np.uint8)
        with pytest.raises(ModelFormatError) as caught:
            check_scales(T[name], broken, shape, name="blk.0.x")
        assert caught.value.kind == "value"
        assert caught.value.field == "blk.0.x"


def test_short_and_long_data_are_refused_for_every_type() -> None:
    n_cases = 0
    for kind in SINGLE:
        n_bytes = n_bytes_of(kind, (4, 256))
        for length in (0, n_bytes - 1, n_bytes + 1):
            with pytest.raises(ModelFormatError) as caught:
                dequantize(kind, np.zeros(length, dtype=np.uint8), (4, 256), 1.0)
            assert caught.value.kind == "truncated"
            n_cases += 1
    assert n_cases == 3 * len(SINGLE)


def test_empty_matrices_decode_to_nothing() -> None:
    n_cases = 0
    for kind in SINGLE:
        for shape in ((0, 256), (4, 0)):
            raw = np.zeros(n_bytes_of(kind, shape), dtype=np.uint8)
            assert dequantize(kind, raw, shape, 1.0).shape == shape
            assert kind not in TERNARY_TYPES or ternary_codes(kind, raw, shape, 1.0) is not None
            n_cases += 1
    assert n_cases == 2 * len(SINGLE)


def test_matrices_stored_elsewhere_have_no_bytes_of_their_own() -> None:
    for kind in SEVERAL:
        with pytest.raises(ModelFormatError) as caught:
            n_bytes_of(kind, (4, 256))
        assert caught.value.kind == "layout"
    assert len(SEVERAL) == 5


def test_absmean_rule() -> None:
    weights = np.random.default_rng(6).normal(size=(40, 60)).astype(np.float32)
    codes, scale = ternarize(weights)
    assert scale == pytest.approx(np.abs(weights).mean(), rel=1e-6)
    np.testing.assert_array_equal(codes, np.clip(np.round(weights / scale), -1, 1))
    part, _ = ternarize(weights[7:9], scale=float(scale))
    np.testing.assert_array_equal(part, codes[7:9])


def test_weights_that_are_ternary_already_keep_their_scale() -> None:
    codes = np.random.default_rng(7).integers(-1, 2, size=(20, 30)).astype(np.int8)
    again, scale = ternarize(codes * np.float32(0.3))
    np.testing.assert_array_equal(again, codes)
    assert scale == np.float32(0.3)
    zeros, nothing = ternarize(np.zeros((2, 3), dtype=np.float32))
    assert nothing == 0.0
    assert not zeros.any()
