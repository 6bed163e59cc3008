"""Mutants of the tiny models through the whole path, in a process that must survive them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(first: int, count: int, folder: Path) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.mutants", str(first), str(count), str(folder)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    current = folder / "current"
    number = current.read_text() if current.exists() else "none"
    assert done.returncode == 0, f"mutant {number}: exit {done.returncode}\n{done.stderr[-2000:]}"
    tally: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return tally


def check(tally: dict[str, int], count: int) -> None:
    assert tally.pop("slow", 0) == 0
    assert set(tally) == {"ran", "refused"}, tally
    assert sum(tally.values()) == count
    assert min(tally.values()) > count // 5  # both outcomes are really exercised


def test_500_mutants(tmp_path: Path) -> None:
    check(run(0, 500, tmp_path), 500)


@pytest.mark.slow
def test_5000_mutants(tmp_path: Path) -> None:
    check(run(10_000, 5_000, tmp_path), 5_000)
