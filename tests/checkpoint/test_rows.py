"""Streaming by rows gives what decoding the whole tensor gives, for every type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgesparse.checkpoint import (
    TERNARY_TYPES,
    TensorInfo,
    TensorType,
    dequantize,
    dequantize_rows,
    n_bytes_of,
    open_checkpoint,
    read_rows,
    row_chunks,
    ternary_chunks,
    ternary_codes,
    ternary_rows,
)
from edgesparse.errors import ModelFormatError
from tests.checkpoint import writers as w


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    file = w.base()
    for name, type_id in w.GGUF_IDS.items():
        n_bytes = n_bytes_of(TensorType[name], (20, 256))
        payload = rng.integers(0, 256, n_bytes, dtype=np.uint8) & 0x2A  # scales finite, no code 3
        file.tensor(name, type_id, (20, 256), payload.tobytes())
    found = tmp_path_factory.mktemp("rows") / "model.gguf"
    found.write_bytes(file.build())
    return found


@pytest.mark.parametrize("layout", ["128x32", "64x16", "row4"])
def test_row_ranges_equal_the_whole(path: Path, layout: str) -> None:
    n_ranges = 0
    with open_checkpoint(path, i2s_layout=layout) as c:
        for name, info in c.tensors.items():
            whole = dequantize(info.type, c.read(name), info.shape, info.scale)
            for begin, end in ((0, 20), (0, 4), (8, 16), (16, 20), (12, 12)):
                part = dequantize_rows(c, name, begin, end)
                np.testing.assert_array_equal(part, whole[begin:end])
                n_ranges += 1
                if info.type not in TERNARY_TYPES:
                    continue
                raw = read_rows(c, name, begin, end)
                shape = (end - begin, 256)
                rows = ternary_rows(c, name, begin, end)
                direct = ternary_codes(info.type, raw, shape, info.scale)
                assert (rows is None) == (direct is None)
                if rows is not None and direct is not None:
                    np.testing.assert_array_equal(rows[0], direct[0])
    assert n_ranges == 5 * len(w.GGUF_IDS)


def test_ranges_outside_the_rows_are_refused(path: Path) -> None:
    with open_checkpoint(path, i2s_layout="row4") as c:
        bad = [("F32", 0, 21), ("F32", -1, 4), ("F32", 8, 4), ("I2_S_128X32", 0, 3)]
        for name, begin, end in bad:
            with pytest.raises(ModelFormatError):
                read_rows(c, name, begin, end)


@pytest.mark.parametrize("n_rows", [0, 1, 3, 4, 5, 1_000])
@pytest.mark.parametrize("n_cols", [1, 768, 10_000_000])
def test_chunks_tile_the_rows(n_rows: int, n_cols: int) -> None:
    info = TensorInfo("x", TensorType.F32, (n_rows, n_cols), 0, 0)
    chunks = list(row_chunks(info, 1 << 20))
    assert [row for begin, end in chunks for row in range(begin, end)] == list(range(n_rows))
    assert all(begin % 4 == 0 for begin, _ in chunks)
    assert all((end - begin) * n_cols * 8 <= 1 << 20 or end - begin <= 4 for begin, end in chunks)


def test_streams_of_rows_that_are_not_ternary_say_so(tmp_path: Path) -> None:
    file = w.base().tensor("x", 35, (8, 512), quantised_blocks())
    file.tensor("y", 0, (8, 512), w.f32(8, 512))
    (tmp_path / "model.gguf").write_bytes(file.build())
    with open_checkpoint(tmp_path / "model.gguf") as c:
        for name in ("x", "y"):
            chunks = list(ternary_chunks(c, name, 1))
            assert len(chunks) == 2
            assert all(chunk is None for chunk in chunks)


def quantised_blocks() -> bytes:
    """Give 8 rows of TQ2_0 whose two blocks have scales 1 and 2, every code +1."""
    ones = b"\xaa" * 64
    return (ones + np.float16(1).tobytes() + ones + np.float16(2).tobytes()) * 8


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_masters_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    values = np.ones((96, 64), dtype=np.float32)
    values[50, 3] = bad
    name = "model.layers.0.mlp.up_proj.weight"
    config = w.llama_config(model_type="bitnet")
    w.write_folder(tmp_path / "m", {name: ("F32", (96, 64), values.tobytes())}, config)
    with open_checkpoint(tmp_path / "m") as c, pytest.raises(ModelFormatError) as caught:
        list(ternary_chunks(c, "blk.0.ffn_up.weight", 4_096))
    assert caught.value.kind == "value"


def test_masters_of_zeros_and_of_ternary_values(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(-1, 2, size=(96, 64)).astype(np.float32)
    up, gate = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight"
    tensors = {
        up: ("F32", (96, 64), bytes(96 * 64 * 4)),
        gate: ("F32", (96, 64), (codes * 0.5).tobytes()),
    }
    w.write_folder(tmp_path / "m", tensors, w.llama_config(model_type="bitnet"))
    with open_checkpoint(tmp_path / "m") as c:
        for name, scale, expected in (("up", 0.0, codes * 0), ("gate", 0.5, codes)):
            chunks = [x for x in ternary_chunks(c, f"blk.0.ffn_{name}.weight", 4_096) if x]
            np.testing.assert_array_equal(np.concatenate([x[2] for x in chunks]), expected)
            assert {float(x[3]) for x in chunks} == {scale}
