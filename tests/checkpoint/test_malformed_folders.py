"""Each way to break a model folder is one typed error with the right kind."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from edgesparse.checkpoint import open_checkpoint
from tests.checkpoint import writers as w
from tests.checkpoint.refusal import refuse
from tests.checkpoint.writers import f32, llama_config, safetensors

ROW = f32(64)


def write(folder: Path, name: str, text: str | bytes | dict) -> None:
    raw = json.dumps(text) if isinstance(text, dict) else text
    (folder / name).write_bytes(raw.encode() if isinstance(raw, str) else raw)


def index(shard: object, **extra: object) -> dict[str, object]:
    return {"weight_map": {"model.norm.weight": shard}} | extra


NORM = {"model.norm.weight": ("F32", (64,), ROW)}
INDEX = "model.safetensors.index.json"


def config(**changes: object) -> Callable[[Path], None]:
    return lambda folder: write(folder, "config.json", llama_config(**changes))


def side(name: str, text: str | bytes | dict) -> Callable[[Path], None]:
    return lambda folder: write(folder, name, text)


def weights(tensors: dict[str, tuple]) -> Callable[[Path], None]:
    return side("model.safetensors", safetensors(tensors))


def bitnet(change: str, *value: object) -> Callable[[Path], None]:
    """Break one thing of a good packed model."""

    def apply(folder: Path) -> None:
        tensors = w.packed_model()
        stem = "model.layers.0.mlp.up_proj.weight"
        if value:
            tensors[stem + change] = value[0]
        else:
            del tensors[stem + change]
        w.write_folder(folder, tensors, w.bitnet_config())

    return apply


def fifo(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def folder_instead(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


FOLDER_CASES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "no config": ("missing", lambda folder: (folder / "config.json").unlink()),
    "config is a list": ("type", side("config.json", "[]")),
    "config empty": ("value", side("config.json", "")),
    "config with NaN": ("value", side("config.json", '{"hidden_size": NaN}')),
    "config too large": ("limit", side("config.json", b" " * ((4 << 20) + 1))),
    "config nested": ("limit", side("config.json", '{"a":' + "[" * 50 + "]" * 50 + "}")),
    "unknown family": ("unsupported", config(model_type="mamba")),
    "no family": ("unsupported", config(model_type=...)),
    "hidden_size absent": ("missing", config(hidden_size=...)),
    "hidden_size 0": ("range", config(hidden_size=0)),
    "hidden_size negative": ("range", config(hidden_size=-64)),
    "hidden_size a string": ("type", config(hidden_size="64")),
    "hidden_size true": ("type", config(hidden_size=True)),
    "layers 10^9": ("range", config(num_hidden_layers=10**9)),
    "heads 0": ("range", config(num_attention_heads=0)),
    "kv heads do not divide": ("range", config(num_key_value_heads=3)),
    "head_dim odd": ("range", config(head_dim=15)),
    "epsilon 0": ("range", config(rms_norm_eps=0)),
    "rope_theta 0": ("range", config(rope_theta=0)),
    "rope type unknown": ("unsupported", config(rope_scaling={"type": "longrope", "factor": 2})),
    "rope without factor": ("missing", config(rope_scaling={"rope_type": "linear"})),
    "rope factor 0": ("range", config(rope_scaling={"rope_type": "linear", "factor": 0})),
    "llama3 factors reversed": (
        "range",
        config(
            rope_scaling={
                "rope_type": "llama3",
                "factor": 8,
                "low_freq_factor": 4,
                "high_freq_factor": 1,
            }
        ),
    ),
    "66 stop ids": ("limit", config(eos_token_id=list(range(66)))),
    "tied is a number": ("type", config(tie_word_embeddings=1)),
    "architectures of numbers": ("type", config(architectures=[1])),
    "rope_scaling a list": ("type", config(rope_scaling=[1])),
    "linear_class unknown": (
        "unsupported",
        config(quantization_config={"quant_method": "bitnet", "linear_class": "x"}),
    ),
    "quantization_mode unknown": (
        "unsupported",
        config(quantization_config={"quant_method": "bitnet", "quantization_mode": "x"}),
    ),
    "template too long": ("limit", side("tokenizer_config.json", {"chat_template": "x" * 300_000})),
    "eos of a string": ("type", config(eos_token_id="2")),
    "eos 2^31-1": ("range", config(eos_token_id=2**31 - 1)),
    "generation eos": ("range", side("generation_config.json", {"eos_token_id": [-7]})),
    "template of a number": ("type", side("tokenizer_config.json", {"chat_template": 5})),
    "template file too large": ("limit", side("chat_template.jinja", "x" * ((256 << 10) + 1))),
    "template not UTF-8": ("value", side("chat_template.jinja", b"\xff")),
    "index to a parent": ("path", side(INDEX, index("../x.safetensors"))),
    "index to an absolute path": ("path", side(INDEX, index("/x.safetensors"))),
    "index to a pickle": ("path", side(INDEX, index("x.bin"))),
    "index to a number": ("type", side(INDEX, index(5))),
    "index without map": ("missing", side(INDEX, {"metadata": {}})),
    "index names an absent tensor": (
        "missing",
        side(INDEX, {"weight_map": {"absent.weight": "model.safetensors"}}),
    ),
    "weights are a FIFO": ("path", fifo),
    "weights are a folder": ("path", folder_instead),
    "weights are pickled": ("unsupported", only_pickle),
    "no weights": ("missing", lambda folder: (folder / "model.safetensors").unlink()),
    "one tensor under two names": (
        "duplicate",
        weights(NORM | {"norm.weight": ("F32", (64,), ROW)}),
    ),
    "dtype F8": ("unsupported", weights({"model.norm.weight": ("F8_E4M3", (64,), bytes(64))})),
    "norm with infinity": (
        "value",
        weights({"model.norm.weight": ("F32", (1,), struct.pack("<f", float("inf")))}),
    ),
    "BF16 norm with a NaN": (
        "value",
        weights({"model.norm.weight": ("BF16", (2,), b"\x80\x3f\xc0\x7f")}),
    ),
    "GPTQ of unknown width": ("missing", config(quantization_config={"quant_method": "gptq"})),
    "AQLM": ("unsupported", config(quantization_config={"quant_method": "aqlm"})),
    "compressed-tensors": ("unsupported", config(compression_config={"format": "x"})),
    "packed names": (
        "unsupported",
        weights({"model.layers.0.mlp.up_proj.weight_packed": ("I32", (4,), bytes(16))}),
    ),
    "quantization_config a list": ("type", config(quantization_config=[])),
    "BitNet scale absent": ("missing", bitnet("_scale")),
    "BitNet weight absent": ("layout", bitnet("")),
    "BitNet scale NaN": ("value", bitnet("_scale", ("BF16", (1,), b"\xc0\x7f"))),
    "BitNet scale negative": ("value", bitnet("_scale", ("BF16", (1,), b"\x80\xbf"))),
    "BitNet scale of two": ("layout", bitnet("_scale", ("BF16", (2,), bytes(4)))),
    "BitNet weight in float": ("layout", bitnet("", ("F32", (24, 64), bytes(24 * 64 * 4)))),
    "BitNet rows wrong": ("layout", bitnet("", ("U8", (23, 64), bytes(23 * 64)))),
}


@pytest.mark.parametrize("case", FOLDER_CASES)
def test_malformed_folders(tmp_path: Path, case: str) -> None:
    kind, damage = FOLDER_CASES[case]
    folder = w.write_folder(tmp_path / "model", NORM, llama_config())
    open_checkpoint(folder).close()
    damage(folder)
    refuse(folder, kind)


def test_the_number_of_malformed_folders() -> None:
    assert len(FOLDER_CASES) >= 60
