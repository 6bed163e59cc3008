"""A retyped file holds the same weights, head and vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgesparse
from bench.gguf_packing import TERNARY
from bench.make_model import make_model
from bench.model_shapes import Shape
from bench.retype import main, retype
from edgesparse.checkpoint import open_checkpoint
from edgesparse.formats.dequantize import dequantize

TINY = Shape("this test", 256, 512, 2, 4, 2, 64, 1200, 128, 10_000.0)


@pytest.mark.parametrize("kind", TERNARY)
def test_same_logits(tmp_path: Path, kind: str) -> None:
    source, out = tmp_path / "a.gguf", tmp_path / "b.gguf"
    make_model(source, TINY, "i2_s", head="q6_k", dead_gates=0.7)
    assert retype(source, out, kind) == out.stat().st_size
    with edgesparse.load(source, threads=1) as a, edgesparse.load(out, threads=1) as b:
        assert {w.source for n, w in b.parameters.weights.items() if n.startswith("blk")} == {
            kind.upper() if kind != "i2_s" else "I2_S_128X32"
        }
        assert np.array_equal(a.logits([3, 1, 200]), b.logits([3, 1, 200]))
        assert a.tokenize("hello there") == b.tokenize("hello there")


def test_a_dense_model_has_the_same_numbers(tmp_path: Path) -> None:
    source, out = tmp_path / "a.gguf", tmp_path / "b.gguf"
    make_model(source, TINY, "tq2_0", head="q6_k", dead_gates=0.7)
    retype(source, out, "q8_0")
    with edgesparse.load(source, threads=1) as a, edgesparse.load(out, threads=1) as b:
        for name, weight in a.parameters.weights.items():
            other = b.parameters.weights[name]
            assert np.array_equal(dequantize(weight), dequantize(other)), name
            assert name.startswith("token") or not other.format.is_ternary


def test_what_cannot_be_carried_over_is_refused(tmp_path: Path) -> None:
    k_quants = Path(__file__).parents[2] / "models" / "tiny" / "llama-k.gguf"
    with pytest.raises(SystemExit):
        main([str(k_quants), "--type", "tq2_0", "--out", str(tmp_path / "x.gguf")])


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (range(0, 2), "its rows have different scales"),  # a row of ffn_down is two blocks
        (range(-2, 0), "its rows have different scales"),
        (range(0, 1), "not ternary with one scale per row"),
    ],
)
def test_scales_that_one_number_cannot_hold_are_refused(
    tmp_path: Path, block: range, reason: str
) -> None:
    source, out = tmp_path / "a.gguf", tmp_path / "b.gguf"
    make_model(source, TINY, "tq2_0")
    with open_checkpoint(source) as checkpoint:
        info = checkpoint.info("blk.1.ffn_down.weight")
    assert info.n_cols == 512
    raw = bytearray(source.read_bytes())
    for i in block:
        end = info.offset + (i + 1) * 66 + (info.n_bytes if i < 0 else 0)
        raw[end - 2 : end] = np.float16(0.25).tobytes()
    source.write_bytes(raw)
    with pytest.raises(ValueError, match=f"blk.1.ffn_down.weight: {reason}"):
        retype(source, out, "i2_s")
    assert not out.exists()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *[(kind, "bitnet") for kind in ("tq1_0", "tq2_0", "q8_0")],
        *[(kind, "bitnet-b1.58") for kind in ("i2_s", "iq2_bn")],
    ],
)
def test_the_graph_has_the_name_that_the_types_engine_knows(
    tmp_path: Path, kind: str, name: str
) -> None:
    source, out = tmp_path / "a.gguf", tmp_path / "b.gguf"
    make_model(source, TINY, "tq2_0", architecture="bitnet-25")
    for wanted, found in ((None, name), ("bitnet-25", "bitnet-25")):
        retype(source, out, kind, wanted)
        with open_checkpoint(out) as checkpoint:
            assert checkpoint.get_str("general.architecture") == found
            assert checkpoint.metadata[f"{found}.block_count"] == TINY.n_layers


def test_the_source_is_never_the_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a.gguf"
    size = make_model(source, TINY, "i2_s")
    before = source.read_bytes()
    monkeypatch.chdir(tmp_path)
    for same in ("a.gguf", f"../{tmp_path.name}/a.gguf"):
        with pytest.raises(SystemExit, match="IN and OUT are the same"):
            main([str(source), "--type", "tq2_0", "--out", same])
    assert len(before) == size
    assert source.read_bytes() == before
    assert list(tmp_path.iterdir()) == [source]


def test_failures_are_one_line(tmp_path: Path) -> None:
    missing, here = tmp_path / "none.gguf", tmp_path / "a.gguf"
    with pytest.raises(SystemExit, match="no such file"):
        main([str(missing), "--type", "tq2_0", "--out", str(here)])
    make_model(here, TINY, "i2_s")
    with pytest.raises(SystemExit, match="there is no folder"):
        main([str(here), "--type", "tq2_0", "--out", str(tmp_path / "no" / "b.gguf")])
