"""Random models for benchmarks: valid files, equal weights in every type, the wanted dead gates."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf.quants
import numpy as np
import numpy.typing as npt
import pytest

import edgesparse
from bench.dead_gates import dead_gates
from bench.gguf_packing import HEADS, TERNARY
from bench.gguf_stream import Tensor, write_gguf
from bench.make_model import (
    EMBEDDING_STEP,
    embedding_rows,
    gate_rows,
    main,
    make_model,
    ternary_rows,
)
from bench.model_shapes import SHAPES, Shape, vocabulary
from edgesparse.checkpoint import open_checkpoint

TINY = Shape("this test", 256, 512, 3, 4, 2, 64, 1200, 128, 10_000.0)
FROZEN = "b750647d2714858dd32b42c71b5b6ccc29f371cc3ff54ecb53f006b2e3a548d0"
TOKENS = [300, 5, 17, 900, 42, 256]


def load(path: Path) -> edgesparse.Model:
    return edgesparse.load(path, executor="reference", threads=1, head="exact")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_types_hold_the_same_weights(tmp_path: Path) -> None:
    seen = []
    for kind in TERNARY:
        path = tmp_path / f"{kind}.gguf"
        make_model(path, TINY, kind, dead_gates=0.7)
        with load(path) as model:
            weights = model.parameters.weights
            ternary = {n: w for n, w in weights.items() if n.startswith("blk.")}
            assert {w.format.name for w in ternary.values()} == {"T2", "T2N"}
            stored = b"".join(w.data.tobytes() + w.scales.tobytes() for w in ternary.values())
            seen.append((list(ternary), stored, model.logits(TOKENS).tobytes()))
    assert len(seen) == 4
    assert len(seen[0][0]) == 7 * TINY.n_layers
    assert seen[0] == seen[1] == seen[2] == seen[3]


@pytest.mark.parametrize("kind", ["tq1_0", "tq2_0"])
def test_ternary_bytes_mean_the_codes(kind: str) -> None:
    codes = np.concatenate(list(ternary_rows(3, "name", 16, 512)))
    assert set(np.unique(codes)) == {-1, 0, 1}
    assert abs((codes == 0).mean() - 0.42) < 0.03
    packed = TERNARY[kind].pack(codes, 0.25).reshape(16, -1)
    type_id = gguf.GGMLQuantizationType(TERNARY[kind].type_id)
    assert (gguf.quants.dequantize(packed, type_id) == codes * 0.25).all()


@pytest.mark.parametrize("head", HEADS)
def test_heads_hold_the_same_values(head: str) -> None:
    codes = np.concatenate(list(embedding_rows(3, 40, 512)))
    assert abs(codes).max() <= 31
    packed = HEADS[head].pack(codes, EMBEDDING_STEP).reshape(40, -1)
    assert packed.nbytes == HEADS[head].n_bytes(*codes.shape)
    type_id = gguf.GGMLQuantizationType(HEADS[head].type_id)
    found = gguf.quants.dequantize(packed, type_id)
    exact = codes * EMBEDDING_STEP
    if head == "q4_0":
        largest = abs(exact.reshape(-1, 32)).max(axis=1)
        error = abs(found - exact).reshape(-1, 32).max(axis=1)
        assert (error <= 0.51 * largest / 7).all()
        assert error.max() > 0
    else:
        assert (found == exact).all()


def test_heads_give_the_same_logits(tmp_path: Path) -> None:
    logits = []
    for head in ("f16", "q8_0"):
        path = tmp_path / f"{head}.gguf"
        make_model(path, TINY, "tq2_0", head=head)
        with load(path) as model:
            logits.append(model.logits(TOKENS))
    spread = logits[0].std()
    assert spread > 1
    assert abs(logits[0] - logits[1]).max() < 1e-3 * spread


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name / "m.gguf" for name in "abc")
    for path, seed in ((a, 5), (b, 5), (c, 6)):
        path.parent.mkdir()
        make_model(path, TINY, "i2_s", head="q6_k", dead_gates=0.3, seed=seed)
    assert digest(a) == digest(b) != digest(c)


def test_weights_are_frozen() -> None:
    """Figures measured on one machine can be measured on the same weights elsewhere, later."""
    found = hashlib.sha256()
    for rows in (
        ternary_rows(1, "blk.0.ffn_up.weight", 8, 256),
        gate_rows(1, "blk.0.ffn_gate.weight", 8, 256, 0.8, 0.7),
        embedding_rows(1, 8, 256),
    ):
        found.update(b"".join(codes.tobytes() for codes in rows))
    assert found.hexdigest() == FROZEN


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.8, 0.95])
def test_the_wanted_share_of_gates_is_dead(tmp_path: Path, share: float) -> None:
    path = tmp_path / "m.gguf"
    make_model(path, TINY, "tq2_0", dead_gates=share)
    with load(path) as model:
        found = dead_gates(model, 64)
    assert found.shape == (TINY.n_layers,)
    assert abs(found - share).max() <= 0.05


def test_half_of_the_gates_are_dead_by_themselves(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    make_model(path, TINY, "tq2_0")
    with load(path) as model:
        assert abs(dead_gates(model, 64) - 0.5).max() <= 0.05


@pytest.mark.parametrize("name", SHAPES)
def test_named_shapes_open_and_stay_in_range(tmp_path: Path, name: str) -> None:
    """Two layers of the real shape with a small vocabulary run; their numbers stay near 1."""
    shape = replace(SHAPES[name], n_layers=2, n_vocab=1200, n_ctx=64)
    path = tmp_path / "m.gguf"
    kind = "i2_s" if name == "2b4t" else "tq2_0"
    size = make_model(path, shape, kind, head="q8_0")
    assert size == path.stat().st_size
    with open_checkpoint(path) as checkpoint:
        per_layer = 7 + len(shape.norms())
        assert len(checkpoint.tensors) == 2 + 2 * per_layer
        assert not checkpoint.warnings
    with edgesparse.load(path) as model:
        assert not model.info.warnings
        assert model.tokenize("hello there") != []
        logits = model.logits([3])
        assert np.isfinite(logits).all()
        x = model.engine.executor.buffer("x", 1)
        assert 0.5 < np.sqrt((x**2).mean()) < 4


def test_thirty_layers_do_not_blow_up(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    make_model(path, replace(TINY, n_layers=30), "tq2_0", dead_gates=0.8)
    with load(path) as model:
        assert np.isfinite(model.logits(TOKENS)).all()
        x = model.engine.executor.buffer("x", 1)
        assert 1 < np.sqrt((x**2).mean()) < 3
        shares = dead_gates(model, 32)
    assert len(shares) == 30
    assert abs(shares.mean() - 0.8) <= 0.05


def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    tracemalloc.start()
    try:
        size = make_model(path, replace(SHAPES["smolbit"], n_layers=2), "tq1_0", head="f16")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 75e6
    assert peak < 60e6


def test_vocabulary_is_a_valid_bpe() -> None:
    tokens, merges, types = vocabulary(128_256)
    assert len(tokens) == len(set(tokens)) == len(types) == 128_256
    known = set(tokens)
    assert len(merges) == 128_256 - 512
    for merge in merges:
        left, right = merge.split(" ")
        assert {left, right, left + right} <= known
    assert tokens[128_000] == "<|begin_of_text|>"
    assert tokens[128_009] == "<|eot_id|>"
    with pytest.raises(ValueError, match="cannot be made"):
        vocabulary(500)


def test_short_data_is_an_error(tmp_path: Path) -> None:
    tensor = Tensor("t", 0, (4,), 16, lambda: iter([np.zeros(12, np.uint8)]))
    with pytest.raises(ValueError, match="12 bytes came, 16"):
        write_gguf(tmp_path / "m.gguf", {}, [tensor])


def test_dead_gates_need_a_relu(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="squared ReLU"):
        make_model(tmp_path / "m.gguf", SHAPES["700m"], "i2_s", dead_gates=0.8)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.gguf"
    arguments = "--shape smolbit --type i2_s --layers 1 --head q4_0 --dead-gates 0.5 --seed 9"
    main([*arguments.split(), "--out", str(path)])
    assert f"{path.stat().st_size / 1e6:.1f} MB" in capsys.readouterr().out
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.info("blk.0.ffn_down.weight").type.name.startswith("I2_S")
        assert checkpoint.info("token_embd.weight").type.name == "Q4_0"
    with pytest.raises(SystemExit):
        main(["--shape", "700m", "--type", "i2_s", "--dead-gates", "0.5", "--out", str(path)])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--layers", "0"], "1 to 1000 layers"),
        (["--layers", "-1"], "1 to 1000 layers"),
        (["--layers", "1001"], "1 to 1000 layers"),
        (["--seed", "-1"], "seeds are not negative"),
        (["--dead-gates", "nan"], "between 0 and 1"),
        (["--out", "no/such/m.gguf"], "there is no folder no/such"),
        (["--out", "."], "it is a folder"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(
    flags: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    usual = ["--shape", "smolbit", "--type", "tq2_0", "--layers", "1", "--out", "m.gguf"]
    with pytest.raises(SystemExit) as refused:
        main([*usual, *flags])
    assert refused.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    def half() -> Iterator[npt.NDArray[np.uint8]]:
        yield np.zeros(64, np.uint8)
        raise KeyboardInterrupt

    path = tmp_path / "m.gguf"
    path.write_bytes(b"an older one")
    with pytest.raises(KeyboardInterrupt):
        write_gguf(path, {}, [Tensor("t", 0, (32,), 128, half)])
    assert path.read_bytes() == b"an older one"
    assert list(tmp_path.iterdir()) == [path]
