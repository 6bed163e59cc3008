"""The command line with the model that ships, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from edgesparse import _native

ROOT = Path(__file__).parents[2]
EXECUTOR = "native" if _native.available() else "portable"


def test_a_piped_question_prints_only_its_answer():
    done = subprocess.run(
        [sys.executable, "-m", "edgesparse", "chat", "--executor", EXECUTOR],
        input="What is the capital of France?\n",
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout) == (0, "The capital of France is Paris.\n")
    assert done.stderr == ""
