"""FATReLU and the shifted ReLU: whole models, against a decoder that shares no code with them."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgesparse
from edgesparse.cli.program import run
from edgesparse.errors import ModelFormatError
from edgesparse.executors.lockstep import lockstep
from edgesparse.executors.native import isa_names
from edgesparse.plan.op import GluKind, linears_of
from tests.esp.packing import pack
from tests.executors.running import EXECUTORS, bits, executor_of, run_in_chunks, step_of
from tests.models import independent, tiny
from tests.models.rewrite import rewrite

KINDS = ("fatrelu", "shiftrelu")
THRESHOLD = 0.3


def gguf_model(
    folder: Path, kind: str, threshold: Any = THRESHOLD, *, experts: bool = False
) -> Path:
    source = tiny.path("mixtral-tq2_0.gguf" if experts else "llama-relu.gguf")
    changes = {"llama.hidden_activation": kind}
    if threshold is not None:
        changes["llama.hidden_activation_param"] = threshold
    return rewrite(source, folder / f"{kind}-{experts}.gguf", metadata=changes)


def powerinfer_model(folder: Path, kind: str) -> Path:
    """The magic says that there is a ReLU; the file may say which."""
    path = gguf_model(folder, kind)
    raw = path.read_bytes()
    path.write_bytes(b"PWRI" + raw[4:])
    return path


def hf_model(folder: Path, kind: str, threshold: Any = THRESHOLD) -> Path:
    """ProSparse's keys; a threshold that is text goes into the file as it stands."""
    target = folder / kind
    shutil.copytree(tiny.path("llama-bf16"), target)
    config = json.loads((target / "config.json").read_text())
    config |= {"hidden_act": kind, "hidden_act_param": "THRESHOLD"}
    if threshold is ...:
        del config["hidden_act_param"]
    stated = threshold if isinstance(threshold, str) else json.dumps(threshold, default=str)
    text = json.dumps(config).replace('"THRESHOLD"', stated)
    (target / "config.json").write_text(text)
    return target


def distance(found: np.ndarray, net: independent.Net) -> float:
    expected = independent.logits(net, [tiny.PROMPT])[0]
    return float(np.abs(found - expected).max() / expected.std())


MODELS: list[tuple[Callable[[Path, str], Path], float]] = [
    (gguf_model, 2e-3),
    (hf_model, 1e-4),
    (lambda folder, kind: gguf_model(folder, kind, experts=True), 4e-4),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("make", "tolerance"), MODELS, ids=("gguf", "hf", "experts"))
def test_logits(make: Any, tolerance: float, kind: str, tmp_path: Path) -> None:
    path = make(tmp_path, kind)
    net = independent.load(path)
    assert (net.gate, net.threshold) == (kind, pytest.approx(THRESHOLD))
    with edgesparse.load(path, threads=2, head="exact") as model:
        assert model.config.glu is GluKind.RELU
        found = model.logits(tiny.PROMPT)
    assert distance(found, net) < tolerance
    for other in (
        replace(net, threshold=0.0),
        replace(net, threshold=0.9 * THRESHOLD),
        replace(net, gate=next(other for other in KINDS if other != kind)),
    ):
        assert distance(found, other) > 3 * tolerance


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("experts", [False, True])
def test_same_bits_everywhere(kind: str, experts: bool, tmp_path: Path) -> None:
    """Executors, instruction sets, threads, chunks, fused or not, skipping or not."""
    path, n_cases, n_dead = gguf_model(tmp_path, kind, experts=experts), 0, []
    truth = None
    for sparse, fused in itertools.product(("off", "auto"), (True, False)):
        options = {"executor": "reference", "head": "exact", "sparse": sparse, "fused": fused}
        with edgesparse.load(path, **options) as model:
            linears = [op for part in model.engine.plan.ops for op in linears_of(part)]
            n_dead.append(sum(op.skip_zeros for op in linears))
            for name in EXECUTORS:
                for isa in list(isa_names()) if name == "native" else [None]:
                    for threads, chunk in ((1, 1), (2, 1), (3, 4), (2, 20)):
                        with executor_of(model, name, threads=threads, isa=isa) as executor:
                            got = bits(run_in_chunks(executor, tiny.PROMPT, chunk))
                        truth = got if truth is None else truth
                        assert np.array_equal(got, truth), (sparse, fused, name, isa, chunk)
                        n_cases += 1
    assert n_cases == 4 * 4 * (2 + len(isa_names()))
    assert n_dead[:2] == [0, 0]
    assert min(n_dead[2:]) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_lockstep_and_dead_gates(kind: str, tmp_path: Path) -> None:
    """Ops one by one; and what is stored of a gate is 0 below the threshold, or shifted."""
    path, gates = gguf_model(tmp_path, kind), {}
    with (
        edgesparse.load(path, executor="reference", head="exact") as model,
        executor_of(model, "native") as left,
        executor_of(model, "portable") as right,
    ):
        assert lockstep(left, right, tiny.PROMPT, chunk=1).difference is None
        assert lockstep(left, right, tiny.PROMPT, chunk=7).difference is None
    for source in (path, tiny.path("llama-relu.gguf")):
        with edgesparse.load(source, threads=2, head="exact") as model:
            executor = model.engine.executor
            at = next(i for i, op in enumerate(executor.plan.ops) if op.name == "blk.0.gate_up")
            executor.run(step_of(executor, tiny.PROMPT), 0, at + 1)
            gates[source] = executor.buffer("gate", len(tiny.PROMPT)).copy()
    plain, t = gates[tiny.path("llama-relu.gguf")], np.float32(THRESHOLD)
    if kind == "fatrelu":
        expected = np.where(plain >= t, plain, np.float32(0))
    else:
        expected = np.maximum(plain - t, np.float32(0))
    assert np.array_equal(bits(gates[path]), bits(expected))
    assert (gates[path] > 0).sum() < (plain > 0).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_powerinfer_may_state_it(kind: str, tmp_path: Path) -> None:
    with edgesparse.load(gguf_model(tmp_path, kind), threads=2) as model:
        expected = bits(model.logits(tiny.PROMPT))
    with edgesparse.load(powerinfer_model(tmp_path, kind), threads=2) as model:
        assert np.array_equal(bits(model.logits(tiny.PROMPT)), expected)


def test_a_threshold_of_zero_is_a_relu(tmp_path: Path) -> None:
    with edgesparse.load(tiny.path("llama-relu.gguf"), threads=2) as model:
        expected = bits(model.logits(tiny.PROMPT))
    for kind in KINDS:
        with edgesparse.load(gguf_model(tmp_path, kind, 0.0), threads=2) as model:
            assert np.array_equal(bits(model.logits(tiny.PROMPT)), expected)


def test_other_activations_ignore_the_number(tmp_path: Path) -> None:
    """Configs carry it beside activations that have no threshold."""
    with edgesparse.load(tiny.path("llama-relu.gguf"), threads=2) as model:
        expected = bits(model.logits(tiny.PROMPT))
    with edgesparse.load(gguf_model(tmp_path, "relu"), threads=2) as model:
        assert np.array_equal(bits(model.logits(tiny.PROMPT)), expected)


BAD = (float("nan"), float("inf"), float("-inf"), -0.01, -1, 1e9, "soon", None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threshold", BAD, ids=str)
def test_bad_thresholds_of_gguf_files(kind: str, threshold: Any, tmp_path: Path) -> None:
    if threshold == -1:
        threshold = -1.0
    with pytest.raises(ModelFormatError) as caught:
        edgesparse.load(gguf_model(tmp_path, kind, threshold))
    assert caught.value.field == "llama.hidden_activation_param"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "threshold",
    ["NaN", "Infinity", "-Infinity", "1e999", "-0.01", "-1", "1e9", '"soon"', "true", ...],
)
def test_bad_thresholds_of_folders(kind: str, threshold: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError) as caught:
        edgesparse.load(hf_model(tmp_path, kind, threshold))
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_files_keep_it(kind: str, tmp_path: Path) -> None:
    source = gguf_model(tmp_path, kind)
    path = pack(source, tmp_path / "model.esp")
    with edgesparse.load(source, threads=2) as old, edgesparse.load(path, threads=2) as new:
        assert new.engine.plan == old.engine.plan
        assert np.array_equal(bits(new.logits(tiny.PROMPT)), bits(old.logits(tiny.PROMPT)))


def test_a_name_that_speaks_of_a_relu_is_warned_about(tmp_path: Path) -> None:
    """Other converters lose the activation; with SiLU such models answer nonsense."""
    n_warned = []
    for name, kind in (("prosparse-llama", None), ("ReluLLaMA", "relu"), ("tiny", None)):
        changes = {"general.name": name, "llama.hidden_activation": kind}
        path = rewrite(tiny.path("llama-relu.gguf"), tmp_path / "m.gguf", metadata=changes)
        with edgesparse.load(path, executor="reference") as model:
            assert model.config.glu is (GluKind.RELU if kind else GluKind.SILU)
            n_warned.append(sum("speaks of a ReLU" in text for text in model.info.warnings))
    assert n_warned == [1, 0, 0]


def test_inspect_says_which_activation_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = rewrite(
        tiny.path("llama-relu.gguf"),
        tmp_path / "named.gguf",
        metadata={"general.name": "prosparse", "llama.hidden_activation": None},
    )
    for path, words in (
        (gguf_model(tmp_path, "fatrelu", 0.25), ("fatrelu: gates below 0.25",)),
        (gguf_model(tmp_path, "shiftrelu", 0.25), ("shiftrelu: a relu of the gate less 0.25",)),
        (tiny.path("llama-relu.gguf"), ("activation    relu\n",)),
        (named, ("activation    silu\n", "warning: ", "speaks of a ReLU")),
    ):
        assert run(["inspect", str(path)]) == 0
        out = capsys.readouterr().out
        assert all(word in out for word in words), out
