"""``weights=``: which layers are rounded and stored without zeros, and that zeros change no bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgesparse
from edgesparse.errors import UsageError

TINY = Path(__file__).parents[2] / "models" / "tiny"
IDS = list(range(3, 30))
EXECUTORS = ("native", "portable", "reference")


@pytest.mark.parametrize("name", ["llama-blocks.gguf", "llama-floats.gguf"])
@pytest.mark.parametrize(("dense", "sparse"), [("q8", "bmp8"), ("q4", "bmp4"), ("dense", "auto")])
def test_same_logits(name: str, dense: str, sparse: str) -> None:
    found = []
    for weights in (dense, sparse):
        for executor in EXECUTORS:
            with edgesparse.load(TINY / name, weights=weights, executor=executor) as model:
                found.append(model.logits(IDS))
                assert sparse in ("auto", *model.info.formats.split()) or weights == dense
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_rounding_is_named() -> None:
    with edgesparse.load(TINY / "llama-bf16", weights="bmp8") as model:
        assert "14 BF16 rounded to bmp8" in model.info.quality
        notes = [w.note for w in model.parameters.weights.values() if w.format.is_bitmap]
    assert len(notes) == 14
    assert all("zeros left out" in note and "rounded anew" in note for note in notes)


def test_unknown_choice_is_refused() -> None:
    with pytest.raises(UsageError, match="there are no weights 'q5'"):
        edgesparse.load(TINY / "llama-bf16", weights="q5")
