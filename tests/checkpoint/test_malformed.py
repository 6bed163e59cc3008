"""Each way to break a file is one typed error with the right kind, quickly and in little memory."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from edgesparse.checkpoint import open_checkpoint
from edgesparse.errors import ModelFormatError, UnsupportedTensorType
from tests.checkpoint import writers as w
from tests.checkpoint.refusal import refuse
from tests.checkpoint.writers import Gguf, base, f32, framed, llama_config

BIG = 2**63
ROW = f32(64)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def counts(n_tensors: int | None = None, n_pairs: int | None = None) -> bytes:
    file = base().tensor("a", 0, (64,), ROW)
    file.n_tensors, file.n_pairs = n_tensors, n_pairs
    return file.build()


def dims(*values: int, type_id: int = 0) -> bytes:
    return base().record("a", list(values), type_id, 0).build() + bytes(64)


def two(offset: int, payload: bytes = ROW) -> bytes:
    file = base().tensor("a", 0, (64,), ROW).record("b", [64], 0, offset)
    file.data += payload
    return file.build()


def i2s(n_cols: int, n_rows: int, scale: float = 1.0) -> bytes:
    payload = b"\x55" * (n_cols * n_rows // 4) + struct.pack("<f", scale) + bytes(28)
    return base().tensor("a", 36, (n_rows, n_cols), payload).build()


def sized(type_id: int, n_bytes: int, n_cols: int = 256, n_rows: int = 4) -> bytes:
    return base().tensor("a", type_id, (n_rows, n_cols), bytes(n_bytes)).build()


GGUF_CASES: dict[str, tuple[str, bytes]] = {
    "empty": ("truncated", b""),
    "magic only": ("truncated", b"GGUF"),
    "23 bytes": ("truncated", b"GGUF" + u32(3) + bytes(15)),
    "bad magic": ("value", Gguf(magic=b"GGML").build()),
    "version 0": ("unsupported", Gguf(version=0).build()),
    "version 1": ("unsupported", Gguf(version=1).build()),
    "version 4": ("unsupported", Gguf(version=4).build()),
    "big-endian": ("unsupported", Gguf(version=3 << 24).build()),
    "tensor count 2^64-1": ("limit", counts(n_tensors=2**64 - 1)),
    "tensor count past the file": ("truncated", counts(n_tensors=60_000)),
    "tensor count one more": ("truncated", counts(n_tensors=40)),
    "pair count 2^63": ("limit", counts(n_pairs=BIG)),
    "pair count past the file": ("truncated", counts(n_pairs=65_536)),
    "empty key": ("limit", base().pair("", w.U8, 1).build()),
    "key length 2^63": ("truncated", b"GGUF" + u32(3) + u64(0) + u64(1) + u64(BIG) + bytes(64)),
    "key past the file": (
        "truncated",
        Gguf(version=3).header()[:16] + u64(1) + u64(500) + b"abc" + bytes(40),
    ),
    "key too long": ("limit", base().pair("k" * 65_536, w.U8, 1).build()),
    "key not UTF-8": ("value", base().raw_pair(b"\xff\xfe", w.U8, b"\1").build()),
    "duplicate key": ("duplicate", base().pair("llama.block_count", w.U32, 2).build()),
    "value type 13": ("type", base().raw_pair("k", 13, bytes(8)).build()),
    "bool 2": ("value", base().raw_pair("k", w.BOOL, b"\2").build()),
    "bool array with 7": (
        "value",
        base().raw_pair("k", w.ARRAY, u32(w.BOOL) + u64(3) + b"\0\1\7").build(),
    ),
    "value cut off": ("truncated", base().raw_pair("k", w.U64, b"\1").header()),
    "string of 2^63": ("truncated", base().raw_pair("k", w.STRING, u64(BIG)).build()),
    "string over 16 MiB": (
        "limit",
        base().pair("k", w.STRING, "x" * ((16 << 20) + 1)).build(),
    ),
    "string not UTF-8": ("value", base().raw_pair("k", w.STRING, u64(2) + b"\xc3\x28").build()),
    "array of 2^63": (
        "truncated",
        base().raw_pair("k", w.ARRAY, u32(w.U8) + u64(BIG)).build(),
    ),
    "array wraps 64 bits": (
        "truncated",
        base().raw_pair("k", w.ARRAY, u32(w.U64) + u64(2**61)).build(),
    ),
    "array one too long": (
        "truncated",
        base().array("k", w.U32, [1, 2, 3], count=4).header(),
    ),
    "array of arrays": (
        "unsupported",
        base().raw_pair("k", w.ARRAY, u32(w.ARRAY) + u64(1) + bytes(12)).build(),
    ),
    "deeply nested arrays": (
        "unsupported",
        base().raw_pair("k", w.ARRAY, (u32(w.ARRAY) + u64(1)) * 3_000).build(),
    ),
    "element type 99": (
        "type",
        base().raw_pair("k", w.ARRAY, u32(99) + u64(1) + bytes(8)).build(),
    ),
    "string array count": (
        "truncated",
        base().raw_pair("k", w.ARRAY, u32(w.STRING) + u64(1 << 40)).build(),
    ),
    "string array element past the file": (
        "truncated",
        base().raw_pair("k", w.ARRAY, u32(w.STRING) + u64(2) + u64(9_999) + bytes(9)).build(),
    ),
    "string array element 2^64-8": (
        "limit",
        base().raw_pair("k", w.ARRAY, u32(w.STRING) + u64(1) + u64(2**64 - 8)).build(),
    ),
    "string array not UTF-8": ("value", base().array("k", w.STRING, [b"ok", b"\xe2\x82"]).build()),
    "alignment 0": ("range", base().pair("general.alignment", w.U32, 0).build()),
    "alignment 13": ("range", base().pair("general.alignment", w.U32, 13).build()),
    "alignment 2^17": ("range", base().pair("general.alignment", w.U32, 1 << 17).build()),
    "alignment i32": ("type", base().pair("general.alignment", w.I32, 32).build()),
    "alignment string": ("type", base().pair("general.alignment", w.STRING, "32").build()),
    "tensor name empty": ("limit", base().tensor("", 0, (64,), ROW).build()),
    "tensor name of 65 bytes": ("limit", base().tensor("n" * 65, 0, (64,), ROW).build()),
    "tensor name not UTF-8": ("value", base().record(b"\xff", [64], 0, 0).build() + ROW),
    "duplicate tensor": (
        "duplicate",
        base().tensor("a", 0, (64,), ROW).tensor("a", 0, (64,), ROW).build(),
    ),
    "no dimensions": ("range", dims()),
    "five dimensions": ("range", dims(1, 1, 1, 1, 1)),
    "200 dimensions": ("range", dims(*[1] * 200)),
    "dimension 2^63": ("overflow", dims(BIG)),
    "dimension -1": ("overflow", dims(-1)),
    "dimensions wrap to 4 bytes": ("overflow", dims(2**32, 2**32, 1 + 2**20)),
    "two of 2^39": ("overflow", dims(2**39, 2**39)),
    "more than the file": ("truncated", dims(2**30)),
    "partial block": ("layout", sized(8, 34, n_cols=33, n_rows=1)),
    "K block on 128 columns": ("layout", sized(12, 144, n_cols=128, n_rows=1)),
    "type 9999": ("unsupported", sized(9_999, 64)),
    "type 2^32-1": ("unsupported", sized(2**32 - 1, 64)),
    "offset not aligned": ("layout", two(260)),
    "offset overlaps": ("layout", two(0)),
    "offset 32 into the neighbour": ("layout", two(32)),
    "offset leaves a hole": ("layout", two(512, bytes(512) + ROW)),
    "offset 2^40": ("layout", two(1 << 40)),
    "offset 2^64-32": ("layout", two(2**64 - 32)),
    "first offset not 0": ("layout", base().record("a", [64], 0, 32).build() + bytes(320)),
    "data cut off": ("truncated", base().tensor("a", 0, (64,), ROW).build()[:-1]),
    "data absent": ("truncated", base().record("a", [64], 0, 0).header()),
    "I2_S with 96 columns": ("layout", i2s(96, 4)),
    "I2_S scale NaN": ("value", i2s(128, 4, float("nan"))),
    "I2_S scale infinite": ("value", i2s(128, 4, float("inf"))),
    "I2_S scale negative": ("value", i2s(128, 4, -1.0)),
    "norm with a NaN": (
        "value",
        base().tensor("n", 0, (4,), struct.pack("<4f", 1, 2, float("nan"), 4)).build(),
    ),
    "split count negative": ("range", base().pair("split.count", w.I32, -1).build()),
    "split count of a float": ("range", base().pair("split.count", w.F32, 2.0).build()),
    "split file with another name": ("path", base().pair("split.count", w.U16, 2).build()),
}

REFUSED_TYPES = {
    "Q8_1": sized(9, 144),
    "Q8_K": sized(15, 4 * 292),
    "IQ2_XXS": sized(16, 4 * 66),
    "IQ4_XS": sized(23, 4 * 136),
    "Q4_0_4_4": sized(31, 576),
    "I8_S": sized(37, 1024),
    "IQ4_NL_4_4": sized(36, 576),
    "TL1": sized(38, 256 + 32),
    "IQ4_NL_8_8": sized(38, 576),
    "MXFP4": sized(39, 544),
    "TL2": sized(39, 288, n_cols=256, n_rows=4),
    "NVFP4": sized(40, 576),
    "early Q1_0": sized(40, 192),
    "headerless IQ1_BN": sized(134, 3_328, n_rows=64),
    "headerless IQ2_BN": sized(135, 4_096, n_rows=64),
    "IQ2_TN": sized(142, 8 * 132, n_cols=512, n_rows=8),
    "IQ2_BN_R4": sized(335, 16 + 256),
}


def record(**changes: object) -> dict[str, object]:
    known = {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}
    return {key: value for key, value in (known | changes).items() if value is not ...}


def one(name: str = "model.norm.weight", data: bytes = ROW, **changes: object) -> bytes:
    return framed(json.dumps({name: record(**changes)}).encode(), data)


def pair(first: list[int], second: list[int], data: bytes = ROW * 2) -> bytes:
    header = {"a": record(data_offsets=first), "b": record(data_offsets=second)}
    return framed(json.dumps(header).encode(), data)


SAFETENSORS_CASES: dict[str, tuple[str, bytes]] = {
    "empty file": ("truncated", b""),
    "seven bytes": ("truncated", bytes(7)),
    "header length past the file": ("truncated", u64(1_000) + b"{}"),
    "header length 2^64-1": ("limit", u64(2**64 - 1) + b"{}"),
    "header length 0": ("value", u64(0) + b"{}"),
    "leading space": ("value", framed(b" {}")),
    "not JSON": ("value", framed(b"{]")),
    "unterminated string": ("value", framed(b'{"' + b'\\"' * 40_000)),
    "not UTF-8": ("value", framed(b'{"\xff": 1}')),
    "lone surrogate": ("value", framed(b'{"\\ud800": {}}')),
    "junk behind the JSON": ("value", framed(b"{} x")),
    "header is nested": ("limit", framed(b'{"a": [[[[[1]]]]]}')),
    "100,000 brackets": ("limit", framed(b'{"a":' + b"[" * 100_000)),
    "many lists": ("limit", framed(b'{"a":[' + b"[]," * 900_000 + b"[]]}")),
    "NaN": ("value", framed(b'{"a": NaN}')),
    "1e999": ("value", framed(b'{"a": 1e999}')),
    "fraction": ("value", one(shape=[64.5])),
    "negative number": ("value", one(shape=[-64])),
    "5,000 digits": ("value", framed(b'{"a": ' + b"9" * 5_000 + b"}")),
    "duplicate name": ("duplicate", framed(b'{"a": 1, "a": 1}')),
    "record is a list": ("type", framed(b'{"a": []}')),
    "no dtype": ("type", one(dtype=...)),
    "no shape": ("type", one(shape=...)),
    "extra field": ("type", one(extra=1)),
    "unknown dtype": ("type", one(dtype="F23")),
    "dtype is a number": ("type", one(dtype=3)),
    "shape of strings": ("type", one(shape=["64"])),
    "shape of bools": ("type", one(shape=[True])),
    "three offsets": ("type", one(data_offsets=[0, 1, 2])),
    "rank 9": ("limit", one(shape=[64] + [1] * 8)),
    "shape overflows": ("overflow", one(shape=[2**40, 2**40])),
    "offsets backwards": ("range", one(data_offsets=[256, 0])),
    "offsets too short": ("layout", one(data_offsets=[0, 252])),
    "half a byte": ("layout", one(dtype="F4", shape=[3], data_offsets=[0, 1], data=b"x")),
    "overlap": ("layout", pair([0, 256], [0, 256])),
    "partial overlap": ("layout", pair([0, 256], [128, 384])),
    "hole": ("layout", pair([0, 256], [288, 544], bytes(544))),
    "first not at 0": ("layout", one(data_offsets=[8, 264], data=bytes(264))),
    "data too short": ("truncated", one(data=ROW[:-1])),
    "data too long": ("layout", one(data=ROW + b"x")),
    "metadata of numbers": ("type", framed(b'{"__metadata__": {"a": 1}}')),
    "metadata over 1 MiB": (
        "limit",
        framed(json.dumps({"__metadata__": {"a": "x" * (1 << 20)}}).encode()),
    ),
}


@pytest.mark.parametrize("case", GGUF_CASES)
def test_malformed_gguf(tmp_path: Path, case: str) -> None:
    kind, raw = GGUF_CASES[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    refuse(path, kind)


@pytest.mark.parametrize("case", REFUSED_TYPES)
def test_types_that_are_not_read_come_with_advice(tmp_path: Path, case: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(REFUSED_TYPES[case])
    error = refuse(path, "unsupported")
    assert isinstance(error, UnsupportedTensorType)
    assert error.advice


@pytest.mark.parametrize("case", SAFETENSORS_CASES)
def test_malformed_safetensors(tmp_path: Path, case: str) -> None:
    kind, raw = SAFETENSORS_CASES[case]
    (tmp_path / "config.json").write_text(json.dumps(llama_config()))
    (tmp_path / "model.safetensors").write_bytes(raw)
    refuse(tmp_path / "model.safetensors", kind)


def test_the_number_of_malformed_classes() -> None:
    total = len(GGUF_CASES) + len(REFUSED_TYPES) + len(SAFETENSORS_CASES)
    assert total >= 130


def test_every_prefix_of_a_file_is_refused(tmp_path: Path) -> None:
    file = base().array("tokens", w.STRING, ["a", "bc", "def"])
    raw = file.tensor("x", 0, (64,), ROW).tensor("y", 8, (2, 32), bytes(68)).build()
    path = tmp_path / "model.gguf"
    payload_end = len(raw) - (-68 % 32)
    for length in range(payload_end):
        path.write_bytes(raw[:length])
        with pytest.raises(ModelFormatError):
            open_checkpoint(path)
    assert payload_end > 500
    path.write_bytes(raw[:payload_end])  # the last tensor may lack its padding
    assert set(open_checkpoint(path).tensors) == {"x", "y"}
