"""How the head is stored: each choice, the same bits on all executors, and who says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import edgesparse
from edgesparse.checkpoint import TensorInfo, TensorType
from edgesparse.choices import HEADS
from edgesparse.cli import main
from edgesparse.errors import UsageError
from edgesparse.executors.lockstep import lockstep
from edgesparse.formats import Format, dequantize
from edgesparse.formats.head import AUTO, head_override
from edgesparse.loading import head_name
from edgesparse.quality import EXACT
from tests.executors.running import executor_of, load_tiny
from tests.models import tiny

T = TensorType
EXPECTED = {
    "bitnet-tq1_0.gguf": {"exact": "Q8", "auto": "Q8", "q8": "Q8", "q6": "Q6", "q4": "Q4"},
    "bitnet-i2_s.gguf": {"exact": "F16", "auto": "Q8", "q8": "Q8", "q6": "Q6", "q4": "Q4"},
    "llama-floats.gguf": {"exact": "BF16", "auto": "Q8", "q8": "Q8", "q6": "Q6", "q4": "Q4"},
    "llama-blocks.gguf": {"exact": "Q8M", "auto": "Q8M"},
    "llama-k.gguf": {"exact": "Q8", "auto": "Q8", "q8": "Q8", "q6": "Q6", "q4": "Q4"},
}
"""Tied and separate heads of all kinds; Q5_1 cannot be rounded."""


def test_every_choice_on_every_executor() -> None:
    """Stored as chosen, only the head; the same bits from numpy, numba and C."""
    n_cases = 0
    for name, formats in EXPECTED.items():
        with load_tiny(name, head="exact") as model:
            kept = dict(model.parameters.weights)
        for head, fmt in formats.items():
            with load_tiny(name, head=head) as model:
                key = head_name(model.engine.plan)
                found = model.parameters.weights
                assert found[key].format.name == fmt
                assert fmt.lower() in model.info.head
                changed = [k for k, w in found.items() if w.format is not kept[k].format]
                assert changed == ([key] if found[key].format is not kept[key].format else [])
                if changed:
                    assert "rounded anew" in found[key].note
                    assert f"rounded to {fmt.lower()}" in model.info.quality
                for other in ("native", "portable"):
                    with executor_of(model, other) as executor:
                        report = lockstep(executor, model.engine.executor, tiny.PROMPT, chunk=7)
                    assert report.difference is None, report.difference
                    n_cases += 1
    assert n_cases == 2 * (4 * (len(HEADS) - 1) + 2)  # two-stage: test_two_stage.py


def test_rounding_is_as_fine_as_it_says() -> None:
    """Finer formats lie nearer to the file, in weights and in logits."""
    with load_tiny("bitnet-i2_s.gguf", head="exact") as model:
        name = head_name(model.engine.plan)
        values = dequantize(model.parameters.weights[name])
        logits = model.logits(tiny.PROMPT)
        assert model.info.quality == EXACT
    errors = []
    for head in ("q8", "q6", "q4"):
        with load_tiny("bitnet-i2_s.gguf", head=head) as model:
            weights = dequantize(model.parameters.weights[name])
            moved = model.logits(tiny.PROMPT) - logits
        errors.append((float(np.std(weights - values)), float(np.std(moved))))
    of_weights, of_logits = np.array(errors).T
    assert (of_weights[1:] > 3.5 * of_weights[:-1]).all(), errors  # steps grow fourfold
    assert (np.diff(of_logits) > 0).all(), errors
    assert of_weights[2] < 0.2 * values.std(), errors


def test_auto_keeps_what_is_smaller_already() -> None:
    shape = (512, 256)
    kinds = {
        **dict.fromkeys((T.F32, T.F16, T.BF16), AUTO),
        **dict.fromkeys((T.Q8_0, T.Q6_K, T.Q5_0, T.Q4_0, T.Q4_1, T.Q4_K), None),
        **dict.fromkeys((T.TQ1_0, T.I2_S_128X32), None),
    }
    for kind, expected in kinds.items():
        info = TensorInfo("output.weight", kind, shape, 0, 0)
        assert head_override(info, "auto") is expected, kind
        assert head_override(info, "exact") is None
        assert head_override(info, "q4") is Format.Q4
    assert len(kinds) == 11
    masters = TensorInfo("output.weight", T.BF16, shape, 0, 0, ternarize=True)
    assert head_override(masters, "auto") is None


def test_refusals(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"no head 'q5'.*auto, exact"):
        edgesparse.load(tiny.path("bitnet-tq1_0.gguf"), head="q5")
    with pytest.raises(UsageError, match="Q5_1 cannot be stored as Q6"):
        load_tiny("llama-blocks.gguf", head="q6")
    assert main(["inspect", str(tiny.path("llama-blocks.gguf")), "--head", "q6"]) == 2
    assert "cannot be stored" in capsys.readouterr().err


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 0
    return capsys.readouterr().out


def test_every_verb_says_what_is_rounded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tiny.path("bitnet-i2_s.gguf"))
    bench = ("bench", path, "-p", "4", "-n", "2", "-r", "1", "-t", "1")
    for head, fmt, quality in (
        ("auto", "q8", "lossy: head F16 rounded to q8"),
        ("exact", "f16", EXACT),
        ("q4", "q4", "lossy: head F16 rounded to q4"),
    ):
        flag = ("--head", head)
        for verb in (("inspect", path), ("plan", path, "--no-measure"), bench):
            assert quality in said(capsys, *verb, *flag), verb
            assert quality in said(capsys, *verb, *flag, "--json"), verb
        assert f"F16 → {fmt}" in said(capsys, "doctor", path, "--no-measure", *flag)
        assert main(["run", path, "--raw", "-p", "a", "-n", "2", "-v", *flag]) == 0
        assert f"quality:              {quality}" in capsys.readouterr().err
    monkeypatch.setenv("EDGESPARSE_HEAD", "q8")
    assert "rounded to q8" in said(capsys, "inspect", path)


def test_rounded_heads_cost_fewer_bytes() -> None:
    totals = []
    for head in ("exact", "q6", "q4"):
        with load_tiny("bitnet-tq1_0.gguf", head=head) as model:
            totals.append(model.info.weight_bytes)
            assert json.dumps(model.info.quality)
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == 3


def test_a_text_can_be_scored_with_any_head(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog " * 30)
    path = str(tiny.path("bitnet-tq1_0.gguf"))
    scores = set()
    for head in HEADS:
        out = said(
            capsys, "perplexity", path, "-f", str(text), "-c", "32", "--head", head, "--json"
        )
        scores.add(json.loads(out)["perplexity"])
    assert len(scores) == 3  # the head is Q8_0: exact, auto and q8 are one
