"""The arguments sparsity and predict of load, and models whose activations are no numbers."""

import numpy as np
import pytest

import edgesparse
from edgesparse.errors import CalibrationError, EdgesparseError, ModelFormatError, UsageError
from edgesparse.sparsity import SparseInferTable, Thresholds, fingerprint
from edgesparse.sparsity.calibrate import calibrate_thresholds
from edgesparse.sparsity.sparseinfer import calibrate_alphas
from edgesparse.sparsity.statistics import collect
from tests.executors.running import load_tiny
from tests.models import tiny
from tests.models.rewrite import rewrite

RELU = "llama-relu.gguf"
IDS = np.random.default_rng(1).integers(0, tiny.N_VOCAB, 200).tolist()


def calibrations() -> tuple[Thresholds, SparseInferTable]:
    with load_tiny(RELU) as model:
        print_of = fingerprint(model.config, model.parameters.vectors)
    layers = (0, 1)
    thresholds = Thresholds(print_of, "teal", 0.4, {f"blk.{i}.qkv": 0.3 for i in layers})
    return thresholds, SparseInferTable(print_of, {f"blk.{i}.gate_up": 9_000 for i in layers}, 0.9)


def test_what_sparsity_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    thresholds, table = calibrations()
    thresholds.save(tmp_path / "t.json")
    taken = (0.4, np.float32(0.4), np.float64(0.4), "0.4", thresholds, tmp_path / "t.json")
    for value in (*taken, str(tmp_path / "t.json")):
        with load_tiny(RELU, sparsity=value) as model:
            assert "40% of activations" in model.info.quality, value
    refused = (0, 1, np.int64(1), -0.1, float("nan"), True, "nan", "", b"0.4", [0.4], table)
    for value in refused:
        with pytest.raises(UsageError, match="sparsity"):
            load_tiny(RELU, sparsity=value)
    with load_tiny(RELU, sparsity=Thresholds(**vars(thresholds) | {"sparsity": 0.004})) as model:
        assert "0.4% of activations" in model.info.quality


def test_calibrating_takes_no_part_in_a_memory_budget(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="beyond any memory budget"):
        load_tiny(RELU, sparsity=0.4, mem_budget="1GB")
    load_tiny(RELU, sparsity=0.4).close()
    with load_tiny(RELU, sparsity=0.4, mem_budget="1GB") as model:  # kept by then
        assert "40% of activations" in model.info.quality


def test_what_predict_takes(tmp_path):
    thresholds, table = calibrations()
    table.save(tmp_path / "p.json")
    for value in (table, tmp_path / "p.json", str(tmp_path / "p.json")):
        with load_tiny(RELU, predict=value, predict_force=True) as model:
            assert "dead gates of 2 layers" in model.info.quality
    for value in (thresholds, "", 0.4, True, b"p", [table]):
        with pytest.raises(UsageError, match=r"predict|not of a predictor"):
            load_tiny(RELU, predict=value)
    with pytest.raises(UsageError, match="exclude each other"):
        load_tiny(RELU, predict=table, sparsity=thresholds)


def test_another_models_predictor_is_refused_before_weights_are_read(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr("edgesparse.load_model.load_parameters", fail)
    table = SparseInferTable("f" * 32, {f"blk.{i}.gate_up": 1 for i in (0, 1)}, 0.9)
    table.save(tmp_path / "p.json")
    for value in (table, tmp_path / "p.json"):
        with pytest.raises(CalibrationError, match="made for a model ffff"):
            load_tiny(RELU, predict=value)


def test_activations_that_are_no_numbers_are_refused(tmp_path):
    """A quantile of NaN would end in a file that no model can be loaded with."""

    def spoil(tensors):
        values, kind = tensors["blk.1.ffn_norm.weight"]
        tensors["blk.1.ffn_norm.weight"] = (np.full_like(values, 3e38), kind)

    path = rewrite(tiny.path(RELU), tmp_path / "m.gguf", tensors=spoil)
    ways = (
        lambda model: collect(model, IDS),
        lambda model: calibrate_thresholds(model, IDS, method="teal", sparsity=0.4),
        lambda model: calibrate_alphas(model, IDS, recall=0.9),
    )
    for way in ways:
        with edgesparse.load(path, threads=1, fused=False) as model:
            with pytest.raises(ModelFormatError, match=r"blk\.1\..*not a number") as caught:
                way(model)
            assert isinstance(caught.value, EdgesparseError)
            assert "damaged" in caught.value.advice
