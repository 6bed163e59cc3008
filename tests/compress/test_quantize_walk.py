"""What a user does with a model in two bits, and what is left when quantising is killed."""

from __future__ import annotations

import io
import json
import math
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import edgesparse
from edgesparse.cli import main
from edgesparse.perplexity import perplexity
from tests.models import tiny

MODEL = tiny.path("llama-floats.gguf")
KILLED_AT = """
import os, signal, sys
from edgesparse.cli import main
from edgesparse.compress.{module} import {owner}

whole, left = {owner}.{method}, {count}

def counted(*args, **kwargs):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.{signal})
    return whole(*args, **kwargs)

{owner}.{method} = counted
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[1:]))
"""


def quantise(output: Path, *flags: str) -> list[str]:
    return ["quantize", str(MODEL), str(output), "w3_g64", "--windows", "0", *flags]


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
@pytest.mark.parametrize(("count", "finished"), [(1, 0), (6, 5), (14, 13)])
def test_a_killed_run_goes_on_to_the_same_bytes(
    name: str, count: int, finished: int, tmp_path: Path, capsys: Any
) -> None:
    whole, output = tmp_path / "whole.gguf", tmp_path / "out.gguf"
    assert main(quantise(whole)) == 0
    script = KILLED_AT.format(module="work", owner="Work", method="put", count=count, signal=name)
    command = [sys.executable, "-c", script, *quantise(output)]
    ended = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert ended.returncode == (-signal.SIGKILL if name == "SIGKILL" else 130), ended.stderr
    assert not output.exists()
    capsys.readouterr()
    assert main(quantise(output)) == 0
    # Ctrl-C lets the matrix at hand be finished.
    found = finished + (name == "SIGINT")
    assert ("going on" in capsys.readouterr().err) == (found > 0)
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gguf", "whole.gguf"]


def test_a_run_killed_while_it_writes_leaves_what_was_there(tmp_path: Path) -> None:
    whole, output = tmp_path / "whole.gguf", tmp_path / "out.gguf"
    assert main(quantise(whole)) == 0
    output.write_text("precious")
    script = KILLED_AT.format(
        module="work", owner="Work", method="require", count=9, signal="SIGKILL"
    )
    command = [sys.executable, "-c", script, *quantise(output, "-y")]
    ended = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert output.read_text() == "precious"
    assert main(quantise(output, "-y")) == 0
    assert output.read_bytes() == whole.read_bytes()


def test_two_bits_from_quantize_to_a_conversation(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog and on it goes. " * 100)
    output = str(tmp_path / "w2.gguf")
    flags = ["-e", str(text), "--windows", "2"]
    assert main(["quantize", str(MODEL), output, "w2_g64", *flags]) == 0
    said = capsys.readouterr().out
    pattern = r"perplexity (\S+) before, (\S+) after: (\S+) ± (\S+) nats per token, 2 windows"
    found = re.search(pattern, said)
    assert found is not None, said
    before, after, rise, spread = map(float, found.groups())
    assert rise == pytest.approx(math.log(after / before), abs=2e-4)
    assert 0 < spread < 1
    with edgesparse.load(output, head="auto") as model:
        ids = model.tokenize(text.read_text(), add_special=True)
        n_ctx = min(512, model.engine.n_ctx)
        estimate = perplexity(model, ids, n_ctx, max_windows=2)
    assert after == pytest.approx(estimate.perplexity, abs=1e-4)
    assert main(["inspect", output, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert "bs2" in facts["engine"]["kernels"]
    assert main(["run", output, "-p", "hello", "-n", "4"]) == 0
    assert capsys.readouterr().out.strip()
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n/exit\n"))
    assert main(["chat", output, "-n", "4"]) == 0
    assert capsys.readouterr().out.strip()
    assert main(["bench", output, "-p", "4", "-n", "4", "-r", "1", "-t", "1", "--json"]) == 0
    assert [row["test"] for row in json.loads(capsys.readouterr().out)] == ["pp4", "tg4"]
    assert main(["perplexity", output, "-f", str(text), "-c", "64", "--chunks", "2"]) == 0
    assert "Final estimate" in capsys.readouterr().out
    assert main(["doctor", output, "--no-measure", "--json"]) == 0
    stored = json.loads(capsys.readouterr().out)["model"]["stored_as"]
    assert "I8 → bs2" in stored
