"""The compile cache: reused when nothing changed, dropped when any kernel source did."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import numpy as np
from edgesparse.portable.ternary import dot
total = dot(np.ones(8, np.uint8), np.ones(8, np.int8))
print(total, sum(dot.stats.cache_hits.values()), sum(dot.stats.cache_misses.values()))
"""


def run(package: Path, cache: Path) -> list[int]:
    # Without `site` (-S), an editable install cannot put the checkout before the copy.
    path = os.pathsep.join([str(package), *filter(None, sys.path)])
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": path}
    command = [sys.executable, "-B", "-S", "-c", PROGRAM]
    done = subprocess.run(
        command, cwd=package, env=environment, capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


def test_cache(tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "edgesparse", tmp_path / "edgesparse", ignore=ignore)
    cache = tmp_path / "cache"
    assert run(tmp_path, cache) == [8, 0, 1]
    assert run(tmp_path, cache) == [8, 1, 0]
    # A helper in another file is inlined: its change must not leave the old code in use.
    with (tmp_path / "edgesparse/portable/numerics.py").open("a", encoding="utf-8") as file:
        file.write("\n# changed\n")
    assert run(tmp_path, cache) == [8, 0, 1]
    assert run(tmp_path, cache) == [8, 1, 0]
    # Others could plant code there, so it is not read.
    cache.chmod(0o777)
    assert run(tmp_path, cache) == [8, 0, 1]
    # No folder can be made below a file.
    (tmp_path / "file").touch()
    assert run(tmp_path, tmp_path / "file" / "cache") == [8, 0, 1]
