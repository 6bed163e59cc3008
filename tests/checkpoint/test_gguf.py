"""Good GGUF files: metadata of every type, reading of bytes, layouts, alignments, split sets."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from edgesparse.checkpoint import StringArray, TensorType, dequantize, open_checkpoint
from edgesparse.errors import MemoryBudgetError, ModelFormatError, ModelNotFound, UsageError
from tests.checkpoint import byte_pictures as pictures
from tests.checkpoint import writers as w
from tests.checkpoint.writers import Gguf, base, f32

WORDS = ["", "a", "é", "日本", "🦊" * 3, " x\n"]


def save(tmp_path: Path, file: Gguf | bytes, name: str = "model.gguf") -> Path:
    path = tmp_path / name
    path.write_bytes(file if isinstance(file, bytes) else file.build())
    return path


def rich() -> Gguf:
    file = base()
    for type_id in (w.U8, w.I8, w.U16, w.I16, w.U32, w.I32, w.U64, w.I64):
        file.pair(f"int.{type_id}", type_id, 7)
        file.array(f"ints.{type_id}", type_id, [1, 2, 3])
    for type_id in (w.F32, w.F64):
        file.pair(f"float.{type_id}", type_id, 0.5)
        file.array(f"floats.{type_id}", type_id, [0.5, -1.5])
    file.pair("yes", w.BOOL, 1).pair("no", w.BOOL, 0).array("bools", w.BOOL, [1, 0, 1])
    file.pair("text", w.STRING, "naïve").array("words", w.STRING, WORDS)
    file.array("nothing", w.STRING, []).array("no_ints", w.I32, [])
    return file.tensor("x", 0, (3, 64), f32(3, 64))


def test_metadata_of_every_type(tmp_path: Path) -> None:
    with open_checkpoint(save(tmp_path, rich())) as c:
        n_ints = 0
        for key in c.metadata:
            if key.startswith("int."):
                assert c.get_int(key, lo=7, hi=7) == 7
                n_ints += 1
            elif key.startswith("ints."):
                assert list(c.get_array(key, kind="int")) == [1, 2, 3]
            elif key.startswith("floats."):
                assert list(c.get_array(key, kind="float")) == [0.5, -1.5]
        assert n_ints == 8
        assert c.get_float("float.6") == c.get_float("float.12") == 0.5
        assert c.get_bool("yes") is True
        assert c.get_bool("no") is False
        assert list(c.get_array("bools", kind="bool")) == [True, False, True]
        assert c.get_str("text") == "naïve"
        assert len(c.get_array("nothing", kind="str")) == len(c.get_array("no_ints")) == 0
        assert c.metadata["edgesparse.rope_style"] == "norm"
        assert (c.kind, c.warnings) == ("gguf", [])


def test_string_arrays_are_sequences(tmp_path: Path) -> None:
    with open_checkpoint(save(tmp_path, rich())) as c:
        words = c.get_array("words", kind="str")
        assert isinstance(words, StringArray)
        assert list(words) == words.to_list() == WORDS
        assert [words[i] for i in range(len(words))] == WORDS
        assert words[-2] == WORDS[-2]
        assert list(words[1:4]) == WORDS[1:4]
        assert words.raw(3) == WORDS[3].encode()
        assert "é" in words
        assert words.index("日本") == 3
        with pytest.raises(IndexError):
            words[6]


def test_long_string_arrays_grow_the_buffer(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = [chr(0x3B1 + i % 24) * int(n) for i, n in enumerate(rng.integers(0, 90, 40_000))]
    with open_checkpoint(save(tmp_path, base().array("words", w.STRING, words))) as c:
        assert c.n_bytes > 3_000_000
        assert c.get_array("words", kind="str").to_list() == words


GETTER_ERRORS = {
    "absent": ("missing", lambda c: c.get_int("absent")),
    "text as int": ("type", lambda c: c.get_int("text")),
    "bool as int": ("type", lambda c: c.get_int("yes")),
    "half as int": ("type", lambda c: c.get_int("float.6")),
    "int too low": ("range", lambda c: c.get_int("int.4", lo=8)),
    "int too high": ("range", lambda c: c.get_int("int.4", hi=6)),
    "text as float": ("type", lambda c: c.get_float("text")),
    "float too high": ("range", lambda c: c.get_float("float.6", hi=0.4)),
    "int as text": ("type", lambda c: c.get_str("int.4")),
    "array as text": ("type", lambda c: c.get_str("words")),
    "int as bool": ("type", lambda c: c.get_bool("int.4")),
    "int as array": ("type", lambda c: c.get_array("int.4")),
    "words as ints": ("type", lambda c: c.get_array("words", kind="int")),
    "ints as floats": ("type", lambda c: c.get_array("ints.5", kind="float")),
    "absent tensor": ("missing", lambda c: c.read("absent")),
    "past a tensor": ("range", lambda c: c.read_range("x", 0, 769)),
    "backwards": ("range", lambda c: c.read_range("x", 9, 8)),
    "buffer too long": ("range", lambda c: c.read_into("x", bytearray(769))),
    "buffer too late": ("range", lambda c: c.read_into("x", bytearray(8), 761)),
}


@pytest.mark.parametrize("case", GETTER_ERRORS)
def test_wrong_requests_name_the_key(tmp_path: Path, case: str) -> None:
    kind, call = GETTER_ERRORS[case]
    with open_checkpoint(save(tmp_path, rich())) as c:
        with pytest.raises(ModelFormatError) as caught:
            call(c)
        assert caught.value.kind == kind


def test_defaults_answer_for_absent_keys(tmp_path: Path) -> None:
    with open_checkpoint(save(tmp_path, rich())) as c:
        assert c.get_int("absent", 3, lo=5) == 3
        assert c.get_float("absent", None) is None
        assert c.get_str("absent", "x") == "x"
        assert c.get_bool("absent", True) is True
        assert c.get_array("absent", None) is None


def test_reading_bytes(tmp_path: Path) -> None:
    payload = f32(3, 64)
    with open_checkpoint(save(tmp_path, rich())) as c:
        assert c.read("x").tobytes() == payload
        assert c.read_range("x", 5, 77).tobytes() == payload[5:77]
        assert c.read_range("x", 768, 768).size == 0
        target = np.zeros((2, 64), dtype=np.float32)
        c.read_into("x", target, 256)
        np.testing.assert_array_equal(target, np.frombuffer(payload[256:], "<f4").reshape(2, 64))
        values = dequantize(TensorType.F32, c.read("x"), c.tensors["x"].shape)
        np.testing.assert_array_equal(values.ravel(), np.frombuffer(payload, "<f4"))
    with pytest.raises(ModelFormatError) as caught:
        c.read("x")
    assert caught.value.kind == "path"
    c.close()


def test_a_tensor_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    with open_checkpoint(save(tmp_path, rich())) as c, monkeypatch.context() as patch:
        patch.setattr(np, "empty", refuse)
        with pytest.raises(MemoryBudgetError):
            c.read("x")


def test_threads_share_one_checkpoint(tmp_path: Path) -> None:
    payload = f32(64, 512)
    wrong: list[int] = []
    with open_checkpoint(save(tmp_path, base().tensor("x", 0, (64, 512), payload))) as c:

        def work(seed: int) -> None:
            rng = np.random.default_rng(seed)
            for _ in range(200):
                a, b = sorted(rng.integers(0, len(payload), 2).tolist())
                if c.read_range("x", a, b).tobytes() != payload[a:b]:
                    wrong.append(a)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize("alignment", [1, 8, 32, 64, 4_096, 65_536])
def test_alignments(tmp_path: Path, alignment: int) -> None:
    file = base().pair("general.alignment", w.U32, alignment)
    file.alignment = alignment
    file.tensor("x", 0, (5,), f32(5)).tensor("y", 0, (3, 7), f32(3, 7, seed=1))
    with open_checkpoint(save(tmp_path, file)) as c:
        assert c.read("x").tobytes() == f32(5)
        assert c.read("y").tobytes() == f32(3, 7, seed=1)


def test_oddities_that_must_load(tmp_path: Path) -> None:
    no_tensors = open_checkpoint(save(tmp_path, base(), "a.gguf"))
    assert no_tensors.tensors == {}
    empty = base().tensor("e", 0, (0, 64), b"").tensor("x", 0, (4,), f32(4))
    with open_checkpoint(save(tmp_path, empty, "b.gguf")) as c:
        assert c.tensors["e"].shape == (0, 64)
        assert c.read("e").size == 0
        assert c.read("x").tobytes() == f32(4)
    with open_checkpoint(save(tmp_path, Gguf(version=2), "c.gguf")) as c:
        assert c.metadata["edgesparse.rope_style"] == "neox"
    with open_checkpoint(save(tmp_path, Gguf(magic=b"PWRI"), "d.gguf")) as c:
        assert c.metadata["edgesparse.container"] == "powerinfer"
    tail = base().tensor("x", 0, (4,), f32(4)).build() + bytes(500)
    with open_checkpoint(save(tmp_path, tail, "e.gguf")) as c:
        assert "unexplained bytes" in c.warnings[0]
    no_tensors.close()


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    target = save(tmp_path, rich(), "blob")
    (tmp_path / "link.gguf").symlink_to(target)
    with open_checkpoint(tmp_path / "link.gguf") as c:
        assert c.read("x").size == 768


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        open_checkpoint(tmp_path / "absent.gguf")
    os.mkfifo(tmp_path / "fifo.gguf")
    for path in (tmp_path / "fifo.gguf", "/dev/null", "a\0b.gguf", tmp_path / "weights.pt"):
        with pytest.raises(ModelFormatError):
            open_checkpoint(path)
    with pytest.raises(UsageError):
        open_checkpoint(save(tmp_path, rich()), i2s_layout="zigzag")


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path, rich())
    with open_checkpoint(path) as c:
        c.check_unchanged()
        os.truncate(path, path.stat().st_size - 300)
        with pytest.raises(ModelFormatError) as caught:
            c.check_unchanged()
        assert caught.value.kind == "truncated"
        with pytest.raises(ModelFormatError) as caught:
            c.read("x")
        assert caught.value.kind == "truncated"


@pytest.mark.parametrize("layout", ["auto", "128x32", "64x16", "row4"])
def test_i2s_packings(tmp_path: Path, layout: str) -> None:
    codes = np.random.default_rng(1).integers(-1, 2, size=(8, 256)).astype(np.int8)
    packed = {
        "64x16": pictures.i2s_columns(codes, 0.75, 64),
        "row4": pictures.i2s_row4(codes, 0.75),
    }.get(layout, pictures.i2s_columns(codes, 0.75, 128))
    path = save(tmp_path, base().tensor("x", 36, (8, 256), packed))
    with open_checkpoint(path, i2s_layout=layout) as c:
        info = c.tensors["x"]
        assert info.scale == 0.75
        found = dequantize(info.type, c.read("x"), info.shape, info.scale)
        np.testing.assert_array_equal(found, codes * 0.75)
        assert c.warnings == []


def test_columns_choose_among_i2s_packings(tmp_path: Path) -> None:
    codes = np.zeros((4, 192), dtype=np.int8)  # fits 64x16, not 128x32
    path = save(tmp_path, base().tensor("x", 36, (4, 192), pictures.i2s_columns(codes, 1, 64)))
    with pytest.raises(ModelFormatError) as caught:
        open_checkpoint(path)
    assert caught.value.kind == "layout"
    open_checkpoint(path, i2s_layout="64x16").close()


def test_i2s_without_zeros_is_suspicious(tmp_path: Path) -> None:
    codes = np.ones((8, 256), dtype=np.int8)
    path = save(tmp_path, base().tensor("x", 36, (8, 256), pictures.i2s_columns(codes, 1, 128)))
    with open_checkpoint(path) as c:
        assert "not ternary" in c.warnings[0]
    with open_checkpoint(path, verify=False) as c:
        assert c.warnings == []


@pytest.mark.parametrize(("n_bytes", "name"), [(18 * 32, "Q2_0"), (34 * 16, "PQ2_0")])
def test_id_42_is_decided_by_size(tmp_path: Path, n_bytes: int, name: str) -> None:
    file = base().tensor("x", 42, (8, 256), bytes(n_bytes)).tensor("y", 0, (8,), f32(8))
    with open_checkpoint(save(tmp_path, file)) as c:
        assert c.tensors["x"].type is TensorType[name]


def split_set(tmp_path: Path, total: int = 3) -> Path:
    for part in range(2):
        file = base() if part == 0 else Gguf()
        file.pair("split.no", w.U16, part).pair("split.count", w.U16, 2)
        file.pair("split.tensors.count", w.I32, total)
        file.tensor(f"t{part}", 0, (8,), f32(8, seed=part))
        if part:
            file.tensor("t2", 0, (8,), f32(8, seed=2))
        save(tmp_path, file, f"m-0000{part + 1}-of-00002.gguf")
    return tmp_path / "m-00001-of-00002.gguf"


def test_split_sets(tmp_path: Path) -> None:
    with open_checkpoint(split_set(tmp_path)) as c:
        assert c.get_int("llama.block_count") == 2
        for i in range(3):
            assert c.read(f"t{i}").tobytes() == f32(8, seed=i)
        assert c.n_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_broken_split_sets(tmp_path: Path) -> None:
    first = split_set(tmp_path, total=4)
    with pytest.raises(ModelFormatError) as caught:
        open_checkpoint(first)
    assert caught.value.field == "split.tensors.count"
    second = tmp_path / "m-00002-of-00002.gguf"
    with pytest.raises(ModelFormatError) as caught:
        open_checkpoint(second)
    assert caught.value.kind == "path"
    second.write_bytes(first.read_bytes())
    with pytest.raises(ModelFormatError) as caught:
        open_checkpoint(first)
    assert caught.value.field == "split.no"
    second.unlink()
    with pytest.raises(ModelNotFound):
        open_checkpoint(first)


def test_hostile_names_are_escaped_in_messages(tmp_path: Path) -> None:
    evil = "\x1b]0;gone\x07\u202eabc"
    path = save(tmp_path, base().tensor(evil, 9_999, (32,), bytes(64)))
    with pytest.raises(ModelFormatError) as caught:
        open_checkpoint(path)
    assert all(char.isprintable() for char in str(caught.value))
