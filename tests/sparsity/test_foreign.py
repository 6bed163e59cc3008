"""Threshold files of TEAL and CHESS: what they hold, and what hostile ones may not do."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgesparse.cli import main
from edgesparse.errors import CalibrationError, EdgesparseError, ModelNotFound, UsageError
from edgesparse.plan.op import Linear
from edgesparse.sparsity.foreign import import_thresholds
from edgesparse.sparsity.torch_file import read_torch_file
from tests.executors.running import load_tiny
from tests.models import tiny

FIXTURES = Path(__file__).parents[1] / "fixtures"
TEAL, CHESS, TENSORS = FIXTURES / "teal", FIXTURES / "chess_0_5.pt", FIXTURES / "tensors.pt"
MODEL = "llama-k.gguf"


# ---- the reader ----------------------------------------------------------------------------------


def test_tensors_and_nested_values() -> None:
    found = read_torch_file(TENSORS)
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    expected = {
        "double": base,
        "float": base[1, :, ::2],
        "half": base[:, 1],
        "bfloat16": base.transpose(2, 0, 1),
        "expanded": np.full((3, 2), 7, np.float32),
        "scalar": np.float32(3.5),
        "empty": np.empty((0, 5), np.float32),
    }
    nested = found.pop("nested")
    assert nested == [1, -2, 3.5, "text", None, True, (4, 2**40), {"five": 5}]
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], values)


def archive(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as out:
        for name, data in entries.items():
            out.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def entries_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


class Evil:
    """What a malicious file would ask to be built."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize(
    "value",
    [
        Evil(os.system, "touch owned"),
        Evil(eval, "1"),
        Evil(getattr, "", "join"),
        {"a": [Evil(os.remove, "owned")]},
        b"bytes",
        {1.5, 2.5},
        complex(1, 2),
        Path("x"),
        np.ones(3),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_nothing_else_is_built(
    value: object, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    path.write_bytes(archive({"data.pkl": pickle.dumps(value, protocol)}))
    with pytest.raises(CalibrationError):
        read_torch_file(path)
    assert list(tmp_path.iterdir()) == [path]


def test_bare_pickles_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    good = entries_of(TENSORS)
    cases = {
        "pickle": pickle.dumps({"a": 1}),
        "empty": b"",
        "text": b"thresholds",
        "no pickle": archive({"version": b"3"}),
        "compressed": archive(good, zipfile.ZIP_DEFLATED),
        "big endian": archive(good | {"byteorder": b"big"}),
        "storage missing": archive({k: v for k, v in good.items() if k != "data/1"}),
        "storage short": archive(good | {"data/0": good["data/0"][:-8]}),
        "storage long": archive(good | {"data/0": good["data/0"] + bytes(8)}),
        "stops early": archive(good | {"data.pkl": good["data.pkl"][:-1]}),
    }
    for name, raw in cases.items():
        path.write_bytes(raw)
        try:
            read_torch_file(path)
        except CalibrationError:
            continue
        pytest.fail(name)
    with pytest.raises(ModelNotFound):
        read_torch_file(tmp_path / "none.pt")


def test_mutants_are_read_or_refused(tmp_path: Path) -> None:
    """Any byte of the pickle may be any other: an answer or a typed error, nothing else."""
    good = entries_of(CHESS)
    rng = np.random.default_rng(4)
    path = tmp_path / "m.pt"
    n_refused = 0
    for i in range(1500):
        pkl = bytearray(good["data.pkl"])
        for at in rng.integers(0, len(pkl), 1 + i % 3):
            pkl[at] = rng.integers(0, 256)
        path.write_bytes(archive(good | {"data.pkl": bytes(pkl)}))
        try:
            read_torch_file(path)
        except EdgesparseError:
            n_refused += 1
    whole = CHESS.read_bytes()
    for i in range(500):
        raw = bytearray(whole)
        raw[rng.integers(0, len(raw))] = rng.integers(0, 256)
        path.write_bytes(raw if i % 2 else raw[: rng.integers(0, len(raw))])
        try:
            read_torch_file(path)
        except EdgesparseError:
            n_refused += 1
    assert n_refused > 1000


# ---- the projects' files -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config():
    with load_tiny(MODEL) as model:
        return model.config


def test_teal(config, tmp_path: Path) -> None:
    """Quantiles of a normal distribution, at shares from the table or the same for all."""
    plain = tmp_path / "plain"
    shutil.copytree(TEAL / "histograms", plain)
    found = import_thresholds(plain, config, "f", method="teal", sparsity=0.5)
    scales = {"qkv": 1.0, "attn_output": 2.0, "gate_up": 0.5, "down": 4.0}
    assert found.thresholds.keys() == {f"blk.0.{name}" for name in scales}
    for name, scale in scales.items():
        assert found.thresholds[f"blk.0.{name}"] == pytest.approx(0.6745 * scale, rel=0.02)
        assert found.achieved[f"blk.0.{name}"] == pytest.approx(0.5, abs=1e-3)
    # the row nearest to 0.5; q is 8 times as large as k and as v
    greedy = import_thresholds(TEAL, config, "f", method="teal", sparsity=0.45)
    expected = {"qkv": (8 * 0.5 + 0.4 + 0.3) / 10, "attn_output": 0.65, "gate_up": 0.45}
    for name, share in (expected | {"down": 0.6}).items():
        assert greedy.achieved[f"blk.0.{name}"] == pytest.approx(share, abs=1e-3)


def test_chess_and_cats(config) -> None:
    found = import_thresholds(CHESS, config, "f", method="chess")
    assert found.sparsity == 0.5
    assert found.thresholds["blk.0.attn_output"] == 0.125
    factors = found.thresholds["blk.0.gate_up"]
    assert isinstance(factors, np.ndarray)
    np.testing.assert_allclose(1 / factors[1:16], np.arange(1, 16) / 64, rtol=1e-6)
    assert factors[0] == pytest.approx(1e29)  # a threshold of 0 keeps everything
    cats = import_thresholds(CHESS, config, "f", method="cats", sparsity=0.3)
    assert cats.thresholds == {"blk.0.gate_up": 0.0625}
    assert cats.sparsity == 0.3


@pytest.mark.parametrize(("method", "source"), [("teal", TEAL), ("chess", CHESS), ("cats", CHESS)])
def test_the_verb_writes_what_a_model_can_be_loaded_with(
    method: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    model = str(tiny.path(MODEL))
    arguments = ["calibrate", model, "--from", str(source), "--method", method, "-o", str(out)]
    assert main(arguments) == 0
    assert "blk.0.gate_up" in capsys.readouterr().out
    with load_tiny(MODEL, sparsity=out) as loaded:
        ops = [op for op in loaded.engine.plan.ops if isinstance(op, Linear)]
        pruned = [op for op in ops if op.threshold or any(o.live_threshold for o in op.outputs)]
        assert pruned
        assert method in loaded.info.quality
    other = ["calibrate", str(tiny.path("qwen2-f16.gguf")), "--from", str(source)]
    assert main([*other, "--method", method, "-o", str(tmp_path / "other.json")]) == 3
    assert not (tmp_path / "other.json").exists()
    assert main([*arguments, "-f", "text"]) == 2


def test_foreign_and_broken_files_are_refused(config, tmp_path: Path) -> None:
    def teal(edit: Callable[[Path], None]) -> Path:
        folder = tmp_path / "teal"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(TEAL, folder)
        edit(folder)
        return folder

    def table(text: str) -> Callable[[Path], None]:
        file = Path("lookup/layer-0/results.csv")
        return lambda folder: (folder / file).write_text(text) and None

    head = "Effective Sparsity,q,k,v,o,gate,up,down\n"
    folders: list[tuple[Callable[[Path], None], str]] = [
        (lambda f: (f / "histograms" / "layer-1").mkdir(), "found 2 layers"),
        (lambda f: shutil.rmtree(f / "histograms" / "layer-0" / "mlp"), "no such file"),
        (table("a,b\n1,2\n"), "no table of shares"),
        (table(head), "no rows"),
        (table(head + "0.5,1.5,0,0,0,0,0,0\n"), "not within 0 and 1"),
        (table(head + "0.5,nan,0,0,0,0,0,0\n"), "not within 0 and 1"),
        (table(head + "0.5,x,0,0,0,0,0,0\n"), "no table of shares"),
        (
            lambda f: (
                shutil.copy(CHESS, f / "histograms" / "layer-0" / "mlp" / "histograms.pt") and None
            ),
            "h1",
        ),
    ]
    for edit, message in folders:
        with pytest.raises(EdgesparseError, match=message):
            import_thresholds(teal(edit), config, "f", method="teal")
    good = entries_of(CHESS)
    # 2 bytes each: channels in data/3
    poisoned = archive(good | {"data/3": good["data/3"][:-2] + b"\xc0\x7f"})
    negative = archive(good | {"data/1": b"\x00\xbf"})
    for raw, message in ((poisoned, "no size"), (negative, "no size")):
        path = tmp_path / "c.pt"
        path.write_bytes(raw)
        with pytest.raises(CalibrationError, match=message):
            import_thresholds(path, config, "f", method="chess")
    with pytest.raises(CalibrationError, match="expected gate_proj"):
        import_thresholds(TENSORS, config, "f", method="chess")
    for share in (0, -1, 0.95, float("nan")):
        with pytest.raises(UsageError, match="sparsity must be"):
            import_thresholds(TEAL, config, "f", method="teal", sparsity=share)
    with pytest.raises(ModelNotFound, match="no such path"):
        import_thresholds(tmp_path / "none", config, "f", method="teal")
    for source, method, what in ((CHESS, "teal", "a folder"), (TEAL, "chess", "a .pt file")):
        with pytest.raises(UsageError, match=f"thresholds of {method} are {what}"):
            import_thresholds(source, config, "f", method=method)
    with load_tiny("qwen2moe-blocks.gguf") as experts, pytest.raises(UsageError, match="experts"):
        import_thresholds(TEAL, experts.config, "f", method="teal")
    with pytest.raises(UsageError, match="cannot be imported"):
        import_thresholds(TEAL, config, "f", method="sparseinfer")
