"""Thousands of seeded mutations of good files: each opens and decodes, or is one typed error."""

from __future__ import annotations

import json
import random
import struct
import time
from collections import Counter
from pathlib import Path

import numpy as np

from edgesparse.checkpoint import (
    Checkpoint,
    TensorType,
    check_scales,
    dequantize,
    n_bytes_of,
    open_checkpoint,
    ternary_codes,
)
from edgesparse.errors import EdgesparseError
from tests.checkpoint import writers as w

N_MUTANTS = 5_000
BOUNDARIES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 32)


def gguf_seed(names: tuple[str, ...], seed: int) -> tuple[bytes, int]:
    """Give a valid file with one matrix per type, and the length of its header."""
    rng = np.random.default_rng(seed)
    file = w.base().array("tokenizer.ggml.tokens", w.STRING, ["<s>", "a", "é", "bc"])
    file.array("tokenizer.ggml.scores", w.F32, [0.0, -1.0, -2.0, -3.0])
    file.pair("llama.rope.freq_base", w.F32, 1e4).pair("flag", w.BOOL, 1)
    for name in names:
        shape = (4, 256)
        payload = rng.integers(0, 256, n_bytes_of(TensorType[name], shape), dtype=np.uint8)
        payload &= 0x3B  # no code 3 among low bits, and finite as half or single precision
        if name.startswith("I2_S"):
            payload = np.full(len(payload), 0x15, dtype=np.uint8)
        file.tensor(f"blk.0.{name}.weight", w.GGUF_IDS[name], shape, payload.tobytes())
    file.tensor("output_norm.weight", 0, (64,), w.f32(64))
    header = file.header()
    return file.build(), len(header)


def mutate_bytes(rng: random.Random, raw: bytes, header: int, other: bytes) -> bytes:
    """Apply one of six operators."""
    out = bytearray(raw)
    match rng.randrange(6):
        case 0:
            return raw[: rng.randrange(len(raw))]
        case 1:
            out[rng.randrange(header)] ^= 1 << rng.randrange(8)
        case 2:  # an integer field, wherever it may lie
            width, layout = rng.choice(((4, "<I"), (8, "<Q")))
            at = rng.randrange(header - width)
            found = struct.unpack_from(layout, out, at)[0]
            near = (len(raw) - 1, len(raw), len(raw) + 1, found + 1, found - 1)
            value = rng.choice(BOUNDARIES + near) % 2 ** (8 * width)
            struct.pack_into(layout, out, at, value)
        case 3:  # move, double or drop a stretch of the header
            a, b = sorted(rng.randrange(header) for _ in range(2))
            part = out[a:b]
            match rng.randrange(3):
                case 0:
                    del out[a:b]
                case 1:
                    out[b:b] = part
                case 2:
                    at = rng.randrange(header)
                    out[at : at + len(part)] = part
        case 4:
            for _ in range(rng.randint(1, 8)):
                out[rng.randrange(len(out))] = rng.randrange(256)
        case _:
            cut = rng.randrange(len(raw))
            return raw[:cut] + other[min(cut, len(other)) :]
    return bytes(out)


def mutate_json(rng: random.Random, text: bytes) -> bytes:
    """Replace a token of JSON text by another or by something extreme."""
    numbers = [str(value).encode() for value in BOUNDARIES]
    odd = [b"null", b"true", b"[]", b"{}", b'""', b"-1", b"1e999", b"NaN", b"[[[[[0]]]]]", b"'"]
    tokens = text.replace(b",", b" , ").replace(b":", b" : ").split(b" ")
    at = rng.randrange(len(tokens))
    match rng.randrange(4):
        case 0:
            tokens[at] = rng.choice(numbers)
        case 1:
            tokens[at] = rng.choice(odd)
        case 2:
            tokens[at] = rng.choice(tokens)
        case _:
            del tokens[at]
    return b" ".join(tokens)


def exercise(checkpoint: Checkpoint) -> None:
    """Read and decode everything; only typed errors may come out."""
    for name, info in checkpoint.tensors.items():
        try:
            raw = checkpoint.read(name)
            values = dequantize(info.type, raw, info.shape, info.scale, name=name)
            assert values.shape == info.shape
            check_scales(info.type, raw, info.shape, name=name)
            found = ternary_codes(info.type, raw, info.shape, info.scale, name=name)
            assert found is None or found[0].size == 0 or abs(int(found[0].max())) <= 1
        except EdgesparseError:
            continue


def run(path: Path, tally: Counter[str]) -> None:
    begin = time.process_time()
    try:
        with open_checkpoint(path) as checkpoint:
            exercise(checkpoint)
        tally["opened"] += 1
    except EdgesparseError as error:
        tally["refused"] += error.exit_code == 3
    tally["slow"] += time.process_time() - begin > 0.5


def test_mutated_gguf_files(tmp_path: Path) -> None:
    names = tuple(w.GGUF_IDS)
    seeds = [gguf_seed(names[i::4], i) for i in range(4)]
    path = tmp_path / "model.gguf"
    for raw, _ in seeds:
        path.write_bytes(raw)
        with open_checkpoint(path) as checkpoint:
            exercise(checkpoint)
    rng = random.Random(1)
    tally: Counter[str] = Counter()
    for _ in range(N_MUTANTS * 3 // 5):
        raw, header = rng.choice(seeds)
        path.write_bytes(mutate_bytes(rng, raw, header, rng.choice(seeds)[0]))
        run(path, tally)
    assert tally["opened"] + tally["refused"] == N_MUTANTS * 3 // 5
    assert min(tally["opened"], tally["refused"]) > 300  # both outcomes are really exercised
    assert tally["slow"] == 0


def test_mutated_folders(tmp_path: Path) -> None:
    folder = w.write_folder(
        tmp_path / "model",
        w.packed_model(),
        w.bitnet_config(rope_scaling={"rope_type": "linear", "factor": 2.0}),
        generation_config={"eos_token_id": [2, 3]},
        tokenizer_config={"chat_template": "{{ x }}", "add_bos_token": True},
    )
    index = {"weight_map": dict.fromkeys(w.packed_model(), "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    good = {path.name: path.read_bytes() for path in folder.iterdir()}
    with open_checkpoint(folder) as checkpoint:
        exercise(checkpoint)
        assert len(checkpoint.tensors) == 13
    weights = good["model.safetensors"]
    header = 8 + int.from_bytes(weights[:8], "little")
    rng = random.Random(2)
    tally: Counter[str] = Counter()
    for _ in range(N_MUTANTS * 2 // 5):
        name = rng.choice([*good, "model.safetensors", "model.safetensors"])
        if name != "model.safetensors":
            mutant = mutate_json(rng, good[name])
        elif rng.random() < 0.5:
            text = mutate_json(rng, weights[8:header])
            mutant = w.framed(text, weights[header:])
        else:
            mutant = mutate_bytes(rng, weights, header, weights[::-1])
        (folder / name).write_bytes(mutant)
        run(folder, tally)
        (folder / name).write_bytes(good[name])
    assert tally["opened"] + tally["refused"] == N_MUTANTS * 2 // 5
    assert min(tally["opened"], tally["refused"]) > 200
    assert tally["slow"] == 0
