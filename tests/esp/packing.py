"""Makes pre-packed files of the tiny models, and takes them apart."""

from __future__ import annotations

import subprocess
import zlib
from pathlib import Path

import numpy as np

import edgesparse
from edgesparse.checkpoint import open_checkpoint
from edgesparse.esp import write_esp
from edgesparse.model import Model

ROOT = Path(__file__).parents[2]
PROMPT = [3, 141, 59, 26, 5]


def pack(source: Path | str, path: Path, **options: object) -> Path:
    """Convert a model."""
    layout = str(options.get("i2s_layout", "auto"))
    with (
        edgesparse.load(source, threads=2, **options) as model,  # type: ignore[arg-type]
        open_checkpoint(source, i2s_layout=layout) as checkpoint,
    ):
        write_esp(model, checkpoint, path)
    return path


def greedy(model: Model, prompt: list[int], n_tokens: int) -> list[str]:
    """Continue a prompt; a line for every token, as es_run prints it."""
    cache, begin, new, lines = model.engine.new_cache(), 0, prompt, []
    for _ in range(n_tokens):
        logits = model.engine.forward(cache, new, begin)
        begin += len(new)
        new = [int(np.argmax(logits[0]))]
        lines.append(f"{new[0]} {zlib.crc32(logits.tobytes()):08x}")
    return lines


def es_run(program: list[str], path: Path, prompt: list[int], *options: str) -> list[str]:
    """Run the C runner; its lines."""
    command = [*program, str(path), *options, *map(str, prompt)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return done.stdout.split("\n")[:-1]
