"""The tiny models are what their script makes, and as small as promised."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from tests.models import tiny


def digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".gguf", ".safetensors", ".json"):
            key = str(path.relative_to(folder))
            found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def test_the_script_makes_the_same_bytes(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-B", str(tiny.FOLDER / "make_tiny.py"), str(tmp_path)],
        check=True,
        timeout=60,
    )
    made = digests(tmp_path)
    assert len(made) == 36
    assert made == digests(tiny.FOLDER)


def test_they_are_small_and_all_listed() -> None:
    sizes = [path.stat().st_size for path in tiny.files()]
    assert len(sizes) == 36
    assert sum(sizes) < 4_500_000
    on_disk = {p.name for p in tiny.FOLDER.iterdir() if p.suffix in (".gguf", "")}
    assert on_disk - {"__pycache__"} == set(tiny.NAMES)
