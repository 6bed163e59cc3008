"""Logits of the tiny folders against what `transformers` computed for them (stored)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import edgesparse
from tests.models import independent, tiny

STORED = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "transformers_reference.json").read_text()
)
TOLERANCE = 1e-4  # of the spread: float32 sums in another order, and the half-precision cache


@pytest.mark.parametrize("name", STORED["models"])
def test_logits(name: str) -> None:
    stored = STORED["models"][name]
    prompt, kept = STORED["prompt"], STORED["kept"]
    with edgesparse.load(tiny.path(name), threads=2, head="exact") as model:
        found = model.logits(prompt)
    assert found.shape == (40, tiny.N_VOCAB)
    expected = np.array(stored["logits"])
    assert np.abs(found[:, kept] - expected).max() < 20 * TOLERANCE * stored["spread"]
    assert (found.argmax(axis=1) == stored["top"]).mean() > 0.97
    # Without the half-precision cache nothing but the order of sums is left.
    alike = independent.logits(independent.load(tiny.path(name)), [prompt], half_cache=False)[0]
    assert np.abs(alike[:, kept] - expected).max() < TOLERANCE * stored["spread"]


def test_every_family_is_stored() -> None:
    assert {name.split("-")[0] for name in STORED["models"]} == {
        "llama",
        "qwen2",
        "qwen3",
        "gemma3",
        "mixtral",
        "qwen2moe",
        "qwen3moe",
    }
