"""What the installed package promises before any model is opened."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import edgesparse

ROOT = Path(__file__).parents[2]
# Modules that only the verb or the executor in need of them may load.
HEAVY = [
    *("numba", "llvmlite", "gguf", "tokenizers", "sentencepiece", "jinja2", "rich"),
    *("prompt_toolkit", "cffi", "_cffi_backend"),
]


def test_one_version() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r'^version = "(.+)"$', text, re.MULTILINE) == [edgesparse.__version__]


def test_a_32_bit_python_is_told_why() -> None:
    code = "import sys; sys.maxsize = 2**31 - 1; import edgesparse"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ImportError: edgesparse needs a 64-bit Python" in done.stderr


@pytest.mark.parametrize("module", ["edgesparse", "edgesparse._native", "edgesparse.errors"])
def test_import_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
