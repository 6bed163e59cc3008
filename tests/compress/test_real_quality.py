"""Compressing a model that no one here made: what each method loses beside simpler ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from edgesparse.cli import main
from tests.bench_verbs.real_model import model_path


def perplexities(path: Path, kind: str, method: str, capsys: Any) -> tuple[float, float]:
    """Quantise SmolLM2-135M; perplexity before and after.

    Measured on help topics of Python that GPTQ does not calibrate on.
    """
    output = path / f"{kind}-{method}.gguf"
    arguments = ["quantize", str(model_path()), str(output), kind, "-y", "--method", method]
    assert main([*arguments, "--tokens", "4096", "--windows", "4"]) == 0
    found = re.search(r"perplexity ([\d.]+) before, ([\d.]+) after", capsys.readouterr().out)
    assert found is not None
    return float(found[1]), float(found[2])


@pytest.mark.slow
def test_gptq_loses_less_than_rounding_to_the_nearest(tmp_path: Path, capsys: Any) -> None:
    rises: dict[tuple[int, str], float] = {}
    for bits in (4, 3):
        for method in ("rtn", "gptq"):
            before, after = perplexities(tmp_path, f"w{bits}_g128", method, capsys)
            rises[bits, method] = after - before
    assert len(rises) == 4
    assert 0 < rises[4, "gptq"] <= rises[4, "rtn"]
    assert 0 < rises[3, "gptq"] < 0.9 * rises[3, "rtn"]
    assert rises[4, "gptq"] < rises[3, "gptq"]


@pytest.mark.slow
def test_pruning_loses_as_theory_says(tmp_path: Path, capsys: Any) -> None:
    """Half of SmolLM2-135M; help topics of Python, scored at their end."""
    found = {}
    for method, flags in (
        ("magnitude", ("--sparsity", "0.5")),
        ("wanda", ("--sparsity", "0.5")),
        ("wanda", ("--pattern", "4:8")),
        ("wanda", ("--pattern", "2:4")),
        ("sparsegpt", ("--sparsity", "0.5")),
    ):
        arguments = ["prune", str(model_path()), str(tmp_path / "out.gguf"), "-y", "--json"]
        assert main([*arguments, "--method", method, *flags, "--windows", "4"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["sparsity"] == pytest.approx(0.5, abs=1e-4)
        found[method, flags[1]] = report["perplexity_after"]
        assert found[method, flags[1]] > report["perplexity_before"]
    assert found["wanda", "0.5"] < found["magnitude", "0.5"]
    assert found["sparsegpt", "0.5"] <= 1.05 * found["wanda", "0.5"]
    assert found["wanda", "0.5"] <= found["wanda", "4:8"] <= found["wanda", "2:4"]
