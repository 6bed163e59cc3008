"""The verb prune: what it writes, what it refuses, and how it goes on after an interruption."""

from __future__ import annotations

import errno
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgesparse.checkpoint import open_checkpoint
from edgesparse.checkpoint.names import is_projection
from edgesparse.checkpoint.safetensors import read_safetensors
from edgesparse.checkpoint.source import SourceFile
from edgesparse.cli.program import run
from edgesparse.compress import gguf_out, own_text
from edgesparse.compress import prune as prune_module
from edgesparse.compress.layers import read_matrix
from edgesparse.compress.patterns import n_zeros
from edgesparse.compress.store import STORES
from edgesparse.compress.work import Work
from tests.models import tiny

DENSE = (
    *("llama-floats.gguf", "llama-blocks.gguf", "llama-k.gguf", "llama-relu.gguf", "llama-bf16"),
    *("qwen2-f16.gguf", "qwen3-bf16", "gemma3-f16.gguf"),
)
FAST = ["--windows", "2", "--no-evaluate", "-q"]


def prune(source: str, out: Path, *flags: str) -> int:
    return run(["prune", str(tiny.path(source)), str(out), *FAST, *flags])


def matrices(path: Path) -> dict[str, np.ndarray]:
    with open_checkpoint(path) as checkpoint:
        names = [name for name in checkpoint.tensors if is_projection(name)]
        return {name: read_matrix(checkpoint, name) for name in names}


def test_every_family_and_method_has_exact_counts(tmp_path, capsys):
    n_matrices = 0
    methods = itertools.cycle(("magnitude", "wanda", "sparsegpt"))
    shares = itertools.cycle((("--sparsity", "0.5"), ("--pattern", "2:4"), ("--sparsity", "0.7")))
    for source, method, share in zip(DENSE, methods, shares, strict=False):
        out = tmp_path / f"{source}.out.gguf"
        assert prune(source, out, "--method", method, *share) == 0, capsys.readouterr().err
        before = matrices(tiny.path(source))
        for name, weight in matrices(out).items():
            zeros = weight == 0
            if (before[name] == 0).any():  # rounded to 0 already, and not all of those chosen
                assert zeros.sum() >= n_zeros(weight.size, 0.5)
                n_matrices += 1
                continue
            if share[0] == "--pattern":
                assert (zeros.reshape(len(zeros), -1, 4).sum(axis=2) == 2).all(), name
            elif method == "wanda":
                assert (zeros.sum(axis=1) == n_zeros(weight.shape[1], float(share[1]))).all(), name
            else:  # matrices as narrow as these are one block for SparseGPT
                assert zeros.sum() == n_zeros(weight.size, float(share[1])), name
            n_matrices += 1
    assert n_matrices == 8 * 2 * 7


def test_everything_else_stays_as_it_is(tmp_path):
    out = tmp_path / "out.gguf"
    assert prune("llama-blocks.gguf", out) == 0
    n_same = 0
    with open_checkpoint(tiny.path("llama-blocks.gguf")) as old, open_checkpoint(out) as new:
        assert list(old.tensors) == list(new.tensors)
        for name in old.tensors:
            if not is_projection(name):
                assert np.array_equal(old.read(name), new.read(name))
                n_same += 1
        assert new.get_str("edgesparse.pruning.method") == "sparsegpt"
        assert new.get_str("edgesparse.pruning.pattern") == "unstructured"
        assert new.get_float("edgesparse.pruning.sparsity") == 0.5
    assert n_same >= 5


@pytest.mark.parametrize("store", ["f16", "bf16", "int8", "int4"])
def test_zeros_stay_zeros_in_every_store(tmp_path, store):
    out = tmp_path / "out.gguf"
    assert prune("llama-k.gguf", out, "--pattern", "4:8", "--store", store) == 0
    for weight in matrices(out).values():
        assert ((weight != 0).reshape(len(weight), -1, 8).sum(axis=2) <= 4).all()


def test_stores_round_as_their_readers_read():
    rng, n_cases = np.random.default_rng(8), 0
    for store, scale in itertools.product(STORES.values(), (0.0, 0.01, 1.0, 300.0)):
        weight = (rng.standard_normal((6, 96)) * scale).astype(np.float32)
        weight[weight > scale] = 0
        data, stored = store.encode(weight)
        assert np.array_equal(store.decode(data, weight.shape), stored)
        assert data.nbytes == store.n_bytes((6, 96))
        assert not stored[weight == 0].any()
        steps = {"f32": 0, "bf16": 2**-8, "f16": 2**-11, "int8": 1 / 200, "int4": 1 / 13}
        assert np.abs(stored - weight).max() <= steps[store.name] * np.abs(weight).max() + 3e-8
        n_cases += 1
    assert n_cases == 20


def test_a_folder_of_bitmasks(tmp_path):
    """Read by the definition of the format, with no reader of ours."""
    out = tmp_path / "out"
    assert prune("llama-bf16", out, "--method", "wanda") == 0
    source = tiny.path("llama-bf16")
    assert (out / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors"
    assert config["sparsity_config"]["format"] == "sparse-bitmask"
    assert config["sparsity_config"]["global_sparsity"] == pytest.approx(0.5)
    old, new = tensors(source / "model.safetensors"), tensors(out / "model.safetensors")
    n_matrices = n_copied = 0
    for name, (dtype, shape, data) in old.items():
        stem = name.removesuffix(".weight")
        if f"{stem}.bitmask" not in new:
            assert new[name] == (dtype, shape, data)
            n_copied += 1
            continue
        dense = np.frombuffer(data, "<u2").reshape(shape)
        kept = np.unpackbits(
            np.frombuffer(new[f"{stem}.bitmask"][2], np.uint8).reshape(shape[0], -1),
            *(1,),
            bitorder="little",
        )[:, : shape[1]].astype(bool)
        assert (kept.sum(axis=1) == shape[1] - shape[1] // 2).all()
        values = np.frombuffer(new[f"{stem}.compressed"][2], "<u2")
        assert new[f"{stem}.compressed"][0] == dtype
        assert np.array_equal(values, dense[kept])  # Wanda leaves survivors alone
        offsets = np.frombuffer(new[f"{stem}.row_offsets"][2], "<i8")
        assert np.array_equal(offsets, np.cumsum(kept.sum(axis=1)) - kept.sum(axis=1))
        assert np.frombuffer(new[f"{stem}.shape"][2], "<i8").tolist() == list(shape)
        n_matrices += 1
    assert n_matrices == 14
    assert n_copied >= 5
    assert not list(tmp_path.glob(".out*"))


def tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    file = SourceFile(str(path))
    try:
        return {
            t.name: (t.dtype, t.shape, bytes(file.read_at(t.offset, t.n_bytes, t.name)))
            for t in read_safetensors(file)
        }
    finally:
        file.close()


def test_it_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    whole, out = tmp_path / "whole.gguf", tmp_path / "out.gguf"
    assert prune("llama-floats.gguf", whole) == 0
    real, calls = prune_module._prune, []

    def stopping(matrix, *rest):
        calls.append(matrix.name)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return real(matrix, *rest)

    monkeypatch.setattr(prune_module, "_prune", stopping)
    assert prune("llama-floats.gguf", out) == 130
    assert not out.exists()
    assert prune("llama-floats.gguf", out) == 0
    assert len(calls) == 10 + 5  # nine of fourteen were kept
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_other_options_do_not_reuse_what_was_kept(tmp_path, monkeypatch):
    out, real, calls = tmp_path / "out.gguf", prune_module._prune, []

    def stopping(matrix, *rest):
        calls.append(matrix.name)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(matrix, *rest)

    monkeypatch.setattr(prune_module, "_prune", stopping)
    assert prune("llama-floats.gguf", out) == 130
    assert prune("llama-floats.gguf", out, "--sparsity", "0.6") == 0
    assert len(calls) == 5 + 14


def test_owl_spreads_the_share(tmp_path, capsys):
    out = tmp_path / "out.gguf"
    flags = ["--windows", "2", "--no-evaluate", "--json", "--owl", "--sparsity", "0.7"]
    source = str(tiny.path("llama-floats.gguf"))
    assert run(["prune", source, str(out), "--method", "wanda", *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    shares = [row["sparsity"] for row in found["layers"]]
    assert np.mean(shares) == pytest.approx(0.7, abs=0.02)  # rows of 32 round down
    assert max(shares) - min(shares) == pytest.approx(0.16, abs=0.04)


def test_the_report_names_the_price(tmp_path, capsys):
    out = tmp_path / "out.gguf"
    source = str(tiny.path("llama-floats.gguf"))
    assert run(["prune", source, str(out), "--windows", "2", "--pattern", "2:4"]) == 0
    text = capsys.readouterr().out
    assert "perplexity of text that was left out" in text
    assert "50.00% of the weights of all layers are 0" in text
    assert re.search(r"out.gguf written, \d\.\d MB, \d\.\d MB before\n", text)
    assert len([line for line in text.splitlines() if line.strip()[:1].isdigit()]) == 2


def test_folders_are_scored_too(tmp_path, capsys):
    found = []
    for out in (tmp_path / "out", tmp_path / "out.gguf"):
        flags = ["--windows", "2", "--json", "--store", "bf16"]
        assert run(["prune", str(tiny.path("qwen3-bf16")), str(out), *flags]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["perplexity_after"] == found[1]["perplexity_after"]
    assert found[0]["perplexity_before"] != found[0]["perplexity_after"]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("source", "flags", "words"),
    [
        ("bitnet-tq2_0.gguf", [], "trained to be ternary"),
        ("bitnet-packed", [], "trained to be ternary"),
        ("llama-floats.gguf", ["--pattern", "3:5"], "no pattern"),
        ("llama-floats.gguf", ["--sparsity", "1.5"], "sparsity must be"),
        ("llama-floats.gguf", ["--pattern", "2:4", "--owl"], "same in all"),
        ("llama-floats.gguf", ["--windows", "0"], "--windows"),
        ("llama-floats.gguf", ["-t", "0"], "threads must be"),
        ("llama-floats.gguf", ["-f", "SHORT"], "256 are needed. Take a longer text."),
    ],
)
def test_refusals(tmp_path, capsys, source, flags, words):
    short = tmp_path / "short.txt"
    short.write_text("Once upon a time")
    flags = [str(short) if flag == "SHORT" else flag for flag in flags]
    assert prune(source, tmp_path / "out.gguf", *flags) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [short]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("-f", "tokens; 1280 are needed, 1024 of them, at its end, to measure perplexity. Take"),
        ("-e", "tokens; 512 are needed to measure perplexity. Take a longer text."),
    ],
)
def test_short_texts_are_refused_before_anything_is_done(tmp_path, capsys, flag, words):
    short, source = tmp_path / "short.txt", str(tiny.path("llama-floats.gguf"))
    short.write_text("Once upon a time")
    assert run(["prune", source, str(tmp_path / "out.gguf"), flag, str(short)]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [short]


def test_fewer_windows_than_wanted_are_said(tmp_path, capsys):
    text, source = tmp_path / "text.txt", str(tiny.path("llama-floats.gguf"))
    text.write_text("Once upon a time there was a king. " * 400)
    argv = ["prune", source, str(tmp_path / "out.gguf"), "-f", str(text), "--windows", "64"]
    assert run([*argv, "--no-evaluate"]) == 0
    assert "windows of 256 tokens, not 64" in capsys.readouterr().err


def test_a_full_disk_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    real, n_written = Work.put, itertools.count()

    def put(self, name, arrays):
        if next(n_written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, name, arrays)

    monkeypatch.setattr(Work, "put", put)
    out = tmp_path / "out.gguf"
    assert prune("llama-floats.gguf", out) == 1
    said = capsys.readouterr().err
    assert f"{out} cannot be written (No space left on device); what is finished is kept." in said
    source = str(tiny.path("llama-floats.gguf"))
    assert run(["prune", source, str(out), "--windows", "2", "--no-evaluate"]) == 0
    assert "going on: 3 matrices are finished already" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [out]

    def write(*args):
        raise OSError("4096 requested and 0 written")  # as numpy puts it

    monkeypatch.setattr(gguf_out, "_write", write)
    assert prune("llama-floats.gguf", out, "-y") == 1
    assert "(4096 requested and 0 written)" in capsys.readouterr().err


def test_a_folder_without_permission(tmp_path, monkeypatch, capsys):
    def mkdir(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert prune("llama-floats.gguf", tmp_path / "out.gguf") == 2
    assert "out.gguf cannot be written (Permission denied)." in capsys.readouterr().err


KILLED = """
import sys
from edgesparse.cli.program import run
from edgesparse.compress import gguf_out, prune
real, calls = prune._prune, []

def slow(matrix, *rest):
    calls.append(matrix.name)
    if len(calls) == 5:
        print("five", flush=True)
        sys.stdin.read()  # until killed
    return real(matrix, *rest)

def stopping(path, metadata, tensors):
    path.write_bytes(b"half a file")
    print("writing", flush=True)
    sys.stdin.read()

prune._prune = slow if sys.argv.pop(1) == "five" else real
gguf_out._write = stopping
run(sys.argv[1:])
"""


def test_killed_twice_it_still_comes_to_the_same_bytes(tmp_path):
    """By a signal that nothing can catch: among the matrices, and while the file is written."""
    whole, out = tmp_path / "whole.gguf", tmp_path / "out.gguf"
    assert prune("llama-floats.gguf", whole) == 0
    for where, n_finished in (("five", 4), ("writing", 14)):
        argv = [sys.executable, "-c", KILLED, where, "prune", str(tiny.path("llama-floats.gguf"))]
        with subprocess.Popen(
            [*argv, str(out), *FAST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline().strip() == where
            process.kill()
        work = tmp_path / ".out.gguf.work"
        assert len(list(work.glob("*.npz"))) == n_finished
        assert sorted(p.name for p in tmp_path.iterdir()) == [work.name, whole.name]
    assert prune("llama-floats.gguf", out) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(tmp_path.iterdir()) == [out, whole]


def test_refusals_of_outputs(tmp_path, capsys):
    source, out = "llama-floats.gguf", tmp_path / "out.gguf"
    out.write_bytes(b"mine")
    assert prune(source, out) == 2
    assert "Add -y" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    assert prune(source, tmp_path / "folder") == 2
    assert "Hugging Face folder" in capsys.readouterr().err
    assert prune(source, tmp_path / "none" / "out.gguf") == 2
    assert f"there is no folder {tmp_path / 'none'}" in capsys.readouterr().err
    copy = tmp_path / "in.gguf"
    copy.write_bytes(tiny.path(source).read_bytes())
    for verb, *rest in (("prune",), ("quantize", "w4_g32")):
        assert run([verb, str(copy), str(copy), *rest, "-y"]) == 2
        assert "IN and OUT are the same" in capsys.readouterr().err
    (tmp_path / "folder.gguf").mkdir()
    assert prune(source, tmp_path / "folder.gguf", "-y") == 2
    assert "it is a folder" in capsys.readouterr().err
    assert prune("llama-bf16", out, "-y") == 0
    (tmp_path / "file").write_bytes(b"mine")
    assert prune("llama-bf16", tmp_path / "file", "-y") == 2
    assert "it is a file" in capsys.readouterr().err
    assert prune("llama-bf16", tmp_path / "folder", "--store", "int8") == 2
    assert "--store int8 is for .gguf" in capsys.readouterr().err
    assert prune(source, out, "-y") == 0
    assert out.read_bytes()[:4] == b"GGUF"


def test_a_model_writes_its_own_text(tmp_path, monkeypatch, capsys):
    """Twice the same, kept while the work is unfinished, gone with it."""
    outs = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    flags = ("--own-text", "--sparsity", "0.5")
    assert prune("llama-floats.gguf", outs[0], *flags) == 0, capsys.readouterr().err
    real = prune_module.compress_layers

    def stopping(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(prune_module, "compress_layers", stopping)
    assert prune("llama-floats.gguf", outs[1], *flags) == 130
    kept = tmp_path / ".b.gguf.text"
    assert len(kept.read_text("utf-8")) > 100
    monkeypatch.setattr(prune_module, "compress_layers", real)
    monkeypatch.setattr(own_text, "write_own_text", lambda *args, **kwargs: 1 / 0)
    assert prune("llama-floats.gguf", outs[1], *flags) == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert not list(tmp_path.glob(".*"))
    assert prune("llama-floats.gguf", outs[0], "--own-text", "-f", "x") == 2
