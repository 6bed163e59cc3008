"""Pre-packed files: the same bits as the model they were made of; every lie is one typed error."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import edgesparse
from edgesparse.checkpoint import open_checkpoint
from edgesparse.checkpoint.gguf_header import read_header
from edgesparse.checkpoint.source import SourceFile
from edgesparse.checkpoint.strings import StringArray
from edgesparse.cli import main
from edgesparse.errors import EdgesparseError, ModelFormatError, UsageError
from edgesparse.esp.layout import ENTRY, HEADER, MAGIC, Section, pack_table, place, read_table
from edgesparse.esp.metadata import pack_metadata
from tests.esp.packing import PROMPT, pack
from tests.models import tiny


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("esp")
    return pack(tiny.FOLDER / "bitnet-tq1_0.gguf", folder / "model.esp")


@pytest.mark.parametrize("name", tiny.NAMES)
def test_same_weights_same_logits_same_tokens(name: str, tmp_path: Path) -> None:
    path = pack(tiny.FOLDER / name, tmp_path / "model.esp")
    n_cases = 0
    for mapped in (False, True):
        with (
            edgesparse.load(tiny.FOLDER / name, threads=2) as old,
            edgesparse.load(path, threads=2, mmap=mapped) as new,
        ):
            assert new.parameters.weights.keys() == old.parameters.weights.keys()
            for key, weight in old.parameters.weights.items():
                found = new.parameters.weights[key]
                assert found.format is weight.format
                assert np.array_equal(found.data, weight.data)
                assert np.array_equal(found.scales, weight.scales)
                assert found.data.ctypes.data % 64 == 0
            assert new.engine.plan == old.engine.plan
            assert np.array_equal(new.logits(PROMPT), old.logits(PROMPT))
            text = "Once upon a time, 12 cats."
            assert new.tokenize(text) == old.tokenize(text)
            assert new.info.quality == old.info.quality
            assert new.info.formats == old.info.formats
            assert new.info.recommended.changes == old.info.recommended.changes
            n_cases += 1
    assert n_cases == 2


def test_nothing_is_repacked(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgesparse import loading

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("repacked")

    monkeypatch.setattr(loading, "load_weights", fail)
    with edgesparse.load(packed, threads=1) as model:
        assert np.isfinite(model.logits(PROMPT)).all()


def test_metadata_comes_back(tmp_path: Path) -> None:
    values = {
        "a.flag": True,
        "a.int": -(1 << 40),
        "a.large": (1 << 64) - 1,
        "a.float": 0.1,
        "a.text": "ü\n",
        "a.strings": StringArray.pack(["", "é", "x" * 300]),
        "a.numbers": np.arange(5, dtype=np.int32),
        "a.floats": np.array([1.5, -2.0], np.float32),
        "a.list": [1, 2, 3],
        "split.count": 1,
    }
    path = tmp_path / "metadata"
    path.write_bytes(pack_metadata(values))
    found = read_header(SourceFile(str(path))).metadata
    assert found.keys() == values.keys() - {"split.count"}
    for key, value in found.items():
        assert (
            np.array_equal(np.asarray(list(value)), np.asarray(list(values[key])))
            if hasattr(value, "__len__")
            else value == values[key]
        )


def _fixed(raw: bytearray) -> bytes:
    """Make the checksums of header and table match again."""
    count = struct.unpack_from("<I", raw, 12)[0]
    table = bytes(raw[HEADER.size : HEADER.size + count * ENTRY.size])
    struct.pack_into("<I", raw, 32, zlib.crc32(table))
    struct.pack_into("<I", raw, 36, zlib.crc32(bytes(raw[:36])))
    return bytes(raw)


def _refused(path: Path, raw: bytes) -> str:
    path.write_bytes(raw)
    with pytest.raises(ModelFormatError) as caught:
        edgesparse.load(path, threads=1).close()
    return caught.value.kind


def test_every_lie_of_the_container_is_refused(packed: Path, tmp_path: Path) -> None:
    good, target = packed.read_bytes(), tmp_path / "bad.esp"
    kinds: Counter[str] = Counter()
    for offset in range(HEADER.size):  # any bit of the header
        raw = bytearray(good)
        raw[offset] ^= 1 << offset % 8
        kinds[_refused(target, bytes(raw))] += 1
    for offset in range(HEADER.size, HEADER.size + 3 * ENTRY.size):
        raw = bytearray(good)
        raw[offset] ^= 0x10
        kinds[_refused(target, bytes(raw))] += 1
        kinds[_refused(target, _fixed(raw))] += 1  # somebody who knows checksums
    extremes = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, len(good))
    for value in extremes:
        for at in (HEADER.size + 16, HEADER.size + 24, 16):
            raw = bytearray(good)
            if struct.unpack_from("<Q", raw, at)[0] == value:
                continue
            struct.pack_into("<Q", raw, at, value)
            kinds[_refused(target, _fixed(raw))] += 1
        raw = bytearray(good)
        struct.pack_into("<I", raw, 12, min(value, 2**32 - 1))
        front = bytearray(raw[: HEADER.size])
        struct.pack_into("<I", front, 36, zlib.crc32(bytes(front[:36])))
        kinds[_refused(target, bytes(front) + bytes(raw[HEADER.size :]))] += 1
    for length in [*range(64), *range(64, len(good), max(1, len(good) // 40))]:
        kinds[_refused(target, good[:length])] += 1
    kinds[_refused(target, good + b"\0")] += 1
    assert kinds.total() > 400
    assert set(kinds) <= {"truncated", "value", "unsupported", "limit", "layout", "missing"}


def test_every_bit_of_the_sections_is_covered(packed: Path, tmp_path: Path) -> None:
    good, target = packed.read_bytes(), tmp_path / "bad.esp"
    sections = read_table(SourceFile(str(packed)))
    index = json.loads(next(_body(good, s) for s in sections if s.name == "index"))
    records = [*index["weights"], *index["vectors"]]
    # Rotary tables and the plan are for es_run alone.
    numbers = {r[key] for r in records for key in ("data", "scales") if key in r}
    small = ("index", "metadata")
    used = [s for i, s in enumerate(sections) if i in numbers or s.name in small]
    rng = np.random.default_rng(0)
    n_cases = 0
    for section in (used[i] for i in rng.integers(0, len(used), 60)):
        raw = bytearray(good)
        raw[section.offset + int(rng.integers(section.n_bytes))] ^= 1 << int(rng.integers(8))
        kind = _refused(target, bytes(raw))
        assert kind == "value", section
        n_cases += 1
    assert n_cases == 60


def _body(raw: bytes, section: Section) -> bytes:
    return raw[section.offset : section.offset + section.n_bytes]


def _with_index(packed: Path, change: object) -> bytes:
    """Rewrite a file with another index, checksums and all."""
    sections, good = read_table(SourceFile(str(packed))), packed.read_bytes()
    bodies = [_body(good, s) for s in sections]
    at = [s.name for s in sections].index("index")
    index = json.loads(bodies[at])
    changed = change(index)  # type: ignore[operator]
    bodies[at] = json.dumps(index if changed is None else changed).encode()
    offsets = place([len(body) for body in bodies])
    table = [
        Section(s.name, offset, len(body), zlib.crc32(body))
        for s, offset, body in zip(sections, offsets, bodies, strict=True)
    ]
    raw = bytearray(offsets[-1] + len(bodies[-1]))
    front = pack_table(table)
    raw[: len(front)] = front
    for offset, body in zip(offsets, bodies, strict=True):
        raw[offset : offset + len(body)] = body
    return bytes(raw)


def test_every_lie_of_the_index_is_refused(packed: Path, tmp_path: Path) -> None:
    target = tmp_path / "bad.esp"
    target.write_bytes(_with_index(packed, lambda index: None))
    edgesparse.load(target, threads=1).close()
    n_cases = 0
    for value in (None, -1, 0, 1.5, True, "x", [], 2**31, 2**63, 10**18):
        for key in ("n_rows", "k", "data", "scales", "format", "name", "is_rounded", "source"):
            if (key, value) in (("is_rounded", True), ("source", "x"), ("data", 0)):
                continue

            def change(index, key=key, value=value):  # type: ignore[no-untyped-def]
                record = next(w for w in index["weights"] if "scales" in w)
                record[key] = value

            kind = _refused(target, _with_index(packed, change))
            assert kind not in ("truncated", "value")
            n_cases += 1
        for key in ("name", "data", "length"):

            def change_vector(index, key=key, value=value):  # type: ignore[no-untyped-def]
                index["vectors"][0][key] = value

            _refused(target, _with_index(packed, change_vector))
            n_cases += 1
    both = {"weights": [], "vectors": []}
    for wrong in ([], {}, {"weights": []}, both | {"weights": 1}, both | {"weights": [1]}):
        _refused(target, _with_index(packed, lambda _, wrong=wrong: wrong))
        n_cases += 1
    assert n_cases > 100


def test_a_code_that_is_none_is_refused(packed: Path, tmp_path: Path) -> None:
    with open_checkpoint(packed) as checkpoint:
        assert checkpoint.stored is not None
        record = next(r for r in checkpoint.stored.records.values() if r.format.name == "T2")
        offset = checkpoint.info(record.name).offset
    raw = bytearray(packed.read_bytes())
    raw[offset] |= 3
    sections = read_table(SourceFile(str(packed)))
    at = HEADER.size + record.data * ENTRY.size
    section = sections[record.data]
    crc = zlib.crc32(bytes(raw[offset : offset + section.n_bytes]))
    struct.pack_into("<I", raw, at + 32, crc)
    target = tmp_path / "bad.esp"
    target.write_bytes(_fixed(raw))
    with pytest.raises(ModelFormatError, match="a ternary code is 3"):
        edgesparse.load(target, threads=1)


@pytest.mark.parametrize("weights", ["bmp8", "bmp4", "csr"])
def test_matrices_without_zeros(weights: str, tmp_path: Path) -> None:
    """Their length is what their zeros decide; whether it is right is checked as they are read."""
    source = tiny.FOLDER / "llama-bf16"
    path = pack(source, tmp_path / "model.esp", weights=weights)
    with (
        edgesparse.load(source, weights=weights, threads=2) as old,
        edgesparse.load(path, threads=2) as new,
    ):
        assert weights in new.info.formats.split()
        assert np.array_equal(new.logits(PROMPT), old.logits(PROMPT))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.stored is not None
        record = next(r for r in checkpoint.stored.records.values() if r.format.is_sparse)
        offset = checkpoint.info(record.name).offset
    raw, section = bytearray(path.read_bytes()), read_table(SourceFile(str(path)))[record.data]
    raw[offset] ^= 8  # where the first tile begins
    crc = zlib.crc32(bytes(raw[offset : offset + section.n_bytes]))
    struct.pack_into("<I", raw, HEADER.size + record.data * ENTRY.size + 32, crc)
    path.write_bytes(_fixed(raw))
    with pytest.raises(ModelFormatError, match="contradict each other"):
        edgesparse.load(path, threads=1)


def test_a_file_cut_short_later_changes_nothing(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.esp"
    path.write_bytes(packed.read_bytes())
    with edgesparse.load(path, threads=1) as model:
        before = model.logits(PROMPT)
        os.truncate(path, 100)
        assert np.array_equal(model.logits(PROMPT), before)


def test_only_what_others_cannot_write_is_mapped(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.esp"
    path.write_bytes(packed.read_bytes())
    path.chmod(0o666)
    with pytest.raises(UsageError, match="others can write"):
        edgesparse.load(path, threads=1, mmap=True)
    path.chmod(0o644)
    edgesparse.load(path, threads=1, mmap=True).close()
    with pytest.raises(UsageError, match="only pre-packed"):
        edgesparse.load(tiny.FOLDER / "bitnet-tq1_0.gguf", mmap=True)


def test_flags_that_contradict_the_file(packed: Path) -> None:
    with edgesparse.load(packed, threads=1, head="two-stage") as model:
        assert model.parameters.coarse is not None
    for options in ({"head": "q4"}, {"head": "q6"}, {"sparse": "off"}):
        with pytest.raises(UsageError, match="other settings"):
            edgesparse.load(packed, threads=1, **options)  # type: ignore[arg-type]


def test_a_flag_of_converting_is_wanted_again(tmp_path: Path) -> None:
    """Whoever gave --sparse off to convert and nothing to run has no flag to leave out."""
    path = tmp_path / "model.esp"
    assert (
        main(["convert", str(tiny.FOLDER / "bitnet-tq1_0.gguf"), str(path), "--sparse", "off"]) == 0
    )
    with pytest.raises(UsageError, match="T2, not as T2N") as caught:
        edgesparse.load(path, threads=1)
    assert "the flags that it was converted with" in caught.value.advice
    edgesparse.load(path, threads=1, sparse="off").close()


def test_calibrations_want_the_model_that_a_file_was_made_from(tmp_path: Path) -> None:
    """No flag of convert packs for them, so none is advised."""
    from edgesparse.sparsity import Thresholds, fingerprint
    from edgesparse.sparsity.alphas import SparseInferTable

    path = pack(tiny.FOLDER / "llama-relu.gguf", tmp_path / "model.esp")
    with edgesparse.load(path, threads=1) as model:
        print_of = fingerprint(model.config, model.parameters.vectors)
        table = SparseInferTable(print_of, {f"blk.{i}.gate_up": 10_000 for i in (0, 1)}, 0.9)
        qkv = Thresholds(print_of, "teal", 0.4, {f"blk.{i}.qkv": 0.1 for i in (0, 1)}, {}, 16)
    table.save(tmp_path / "predict.json")
    for options in (
        {"predict": tmp_path / "predict.json", "predict_force": True},
        {"sparsity": qkv},
    ):
        with pytest.raises(UsageError, match="other settings") as caught:
            edgesparse.load(path, threads=1, **options)  # type: ignore[arg-type]
        assert (
            "--sparsity and --predict want the model that the file was made" in caught.value.advice
        )
        edgesparse.load(tiny.FOLDER / "llama-relu.gguf", threads=1, **options).close()
    source, target = str(tiny.FOLDER / "llama-relu.gguf"), tmp_path / "x.esp"
    assert main(["convert", source, str(target), "--predict", str(tmp_path / "predict.json")]) == 2
    assert not target.exists()


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tiny.FOLDER / "llama-k.gguf", tmp_path / "model.esp"
    assert main(["convert", str(source), str(target), "-t", "2"]) == 0
    assert "MB" in capsys.readouterr().out
    assert main(["convert", str(source), str(target)]) == 2
    assert main(["convert", str(source), str(target), "--force"]) == 0
    assert main(["convert", str(target), str(target), "--force"]) == 2
    assert main(["convert", str(source), str(tmp_path / "no" / "x.esp")]) == 1
    assert main(["convert", str(source), str(tmp_path / "y.esp"), "--executor", "portable"]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["model.esp"]
    again = tmp_path / "again.esp"
    assert main(["convert", str(target), str(again)]) == 0
    assert again.read_bytes() == target.read_bytes()
    capsys.readouterr()
    assert main(["inspect", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["container"] == "esp"


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgesparse.esp import writer

    def fail(_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "pack_table", fail)
    with pytest.raises(EdgesparseError, match="No space"):
        pack(tiny.FOLDER / "bitnet-tq1_0.gguf", tmp_path / "model.esp")
    assert not list(tmp_path.iterdir())
    assert MAGIC == b"EDGESP\r\n"


def test_doctor_says_how_a_packed_file_is_stored(
    packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(packed), "--no-measure"]) == 0
    out = capsys.readouterr().out
    assert "TQ1_0 → t2," in out
    assert "TQ1_0 → t2n," in out


@pytest.mark.parametrize("mask", [0o022, 0o007])
def test_a_packed_file_is_readable_by_whom_the_umask_lets(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        path = pack(tiny.FOLDER / tiny.NAMES[0], tmp_path / "model.esp")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644 & ~mask  # written by its owner alone
