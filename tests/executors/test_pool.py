"""The native pool under a busy neighbour: every step ends, whatever the number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

DECODE = """
import sys
import numpy as np
import edgesparse

threads, path = int(sys.argv[1]), sys.argv[2]
with edgesparse.load(path, threads=threads) as model:
    engine, digest = model.engine, 0
    for _ in range(2):
        cache = engine.new_cache()
        for position in range(150):
            row = engine.forward(cache, [(position * 37) % 300], position)
            digest = (digest * 31 + int(row.view(np.uint32).sum(dtype=np.uint64))) % 2**61
print(digest)
"""
BUSY = "while True: pass"


@pytest.mark.parametrize("name", ["bitnet-tq1_0.gguf", "llama-floats.gguf"])
def test_300_steps_finish(name: str) -> None:
    path = str(ROOT / "models" / "tiny" / name)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    neighbours = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(2)]
    digests = []
    try:
        for threads in (1, 2, 3, 4):
            done = subprocess.run(
                [sys.executable, "-c", DECODE, str(threads), path],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            digests.append(int(done.stdout))
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    assert len(digests) == 4
    assert len(set(digests)) == 1
