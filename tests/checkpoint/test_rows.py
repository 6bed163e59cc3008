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
