"""``weights=``: which layers are rounded and stored without zeros, and that zeros change no bit."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import edgesparse
from edgesparse.cli import main
from edgesparse.cli.costs import break_even, predictions
from edgesparse.errors import UsageError
from edgesparse.formats import Format, Weight, pack_blocks, pack_float
from edgesparse.formats.sparse import SPARSE_OF, choose_sparse, note_zeros
from edgesparse.formats.sparse_cost import SparseCost, usual_cost
from edgesparse.formats.weight import storage_bytes
from edgesparse.formats.without_zeros import expected_bytes

TINY = Path(__file__).parents[2] / "models" / "tiny"
IDS = list(range(3, 30))
EXECUTORS = ("native", "portable", "reference")


@pytest.mark.parametrize("name", ["llama-blocks.gguf", "llama-floats.gguf"])
@pytest.mark.parametrize(
    ("dense", "sparse"), [("q8", "bmp8"), ("q4", "bmp4"), ("q8", "csr"), ("dense", "auto")]
)
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
        notes = [w.note for w in model.parameters.weights.values() if w.format.is_sparse]
    assert len(notes) == 14
    assert all("zeros left out" in note and "rounded anew" in note for note in notes)


def test_pruned_floats_are_recognised() -> None:
    rng = np.random.default_rng(3)
    for zeros, said in ((0.0, ""), (0.03, ""), (0.5, "zeros, stored; --weights bmp8")):
        values = rng.standard_normal((100, 256)).astype(np.float16)
        values[rng.random(values.shape) < zeros] = 0
        data = pack_float(values, Format.F16)
        weight = Weight("w", Format.F16, 100, 256, data, np.zeros(0, np.float32))
        noted = note_zeros(weight)
        assert said in noted.note
        assert bool(noted.note) == bool(said)


def test_inspect_says_what_became_of_zeros(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    n_cases = 0
    for name, store, weights, said in (
        (
            "floats",
            "f16",
            "auto",
            "14 matrices, the first: about 48% zeros, stored; --weights bmp8",
        ),
        ("floats", "f16", "bmp8", "zeros left out, "),
        ("k", "int8", "bmp8", "zeros left out, "),
    ):
        source, out = str(TINY / f"llama-{name}.gguf"), str(tmp_path / f"{store}.gguf")
        assert main(["inspect", source]) == 0
        assert "pruned  " not in capsys.readouterr().out
        flags = ["-y", "-q", "--store", store, "--method", "magnitude", "--no-evaluate"]
        assert main(["prune", source, out, *flags]) == 0
        capsys.readouterr()
        assert main(["inspect", out, "--weights", weights]) == 0
        line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("pruned"))
        assert said in line
        n_cases += 1
    assert n_cases == 3


def test_zeros_that_are_kept_are_noted() -> None:
    """Where a bitmap is not predicted to be faster; rounding to 4 bits is no pruning."""
    rng, slow = np.random.default_rng(4), usual_cost("scalar", 1)
    codes = rng.integers(-8, 8, (64, 256), dtype=np.int8)
    steps = np.ones((64, 8), np.float16)
    for kept, said in ((1.0, ""), (0.5, "zeros, stored: bmp4 is not predicted to be faster")):
        codes[rng.random(codes.shape) >= kept] = 0
        data = pack_blocks(codes, steps, None, Format.Q4)
        weight = Weight("w", Format.Q4, 64, 256, data, np.zeros(0, np.float32))
        noted = choose_sparse(weight, "auto", slow)
        assert noted.format is Format.Q4
        assert said in noted.note
        assert bool(said) == bool(noted.note)


def test_predictions_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(TINY / "llama-blocks.gguf")
    assert main(["inspect", path, "--weights", "bmp8", "--costs", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["engine"]["predictions"]
    assert len(data["tensors"]) > 4
    for row in data["tensors"]:
        assert 0 <= row["zeros"] < 1
        assert set(row["bytes"]) == set(row["us"]) == {"q8", "bmp8", "q4", "bmp4", "csr"}
        for taken, dense in zip(row["taken"], ("q8", "q4"), strict=True):
            assert row["us"][taken] <= row["us"][dense]
    assert main(["inspect", path, "--costs"]) == 0
    said = capsys.readouterr().out
    assert "predicted from" in said
    assert "bmp8 over q8: smaller from 13%, faster" in said


@pytest.mark.parametrize("variant", ["scalar", "avx2", "avx512vbmi2", "neon"])
def test_costs_name_what_loading_takes(variant: str) -> None:
    """Not merely what is predicted to be the fastest: a little faster is not enough."""
    rng, usual = np.random.default_rng(5), usual_cost(variant, 2)
    level = SparseCost(usual.read, {**usual.rates, "bmp8": 1.02 * usual.rates["q8"]}, measured=True)
    fast = SparseCost(1e6, level.rates, measured=True)
    n_dense = n_cases = 0
    shares = (0.0, 0.1, 0.3, 0.5, 0.7, 0.97)
    for cost, dense, zeros in itertools.product((usual, level, fast), SPARSE_OF, shares):
        least, most = (-127, 128) if dense is Format.Q8 else (-8, 8)
        codes = rng.integers(least, most, (256, 512), dtype=np.int8)
        codes[codes == 0] = 1
        codes[rng.random(codes.shape) < zeros] = 0
        if zeros == 0.5:
            codes.reshape(-1, 4)[:] = [0, 3, 0, 5]
        data = pack_blocks(codes, np.ones((256, 16), np.float16), None, dense)
        weight = Weight("w", dense, 256, 512, data, np.zeros(0, np.float32))
        (row,) = predictions([weight], cost)
        found = choose_sparse(weight, "auto", cost).format
        assert row["taken"][dense is Format.Q4] == found.name.lower(), (dense, zeros)
        n_dense += found is dense and min(row["us"], key=row["us"].__getitem__) != row["format"]
        n_cases += 1
    assert n_cases == 36
    assert n_dense


def test_unknown_choice_is_refused() -> None:
    with pytest.raises(UsageError, match="there are no weights 'q5'"):
        edgesparse.load(TINY / "llama-bf16", weights="q5")


@pytest.mark.parametrize("variant", ["scalar", "avx2", "avx512vbmi2", "neon"])
def test_break_even_is_where_predictions_cross(variant: str) -> None:
    cost, shape, n_crossed = usual_cost(variant, 2), (4096, 4096), 0

    def pays(fmt: Format, dense: Format, zeros: float) -> tuple[bool, bool]:
        n_bytes, whole = expected_bytes(fmt, *shape, zeros), storage_bytes(dense, *shape)
        return n_bytes < whole, cost.is_faster(fmt, n_bytes, dense, whole, 4096 * 4096)

    for row in break_even(cost):
        fmt, dense = Format[row["format"].upper()], Format[row["over"].upper()]
        for at, share in enumerate((row["smaller"], row["faster"])):
            if share is None:
                assert not pays(fmt, dense, 0.5)[at]
                continue
            assert pays(fmt, dense, share)[at]
            if fmt is Format.CSR:
                assert share >= 0.9
            elif not fmt.is_two_of_four:
                assert not pays(fmt, dense, share - 0.01)[at]
            n_crossed += 1
    assert n_crossed >= 5
    sizes = {row["format"]: row["smaller"] for row in break_even(cost)}
    assert sizes["bmp8"] == pytest.approx(0.125, abs=0.01)
    assert sizes["bmp4"] == pytest.approx(0.26, abs=0.01)
