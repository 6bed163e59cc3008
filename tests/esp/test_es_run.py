"""The C runner prints the digests of the engine in Python, on this CPU and on emulated ones."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import edgesparse
from edgesparse.checkpoint import TensorType, open_checkpoint
from edgesparse.default_model import default_model_path
from edgesparse.executors.native import isa_names
from tests.esp.pack_tiny import write_samples
from tests.esp.packing import PROMPT, ROOT, es_run, greedy, pack
from tests.models import tiny
from tests.models.test_gate_thresholds import gguf_model

HOST, ARM = ROOT / "build/run/es_run", ROOT / "build/arm/es_run"
SANITIZED = ROOT / "build/sanitize/es_run"
FUZZ = ROOT / "build/run/es_fuzz"
CPUS = ("cortex-a72", "cortex-a76", "max")


def _emulated() -> list[list[str]]:
    if not ARM.exists() or shutil.which("qemu-aarch64") is None:
        return []
    return [["qemu-aarch64", "-cpu", cpu, str(ARM)] for cpu in CPUS]


needs_host = pytest.mark.skipif(not HOST.exists(), reason="'make es-run' builds it")
needs_arm = pytest.mark.skipif(not _emulated(), reason="'make check-arm' builds it")


@needs_host
def test_default_model_here(tmp_path: Path) -> None:
    source = default_model_path()
    path = pack(source, tmp_path / "model.esp")
    with edgesparse.load(source, threads=2) as model:
        prompt = model.tokenize("Once upon a time", add_special=True)
        expected = greedy(model, prompt, 16)
    assert len(expected) == 16
    n_cases = 0
    for isa in isa_names():
        for threads in ("1", "3"):
            assert es_run([str(HOST)], path, prompt, "--isa", isa, "-t", threads) == expected
            n_cases += 1
    assert n_cases == 2 * len(isa_names()) >= 2


@needs_host
@pytest.mark.parametrize("name", tiny.NAMES)
def test_every_family(name: str, tmp_path: Path) -> None:
    path = pack(tiny.FOLDER / name, tmp_path / "model.esp", cache_type_v="q8_0")
    with edgesparse.load(path, threads=2, cache_type_v="q8_0") as model:
        expected = greedy(model, PROMPT, 8)
    assert es_run([str(HOST)], path, PROMPT, "-n", "8", "-t", "2") == expected
    for program in _emulated()[:2]:
        assert es_run(program, path, PROMPT, "-n", "8") == expected


@needs_host
@pytest.mark.parametrize("kind", ["fatrelu", "shiftrelu"])
@pytest.mark.parametrize("experts", [False, True])
def test_thresholds_of_gates(kind: str, experts: bool, tmp_path: Path) -> None:
    path = pack(gguf_model(tmp_path, kind, experts=experts), tmp_path / "model.esp")
    with edgesparse.load(path, threads=2) as model:
        expected = greedy(model, PROMPT, 8)
    for program in [[str(HOST)], *_emulated()[:2]]:
        assert es_run(program, path, PROMPT, "-n", "8", "-t", "2") == expected


def _repacked(source: Path, target: Path) -> int:
    """Pack the 128/32 I2_S tensors of a file in groups of 64/16; count them."""
    import numpy as np

    raw, n_tensors = bytearray(source.read_bytes()), 0
    with open_checkpoint(source) as checkpoint:
        for info in checkpoint.tensors.values():
            if info.type is not TensorType.I2_S_128X32:
                continue
            end = info.offset + info.n_bytes - 32
            packed = np.frombuffer(bytes(raw[info.offset : end]), np.uint8).reshape(-1, 32)
            codes = np.stack([packed >> s & 3 for s in (6, 4, 2, 0)], axis=1).reshape(-1, 4, 16)
            new = codes[:, 0] << 6 | codes[:, 1] << 4 | codes[:, 2] << 2 | codes[:, 3]
            raw[info.offset : end] = new.astype(np.uint8).tobytes()
            n_tensors += 1
    target.write_bytes(raw)
    return n_tensors


@needs_host
def test_both_packings_of_i2_s(tmp_path: Path) -> None:
    """128/32 and 64/16 hold the same weights: one digest, on this CPU and on emulated ARM."""
    source, other = tiny.FOLDER / "bitnet-i2_s.gguf", tmp_path / "64x16.gguf"
    assert _repacked(source, other) > 6
    assert other.read_bytes() != source.read_bytes()
    wide = pack(source, tmp_path / "wide.esp", i2s_layout="128x32")
    narrow = pack(other, tmp_path / "narrow.esp", i2s_layout="64x16")
    digests = {
        tuple(es_run(program, path, PROMPT, "-n", "8"))
        for program in [[str(HOST)], *_emulated()]
        for path in (wide, narrow)
    }
    with edgesparse.load(source, threads=1) as model:
        assert digests == {tuple(greedy(model, PROMPT, 8))}


@pytest.mark.slow
@needs_arm
def test_default_model_on_emulated_arm(tmp_path: Path) -> None:
    source = default_model_path()
    path = pack(source, tmp_path / "model.esp")
    with edgesparse.load(source, threads=2) as model:
        prompt = model.tokenize("Once upon a time", add_special=True)
        expected = greedy(model, prompt, 16)
    found = [es_run(program, path, prompt) for program in _emulated()]
    assert found == [expected] * len(CPUS)


@needs_host
def test_a_mapped_file_gives_the_same(tmp_path: Path) -> None:
    import subprocess

    path = pack(tiny.FOLDER / "bitnet-tq2_0.gguf", tmp_path / "model.esp")
    expected = es_run([str(HOST)], path, PROMPT, "-n", "4")
    assert es_run([str(HOST)], path, PROMPT, "-n", "4", "--mmap") == expected
    path.chmod(0o620)
    done = subprocess.run([HOST, path, "--mmap", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "others can write this file" in done.stderr
    assert es_run([str(HOST)], path, PROMPT, "-n", "4") == expected


@needs_host
def test_damaged_files_of_every_kind(tmp_path: Path) -> None:
    """What `make sanitize` tries a thousand times for each file, here a few times."""
    import re
    import subprocess

    paths = write_samples(tmp_path)
    command = [str(FUZZ), "100", "5000", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done
    found = re.fullmatch(
        r"es_fuzz: (\d+) mutants of \d+ files: (\d+) refused by the reader, (\d+) by the engine, "
        r"(\d+) ran \(\w+\)\n",
        done.stdout,
    )
    assert found is not None, done.stdout
    n_all, *ends = map(int, found.groups())
    assert n_all == sum(ends) == 100 * len(paths) >= 1000
    assert min(ends) >= 100


@needs_host
def test_broken_files_are_refused(tmp_path: Path) -> None:
    """Every length and every flipped bit of what is read first: one message, exit code 3."""
    import subprocess

    import numpy as np

    good = pack(tiny.FOLDER / "bitnet-tq1_0.gguf", tmp_path / "good.esp").read_bytes()
    path, rng, n_cases = tmp_path / "bad.esp", np.random.default_rng(0), 0
    lengths = [0, 1, 39, 40, 41, 4000, len(good) - 1]
    broken = [good[:length] for length in lengths]
    for at in [*range(40), *rng.integers(40, 4000, 40), *rng.integers(0, len(good), 20)]:
        raw = bytearray(good)
        raw[int(at)] ^= 4
        broken.append(bytes(raw))
    for raw in broken:
        path.write_bytes(raw)
        done = subprocess.run([HOST, path, "1"], capture_output=True, text=True, check=False)
        # A bit in the zeros between sections changes nothing.
        assert done.returncode in (0, 3), done
        assert done.returncode == 0 or done.stderr.count("\n") == 1
        n_cases += done.returncode == 3
    assert n_cases >= 70
    assert subprocess.run([HOST], capture_output=True, check=False).returncode == 2
    assert subprocess.run([HOST, os.devnull, "1"], capture_output=True, check=False).returncode == 3


@needs_host
def test_plans_that_lie_are_refused(tmp_path: Path) -> None:
    """Numbers of the plan at their extremes, checksums right: refused or harmless, never a signal.

    The runner of `make sanitize` serves where it was built: it aborts on what this one survives.
    """
    import struct
    import subprocess
    import zlib

    import numpy as np

    from edgesparse.checkpoint.source import SourceFile
    from edgesparse.esp.layout import ENTRY, HEADER, read_table

    good = pack(tiny.FOLDER / "mixtral-tq2_0.gguf", tmp_path / "good.esp").read_bytes()
    sections = read_table(SourceFile(str(tmp_path / "good.esp")))
    number, plan = next((i, s) for i, s in enumerate(sections) if s.name == "plan")
    values = (0, -1, 1, 2, 7, 64, 1 << 16, 2**31 - 1, -(2**31))
    path, rng = tmp_path / "bad.esp", np.random.default_rng(1)
    program = SANITIZED if SANITIZED.exists() else HOST
    codes: dict[int, int] = {}
    words = [*range(14), *rng.integers(14, plan.n_bytes // 4, 230)]
    for word in words:
        raw = bytearray(good)
        value = values[int(rng.integers(len(values)))]
        struct.pack_into("<i", raw, plan.offset + 4 * int(word), value)
        body = bytes(raw[plan.offset : plan.offset + plan.n_bytes])
        at = HEADER.size + number * ENTRY.size
        struct.pack_into("<I", raw, at + 32, zlib.crc32(body))
        table = bytes(raw[HEADER.size : HEADER.size + len(sections) * ENTRY.size])
        struct.pack_into("<I", raw, 32, zlib.crc32(table))
        struct.pack_into("<I", raw, 36, zlib.crc32(bytes(raw[:36])))
        path.write_bytes(raw)
        done = subprocess.run(
            [program, path, "-n", "2", "3", "5"], capture_output=True, check=False, timeout=60
        )
        assert done.returncode in (0, 1, 3), (int(word), value, done)
        assert done.stderr.count(b"\n") == (done.returncode != 0), done
        codes[done.returncode] = codes.get(done.returncode, 0) + 1
    assert sum(codes.values()) == len(words) == 244
    assert codes[1] + codes[3] > 60
