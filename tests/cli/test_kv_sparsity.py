"""--kv-sparsity in every verb that takes it: bad values say what is wrong, good ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesparse.cli.program import run
from edgesparse.cli.verbs import VERBS
from tests.models import tiny

TEXT = "Once upon a time there was a king. " * 60
MORE: dict[str, list[str]] = {
    "chat": ["-p", "x", "-n", "1"],
    "run": ["-p", "x", "-n", "1"],
    "inspect": [],
    "plan": [],
    "verify": ["-p", "x"],
    "bench": ["-p", "4", "-n", "2", "-r", "1"],
    "sparsity": ["-f", "TEXT"],
    "convert": ["OUT"],
    "calibrate": ["-f", "TEXT", "-o", "OUT"],
    "perplexity": ["-f", "TEXT", "-c", "64"],
}
BAD = {
    "-0.5": "above 0 and below 1",
    "1": "above 0 and below 1",
    "nan": "above 0 and below 1",
    "0.001": "drop at least one of",
    "half": "invalid float value: 'half'",
}


def takes_it(verb: str, capsys: pytest.CaptureFixture[str]) -> bool:
    run([verb, "--help"])
    return "--kv-sparsity" in capsys.readouterr().out


def test_these_are_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert {verb.name for verb in VERBS if takes_it(verb.name, capsys)} == set(MORE)


@pytest.mark.parametrize("verb", MORE)
def test_bad_values_are_refused(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text(TEXT)
    places = {"TEXT": str(text), "OUT": str(out)}
    flags = [places.get(flag, flag) for flag in MORE[verb]]
    argv = [verb, "-m", str(tiny.path("llama-floats.gguf")), "--executor", "reference", *flags]
    for value, words in BAD.items():
        assert run([*argv, f"--kv-sparsity={value}"]) == 2, value
        said = capsys.readouterr()
        assert words in said.err, value
        assert "Traceback" not in said.err
        assert not said.out
    assert list(tmp_path.iterdir()) == [text]
