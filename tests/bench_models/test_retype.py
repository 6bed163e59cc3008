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
