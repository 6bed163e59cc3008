from __future__ import annotations

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from edgesparse.answer import GenerationOptions
from edgesparse.checkpoint.strings import StringArray
from edgesparse.default_model import default_model_path
from edgesparse.model import Model
from edgesparse.sampling import SamplingOptions
from edgesparse.sampling.recommended import Recommended, read_recommended
from tests.generate.fakes import ByteTokenizer, FakeEngine


def read(tmp_path, *, metadata=None, json_text=None, kind="gguf"):
    if json_text is not None:
        (tmp_path / "generation_config.json").write_text(json_text)
    path = tmp_path / "model.gguf" if kind == "gguf" else tmp_path
    return read_recommended(SimpleNamespace(metadata=metadata or {}, path=str(path), kind=kind))


JSON = {"do_sample": True, "temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1}
GGUF = {"general.sampling.temp": 0.3, "general.sampling.penalty_last_n": 128}


@pytest.mark.parametrize(
    ("metadata", "values", "explicit", "expected"),
    [
        ({}, None, {}, {"temperature": 0.8, "top_k": 40}),
        ({}, JSON, {}, {"temperature": 0.6, "top_k": 20, "repeat_penalty": 1.1}),
        (GGUF, None, {}, {"temperature": 0.3, "repeat_last_n": 128, "top_k": 40}),
        (GGUF, JSON, {}, {"temperature": 0.3, "top_k": 40, "repeat_penalty": 1.0}),
        (GGUF, JSON, {"temperature": 1.5}, {"temperature": 1.5, "repeat_last_n": 128}),
        (GGUF, JSON, {"temp": 1.5}, {"temperature": 1.5, "repeat_last_n": 128}),
        ({}, JSON, {"repetition_penalty": 1.0}, {"temperature": 0.6, "repeat_penalty": 1.0}),
        ({}, JSON, {"sampling": SamplingOptions()}, {"temperature": 0.8, "top_k": 40}),
    ],
)
def test_explicit_wins_over_metadata_over_json_over_defaults(
    tmp_path, metadata, values, explicit, expected
):
    text = None if values is None else json.dumps(values)
    found = read(tmp_path, metadata=metadata, json_text=text)
    sampling = GenerationOptions().updated(**found.under(explicit)).sampling
    assert {name: getattr(sampling, name) for name in expected} == expected
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0.0}),
        ({"temperature": 0.6}, {"temperature": 0.6}),
        ({"do_sample": None, "top_k": None, "min_p": 0}, {"min_p": 0}),
        ({"top_k": 50.0}, {"top_k": 50}),
        ({"repetition_penalty": 1.1}, {"repeat_penalty": 1.1, "repeat_last_n": -1}),
        (
            {"repetition_penalty": 1.1, "penalty_last_n": 32},
            {"repeat_penalty": 1.1, "repeat_last_n": 32},
        ),
        ({"eos_token_id": 2, "max_length": 9}, {}),
    ],
)
@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_the_json_means_what_it_means_elsewhere(tmp_path, values, expected, kind):
    found = read(tmp_path, json_text=json.dumps(values), kind=kind)
    assert dict(found.changes) == expected
    assert found.source == ("generation_config.json" if expected else "")
    assert found.warnings == ()


def test_metadata_keeps_short_decimals_and_every_known_key(tmp_path):
    keys = {"temp": 0.7, "top_k": 20, "top_p": 0.95, "min_p": 0.1}
    keys |= {"penalty_repeat": 1.05, "penalty_last_n": -1}
    stored = {
        f"general.sampling.{key}": float(np.float32(value)) if isinstance(value, float) else value
        for key, value in keys.items()
    }
    found = read(tmp_path, metadata=stored)
    assert list(found.changes.values()) == list(keys.values())
    assert found.source == "GGUF metadata"
    text = found.describe({"top_k": 1, "min_p": 0.5})
    assert "temperature 0.7" in text
    assert "top_k" not in text
    assert found.describe(dict.fromkeys(found.changes, 1)) == ""


BAD = ["x" * 1000, True, float("nan"), float("inf"), 1e300, -1e300, 1 << 70]


@pytest.mark.parametrize("value", [*BAD, [1], np.ones(3), StringArray.__new__(StringArray)])
def test_bad_metadata_is_a_warning(tmp_path, value):
    found = read(tmp_path, metadata={"general.sampling.top_p": value, "general.sampling.temp": 0.5})
    assert dict(found.changes) == {"temperature": 0.5}
    assert len(found.warnings) == 1
    assert "general.sampling.top_p is ignored" in found.warnings[0]
    assert len(found.warnings[0]) < 400


@pytest.mark.parametrize("value", ['"0.5"', "true", "[1]", "{}", "2.5", "0", "-1"])
def test_bad_json_values_are_warnings(tmp_path, value):
    found = read(tmp_path, json_text=f'{{"top_p": {value}, "top_k": 7, "do_sample": 1}}')
    assert dict(found.changes) == {"top_k": 7}
    assert len(found.warnings) == 2


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "NaN", '{"top_p": NaN}', '{"a": 1, "a": 2}', "[" * 1000, '{"top_p": 1e999}'],
)
def test_a_bad_json_file_is_a_warning(tmp_path, text):
    found = read(tmp_path, json_text=text)
    assert found.changes == {}
    assert len(found.warnings) == 1
    assert "ignored" in found.warnings[0]


def test_a_huge_file_and_a_pipe_are_warnings(tmp_path):
    assert read(tmp_path).warnings == ()
    path = tmp_path / "generation_config.json"
    with path.open("wb") as file:
        file.truncate(5 << 20)
    assert "more than" in read(tmp_path).warnings[0]
    path.unlink()
    os.mkfifo(path)
    assert "not a regular file" in read(tmp_path).warnings[0]


def test_a_model_uses_what_it_recommends():
    engine = FakeEngine(n_ctx=64)
    info = SimpleNamespace(recommended=Recommended({"temperature": 0.0}, "test"))
    model = Model(engine, ByteTokenizer(), None, None, info)
    texts = {model.generate("x", max_tokens=8, seed=seed).text for seed in range(4)}
    assert len(texts) == 1
    streamed = "".join(chunk.text for chunk in model.stream("x", max_tokens=8))
    assert {streamed} == texts
    chats = {model.chat(max_tokens=8, seed=seed).send("x").text for seed in range(4)}
    assert len(chats) == 1
    warm = {model.generate("x", max_tokens=8, seed=s, temp=2.0).text for s in range(4)}
    assert len(warm) > 1


def test_the_default_model_comes_with_settings():
    path = default_model_path()
    found = read_recommended(SimpleNamespace(metadata={}, path=str(path), kind="gguf"))
    assert dict(found.changes) == {
        "temperature": 0.0,
        "repeat_penalty": 1.15,
        "repeat_last_n": 256,
    }
