"""Calibration files: round trips to the bit, and one typed error for everything else."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from edgesparse.errors import CalibrationError, ModelNotFound, UsageError
from edgesparse.plan.op import Linear, Output
from edgesparse.plan.plan import Plan
from edgesparse.sparsity import SparseInferTable, Thresholds, load_calibration
from edgesparse.sparsity.thresholds import DENSE_TOKENS

MODEL = "0123456789abcdef0123456789abcdef"
FACTORS = np.random.default_rng(3).lognormal(size=24).astype(np.float32)
FACTORS[3] = 0.0


def plan() -> Plan:
    ops = (
        Linear("blk.0.qkv", "x", (Output("blk.0.attn_q.weight", "q"),)),
        Linear("blk.0.gate_up", "x", (Output("blk.0.ffn_gate.weight", "gate"),)),
    )
    buffers = (("x", 16), ("q", 16), ("gate", 24))
    return Plan("llama", ops, buffers, 1, 1, 16, 32, 64, 8)


def teal() -> Thresholds:
    return Thresholds(
        MODEL,
        "teal",
        0.4,
        {"blk.0.qkv": 0.1 + 0.2, "blk.0.gate_up": 0.0},
        {"blk.0.qkv": 0.401},
        text_sha256="ab",
    )


def test_thresholds_come_back_as_they_were(tmp_path):
    teal().save(tmp_path / "t.json")
    found = load_calibration(tmp_path / "t.json")
    assert isinstance(found, Thresholds)
    assert vars(found) == vars(teal())
    rule = found.rule("blk.0.qkv")
    assert rule.threshold == 0.1 + 0.2
    assert rule.factors is None
    assert not rule.on_gate
    assert found.rule("blk.7.qkv") is None
    assert found.dense_tokens == DENSE_TOKENS
    found.check(MODEL, plan())


def test_factors_come_back_as_they_were(tmp_path):
    made = Thresholds(MODEL, "chess", 0.5, {"blk.0.gate_up": FACTORS, "blk.0.qkv": 0.25})
    made.save(tmp_path / "t.json")
    found = load_calibration(tmp_path / "t.json")
    rule = found.rule("blk.0.gate_up")
    assert rule.factors.dtype == np.float32
    np.testing.assert_array_equal(rule.factors, FACTORS)
    assert (rule.threshold, rule.on_gate) == (1.0, True)
    assert not found.rule("blk.0.qkv").on_gate
    found.check(MODEL, plan())


def test_alphas_come_back_as_they_were(tmp_path):
    alphas = {f"blk.{i}.gate_up": 9_700 + 37 * i for i in range(40)}
    made = SparseInferTable(MODEL, alphas, 0.99, {"blk.0.gate_up": 0.99}, {"blk.0.gate_up": 0.5})
    made = replace(made, skipped={"blk.1.gate_up": 0.25}, skipped_tiles={"blk.1.gate_up": 0.0})
    made.save(tmp_path / "a.json")
    found = load_calibration(tmp_path / "a.json")
    assert isinstance(found, SparseInferTable)
    assert vars(found) == vars(made)


def text(**changes: object) -> str:
    """Return a good file's text with some top keys changed (None: left out)."""
    content = {
        "format": "edgesparse-calibration",
        "version": 1,
        "method": "teal",
        "model": MODEL,
        "sparsity": 0.4,
        "ops": {"blk.0.qkv": {"threshold": 0.5}},
    } | changes
    return json.dumps({key: value for key, value in content.items() if value is not None})


NAN = float("nan")
BROKEN = {
    "empty": ("", "value"),
    "not json": ("{", "value"),
    "a list": ("[]", "type"),
    "another format": (text(format="x"), "layout"),
    "no format": (text(format=None), "layout"),
    "format of another type": (text(format=3), "type"),
    "another version": (text(version=2), "range"),
    "version of another type": (text(version="1"), "type"),
    "unknown method": (text(method="magic"), "value"),
    "no method": (text(method=None), "value"),
    "no sparsity": (text(sparsity=None), "missing"),
    "sparsity above 1": (text(sparsity=1.5), "range"),
    "no model": (text(model=None), "missing"),
    "no ops": (text(ops=None), "type"),
    "ops of another type": (text(ops=[1]), "type"),
    "entry of another type": (text(ops={"a": 1}), "type"),
    "no threshold": (text(ops={"a": {}}), "missing"),
    "NaN threshold": (text(ops={"a": {"threshold": NAN}}), "value"),
    "infinite threshold": (text(ops={"a": {"threshold": float("inf")}}), "value"),
    "huge threshold": (text(ops={"a": {"threshold": 1e31}}), "range"),
    "negative threshold": (text(ops={"a": {"threshold": -0.1}}), "range"),
    "true threshold": (text(ops={"a": {"threshold": True}}), "type"),
    "NaN factor": (text(ops={"a": {"factors": [1.0, NAN]}}), "value"),
    "negative factor": (text(ops={"a": {"factors": [1.0, -1.0]}}), "range"),
    "no factors": (text(ops={"a": {"factors": []}}), "range"),
    "factors of another type": (text(ops={"a": {"factors": ["1"]}}), "type"),
    "factors no list": (text(ops={"a": {"factors": 1.0}}), "type"),
    "achieved above 1": (text(ops={"a": {"threshold": 0.1, "achieved": 2}}), "range"),
    "twice": (text()[:-1] + ',"method":"cats"}', "duplicate"),
    "negative dense tokens": (text(dense_tokens=-1), "range"),
    "NaN alpha": (text(method="sparseinfer", recall=1, ops={"a": {"alpha": NAN}}), "value"),
    "negative alpha": (text(method="sparseinfer", recall=1, ops={"a": {"alpha": -1}}), "range"),
    "huge alpha": (text(method="sparseinfer", recall=1, ops={"a": {"alpha": 101}}), "range"),
    "no recall": (text(method="sparseinfer", ops={"a": {"alpha": 1}}), "missing"),
    "deep": (text()[:-1] + ',"x":' + "[" * 1000 + "]" * 1000 + "}", "limit"),
    "too many ops": (text(ops={str(i): {} for i in range((1 << 14) + 1)}), "limit"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(tmp_path, name):
    content, kind = BROKEN[name]
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(CalibrationError) as caught:
        load_calibration(tmp_path / "t.json")
    assert caught.value.kind == kind
    assert "t.json" in str(caught.value)
    assert caught.value.exit_code == 3
    if content[:1] != "{" or name == "another format":
        assert "'edgesparse calibrate' writes such files" in caught.value.advice


def test_every_truncation_is_refused(tmp_path):
    whole = text()
    n_cases = 0
    for n in range(len(whole)):
        (tmp_path / "t.json").write_text(whole[:n])
        with pytest.raises(CalibrationError):
            load_calibration(tmp_path / "t.json")
        n_cases += 1
    assert n_cases > 100


def test_a_missing_file(tmp_path):
    with pytest.raises(ModelNotFound):
        load_calibration(tmp_path / "nowhere.json")


def test_another_model_is_refused():
    others = {
        "model": (teal(), "f" * 32),
        "missing": (Thresholds(MODEL, "teal", 0.4, {"blk.1.qkv": 0.1}), MODEL),
        "layout": (Thresholds(MODEL, "chess", 0.4, {"blk.0.gate_up": FACTORS[:16]}), MODEL),
    }
    for kind, (found, fingerprint) in others.items():
        with pytest.raises(CalibrationError) as caught:
            found.check(fingerprint, plan(), "t.json")
        assert caught.value.kind == kind
    numbers = (
        {"blk.0.qkv": NAN},
        {"blk.0.qkv": -0.5},
        {"blk.0.qkv": float("inf")},
        {"blk.0.qkv": np.where(np.arange(16) == 3, np.float32(NAN), np.float32(1))},
    )
    for entries in numbers:
        with pytest.raises(CalibrationError, match=r"blk\.0\.qkv: a number") as caught:
            Thresholds(MODEL, "teal", 0.4, entries).check(MODEL, plan())
        assert caught.value.kind == "value"
    with pytest.raises(CalibrationError, match="method: magic is unknown"):
        replace(teal(), method="magic").check(MODEL, plan())
    with pytest.raises(CalibrationError, match="sparsity: found nan"):
        replace(teal(), sparsity=NAN).check(MODEL, plan())
    with pytest.raises(CalibrationError, match="dense_tokens: found -1"):
        replace(teal(), dense_tokens=-1).check(MODEL, plan())
    table = SparseInferTable(MODEL, {"blk.4.gate_up": 10_000}, 0.9)
    with pytest.raises(CalibrationError, match="no such op"):
        table.check(MODEL, plan())
    with pytest.raises(CalibrationError, match="made for a model"):
        table.check("f" * 32, plan())


def test_layers_without_an_entry_are_refused():
    """An op may be missing everywhere, which leaves it dense, but not in some layers only."""
    one, n_cases = plan(), 0
    more = tuple(replace(op, name=op.name.replace("blk.0", "blk.1")) for op in one.ops)
    two = replace(one, ops=(*one.ops, *more))
    good = {"blk.0.qkv": 0.1, "blk.1.qkv": 0.0}
    Thresholds(MODEL, "teal", 0.4, good).check(MODEL, two)
    SparseInferTable(MODEL, {f"blk.{i}.gate_up": 1 for i in (0, 1)}, 0.9).check(MODEL, two)
    bad = (
        (Thresholds(MODEL, "teal", 0.4, good | {"blk.0.gate_up": 0.1}), "blk.1.gate_up"),
        (Thresholds(MODEL, "cats", 0.4, {"blk.1.gate_up": 0.1}), "blk.0.gate_up"),
        (Thresholds(MODEL, "teal", 0.4, {}), "ops"),
        (SparseInferTable(MODEL, {"blk.0.gate_up": 10_000}, 0.9), "blk.1.gate_up"),
        (SparseInferTable(MODEL, {}, 0.9), "ops"),
    )
    for found, name in bad:
        with pytest.raises(CalibrationError) as caught:
            found.check(MODEL, two, "t.json")
        assert (caught.value.kind, caught.value.field) == ("missing", name)
        assert "edgesparse calibrate" in str(caught.value)
        n_cases += 1
    assert n_cases == 5


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    teal().save(tmp_path / "t.json")
    with pytest.raises(UsageError, match="not finite"):
        replace(teal(), thresholds={"blk.0.qkv": NAN}).save(tmp_path / "t.json")
    assert vars(load_calibration(tmp_path / "t.json")) == vars(teal())
    before = (tmp_path / "t.json").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        Thresholds(MODEL, "cats", 0.4, {}).save(tmp_path / "t.json")
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]
    assert (tmp_path / "t.json").read_bytes() == before
